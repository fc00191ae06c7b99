"""Bad input at the command line, through the real verbs: one line that names it, exit code 2, nothing half done."""

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic_trace import make_trace, write_collection

from radar_rl import cli
from radar_rl.errors import FallbackWarning

SAMPLE = str(resources.files("radar_rl") / "datasets" / "sample" / "traces")


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, briefly, on the sample."""
    run = tmp_path_factory.mktemp("runs") / "run"
    quick = ["hardware=pocket_cpu", "steps=20", "batch_size=32"]
    assert cli.main(["train", f"traces={SAMPLE}", "algo=bc", *quick, f"out={run}"]) == 0
    return run


def fails(capfd: pytest.CaptureFixture[str], *command: str) -> str:
    """Run a command that must fail; its one line."""
    capfd.readouterr()
    assert cli.main(list(command)) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith(f"radar-rl {command[0]}: ")
    return line


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["train", "traces=x", "out=y", "stepz=3"], "did you mean 'steps'"),
        (["train", "traces=x", "out=y", "bogus=3"], "unknown key 'bogus'; valid: "),
        (["collect", "task.path=nowhere.jsonl", "out=y"], "nowhere.jsonl"),
        (["collect", "tasks=[gsm8k]", "data_dir=nowhere", "out=y"], "no such folder"),
        (["collect", "top_k=5000", "limit=1", "out=y"], "top_k: expected at most 2048"),
        (["train", "traces=nowhere", "out=y"], "no traces in nowhere"),
        (["train", f"traces={SAMPLE}", "hardware=nowhere", "out=y"], "hardware=nowhere"),
        (["train", f"traces={SAMPLE}", "model=pocket_eagle2", "out=y"], "pocket-eagle2@"),
        (["evaluate", f"traces={SAMPLE}", "model=pocket_eagle2", "out=y"], "allow_other_pair=true"),
        (["evaluate", f"traces={SAMPLE}", "hardware=[pocket_cpu,nowhere]", "out=y"], "hardware=nowhere"),
        (["evaluate", f"traces={SAMPLE}", "hardware=[gpu_fast,gpu_fast]", "out=y"], "names of their own"),
        (["evaluate", f"traces={SAMPLE}", "hardware=[]", "out=y"], "expected FILE, NAME, null, or a list"),
        (
            ["evaluate", f"traces={SAMPLE}", f"tune_traces={SAMPLE}", "hardware=gpu_fast", "out=y"],
            "of its prompts (arithmetic/",
        ),
        (["ope", f"traces={SAMPLE}", "runs=[nowhere]", "out=y"], "no policy in nowhere"),
        (["ope", f"traces={SAMPLE}", "runs=[static:4]", "fqe.steps=3", "out=y"], "fqe.steps: expected a whole"),
        (["ope", f"traces={SAMPLE}", "runs=[static:4]", "fqe.hidden=[a]", "out=y"], "fqe.hidden: expected a list"),
        (["ope", f"traces={SAMPLE}", "runs=[static:4]", "fqe.seed=4294967296", "out=y"], "fqe.seed: expected"),
        (["ope", f"traces={SAMPLE}", "runs=[static:4]", "tree_size=0", "out=y"], "tree_size: expected 2 … 60"),
        (["evaluate", f"traces={SAMPLE}", "tree_size=0", "out=y"], "tree_size: expected 2 … 60"),
        (["evaluate", f"traces={SAMPLE}", "resamples=1", "out=y"], "resamples: expected a whole number ≥ 100"),
        (["train", f"traces={SAMPLE}", "tree_size=0", "out=y"], "tree_size: expected 2 … 60"),
        (["train", f"traces={SAMPLE}", "seed=4294967296", "out=y"], "seed: expected a whole number in [0, 2^32)"),
        (["train", f"traces={SAMPLE}", "reward.rate=0", "out=y"], "reward.rate: expected a finite number > 0"),
        (["rollout", "env=replay", f"traces={SAMPLE}", "policy=static:4", "top_k=7", "out=y"], "top_k=10"),
        (["decode", "--prompt", " "], "empty prompt"),
        (["decode"], "no prompt"),
        (["decode", "--prompt", "word " * 1100], "prompt too long"),
        (["decode", "--prompt", "x", "temperature=.nan"], "temperature"),
        (["decode", "--prompt", "x", "policy=nowhere"], "policy 'nowhere'"),
        (["profile", "repeats=0", "out=y"], "repeats"),
        (["export", "run=nowhere", "out=y"], "no policy at nowhere"),
    ],
)
def test_a_mistake_is_named(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in fails(capfd, *command)


@pytest.mark.parametrize("verb", ["collect", "rollout"])
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (b'{"id": "a", "prompt": "fine"}\n{"id": "b", "answer": "no prompt"}\n', "row 2 (b): expected a prompt"),
        (b'{"id": "a", "prompt": "fine"}\n{"id": "b", "prompt": "\xff\xfe"}\n', "rows.jsonl:2: not UTF-8"),
        (b'{"id": "a", "prompt": "fine"}\n{"id": "a", "prompt": "again"}\n', "row 2: id 'a' occurs twice"),
        (b'{"id": "a", "turns": ["fine", {"role": "user"}]}\n', "row 1 (a): turns: expected text"),
        (b'{"id": "a", "turns": []}\n', "row 1 (a): turns: expected a list of texts, not empty"),
        (b'{"id": "a", "prompt_ids": [1, "2"]}\n', "row 1 (a): prompt_ids must be a list of whole numbers"),
        (b'{"id": "a", "prompt_ids": [1, 99999]}\n', "rows, prompt a: prompt: token id 99999 is outside"),
        (json.dumps({"id": "a", "prompt": "many " * 2000}).encode(), "no prompt fits: "),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rows: bytes, told: str, verb: str
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows)
    assert told in fails(capfd, verb, f"task.path={tmp_path / 'rows.jsonl'}", f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
@pytest.mark.parametrize("part", ["target", "draft"])
def test_a_checkpoint_that_does_not_fit_is_named(
    tiny_pair: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], part: str, damage: str
) -> None:
    folder = tiny_pair[0] if part == "target" else tiny_pair[1]
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt_ids": [4, 6]}\n')
    models = [f"model.target={tiny_pair[0]}", f"model.draft={tiny_pair[1]}"]
    assert name in fails(capfd, "collect", *models, f"task.path={rows}", f"out={tmp_path / 'out'}")


def test_a_policy_of_another_pair_is_refused_unless_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sample_run: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(sample_run, other)
    about = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(about | {"target": "someone-else@0"}))
    replay = ["rollout", "env=replay", f"traces={SAMPLE}", "hardware=pocket_cpu", "episodes=2"]
    assert "someone-else@0" in fails(capfd, *replay, f"policy={other}", f"out={tmp_path / 'a'}")
    assert cli.main([*replay, f"policy={other}", "allow_other_pair=true", f"out={tmp_path / 'b'}"]) == 0
    decode = ["decode", f"policy={other}", "max_new_tokens=8", "--prompt", "Hello."]
    assert "someone-else@0" in fails(capfd, *decode, "strict=true")
    with pytest.warns(FallbackWarning, match="someone-else@0"):  # else it decodes as it would without the policy
        assert cli.main(decode) == 0


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"top_k": 4}, "trained with top_k=10, the trace was collected with 4"),
        ({"max_depth": 5}, "trained with max_depth=8, the trace was collected with 5"),
        ({"tree_size": 30}, "trained for trees of 60 nodes, the trace was collected with 30"),
        ({}, "the trace is of target@0; use that pair's trace, or allow_other_pair=true"),
    ],
)
def test_a_run_and_a_trace_of_different_specs_are_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sample_run: Path, shape: dict[str, int], told: str
) -> None:
    allowed = "allow_other_pair=true" if shape else "allow_other_pair=false"
    other = write_collection(tmp_path / "other", make_trace(prompts=12, new_tokens=20, **shape))
    command = ["evaluate", f"traces={other}", f"runs=[{sample_run}]", "hardware=pocket_cpu", allowed]
    assert told in fails(capfd, *command, f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
