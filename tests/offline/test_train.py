import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wandb

from radar_rl import cli
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.offline.run import load_run
from radar_rl.offline.train import train
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import LearnedPolicy, ObservationSpec, StaticDepth
from radar_rl.rollouts.rollout import rollout
from radar_rl.rollouts.split import held_out, learned_from, validated_on
from radar_rl.runtime.artifact import read_config


def arguments(collection: Path, hardware_file: Path, out: Path, **changes) -> dict:
    return {
        "out": str(out),
        "traces": str(collection),
        "rollouts": None,
        "algo": {"name": "bc"},
        "behaviour": None,
        "episode": "sequence",
        "reward": {"kind": "throughput", "rate": None},
        "hardware": str(hardware_file),
        "held_out": 0.3,
        "steps": 40,
        "batch_size": 64,
        "seed": 0,
        "model": {},
        "wandb": "disabled",
        "tree_size": None,
    } | changes


def log(collection: Path, hardware_file: Path, out: Path, policy: str) -> None:
    """Rollouts of a replay."""
    rollout(
        out=str(out),
        env="replay",
        policy=policy,
        model={},
        reward={"kind": "throughput"},
        traces=str(collection),
        tasks=[],
        task={},
        hardware=str(hardware_file),
    )


def test_a_run_records_what_it_takes_to_repeat_and_to_judge_it(
    collection: Path, hardware_file: Path, tmp_path: Path, outcomes: Outcomes
) -> None:
    train(**arguments(collection, hardware_file, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    about = run.about
    assert run.name == "bc"
    assert run.held_out == 0.3
    assert about["arguments"]["behaviour"] == "oracle"
    assert about["trace"]["target"] == "target@0"
    assert about["hardware"]["name"] == "synthetic"
    assert 1 <= about["best_static_depth"] <= 8
    assert about["training_seconds"] > 0
    assert set(about["versions"]) >= {"radar_rl", "d3rlpy", "torch"}
    curve = pl.read_parquet(tmp_path / "run" / "curve.parquet")
    assert curve["step"].to_list() == list(range(2, 41, 2))
    assert curve["tokens_per_second"].is_not_null().all()
    depths = run.policy.stop_depths(outcomes.trace.confidences)  # type: ignore[attr-defined]
    assert len(depths) == len(outcomes.trace)
    exported = read_config(tmp_path / "run")
    assert exported["best_static_depth"] == about["best_static_depth"]
    assert (exported["max_depth"], exported["top_k"], exported["tree_size"]) == (8, 10, 60)


def test_held_out_prompts_are_not_learned_from(collection: Path, hardware_file: Path, tmp_path: Path, trace) -> None:
    few = train(**arguments(collection, hardware_file, tmp_path / "few", held_out=0.6, algo={"name": "cql"}))
    training = trace.select(~held_out(trace.sequences.prompt_id, 0.6))
    assert few["transitions"] == 14 * int((~training.censored).sum())


def test_a_share_of_the_training_prompts_is_learned_from(
    collection: Path, hardware_file: Path, tmp_path: Path, trace
) -> None:
    some = train(**arguments(collection, hardware_file, tmp_path / "some", share=0.5))
    kept = learned_from(trace.sequences.prompt_id, 0.3, 0.5)
    assert some["positions"] == len(trace.select(kept)) < len(trace.select(~held_out(trace.sequences.prompt_id, 0.3)))


def test_the_same_seed_gives_the_same_policy(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(**arguments(collection, hardware_file, tmp_path / name))
    weights = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_what_is_trained_already_is_left_and_another_run_is_not_written_over(
    collection: Path, hardware_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(collection, hardware_file, tmp_path / "run")
    first = train(**given)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    again = train(**given)
    assert "trained already" in capsys.readouterr().out
    assert again["training_seconds"] == first["training_seconds"]
    with pytest.raises(ConfigError, match=r"seed: 0 there, 1 now"):
        train(**given | {"seed": 1})
    with pytest.raises(ConfigError, match="steps"):
        train(**given | {"steps": 3, "overwrite": True})
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == files
    train(**given | {"seed": 1, "overwrite": True})
    assert load_run(tmp_path / "run").about["arguments"]["seed"] == 1


def test_the_policy_is_validated_on_training_prompts_that_it_did_not_learn_from(
    collection: Path, hardware_file: Path, tmp_path: Path, trace, outcomes: Outcomes
) -> None:
    about = train(**arguments(collection, hardware_file, tmp_path / "run", validation=0.4))
    apart = Outcomes.of(trace.select(validated_on(trace.sequences.prompt_id, 0.3, 0.4)), outcomes.hardware)
    reached, base = (
        walk_policy(apart, policy).tokens_per_second
        for policy in (load_run(tmp_path / "run").policy, StaticDepth(about["best_static_depth"]))
    )
    assert about["validation_tokens_per_second"] == pytest.approx(reached)
    assert about["validation_gain"] == pytest.approx(reached / base - 1)
    assert about["positions"] == len(trace.select(learned_from(trace.sequences.prompt_id, 0.3, 1.0, 0.4)))


def test_rollouts_are_learned_from(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    log(collection, hardware_file, tmp_path / "log", "random:0.7")
    about = train(
        **arguments(
            collection, hardware_file, tmp_path / "run", traces=None, rollouts=str(tmp_path / "log"),
            algo={"name": "iql"}, hardware=None,
        )
    )  # fmt: skip
    run = load_run(tmp_path / "run")
    assert run.about["trace"]["target"] == "target@0"
    assert run.about["arguments"]["behaviour"] == "logged: random:0.7"
    assert run.about["arguments"]["newest"] == 1  # the default, of the 8 calls that were logged
    assert isinstance(run.policy, LearnedPolicy)
    made = run.policy.spec
    assert made == ObservationSpec(made.max_depth, made.top_k, floor=made.floor, newest=1)
    assert about["hardware"]["name"] == "synthetic"


def test_rollouts_show_no_more_calls_than_were_logged(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    log(collection, hardware_file, tmp_path / "log", "random:0.7")
    given = {"traces": None, "rollouts": str(tmp_path / "log"), "hardware": None}
    for newest, size in ((None, 81), (8, 81), (3, 31)):
        out = tmp_path / f"run-{newest}"
        train(**arguments(collection, hardware_file, out, newest=newest, **given))
        policy = load_run(out).policy
        assert isinstance(policy, LearnedPolicy)
        assert (policy.spec.newest, policy.spec.size) == (newest, size)
    with pytest.raises(ConfigError, match="newest: the observations show 8 draft calls, got 9"):
        train(**arguments(collection, hardware_file, tmp_path / "none", newest=9, **given))


def test_what_a_policy_logged_of_the_newest_calls_it_saw_is_recorded_as_such(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    train(**arguments(collection, hardware_file, tmp_path / "first", newest=2))
    log(collection, hardware_file, tmp_path / "log", str(tmp_path / "first"))
    given = {"traces": None, "rollouts": str(tmp_path / "log"), "hardware": None, "newest": None}
    about = train(**arguments(collection, hardware_file, tmp_path / "second", **given))
    policy = load_run(tmp_path / "second").policy
    assert isinstance(policy, LearnedPolicy)
    assert policy.spec.newest == about["arguments"]["newest"] == 2


def test_wandb_offline_needs_no_account(
    collection: Path,
    hardware_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    train(**arguments(collection, hardware_file, tmp_path / "run", wandb="offline"))
    printed = capfd.readouterr()
    assert [line.split()[0] for line in (printed.out + printed.err).splitlines()] == ["train:", "training"]
    wandb.teardown()  # as at the process's end: what is still on its way is written
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    (table,) = (tmp_path / "run").glob("wandb/offline-run-*/files/media/table/results_*.table.json")
    results = json.loads(table.read_text())
    assert results["data"][0][results["columns"].index("algorithm")] == "bc"
    # Records one after the other, names as they are, in blocks of 32 KiB that a name may be cut by.
    kept = file.read_bytes()
    for name in (b"tokens_per_second", b"batch_size", b"training_gain", b"table-file", b"policy.safetensors"):
        cuts = [name[:i] + rb".{7}" + name[i:] for i in range(1, len(name))]
        assert re.search(b"|".join([name, *cuts]), kept, re.DOTALL), name


def test_in_a_sweep_one_that_diverges_is_named_and_the_others_are_trained(
    collection: Path, hardware_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["algo.learning_rate=1e30,1e-3", "algo=bc", "steps=60", "batch_size=32"]
    where = [f"traces={collection}", f"hardware={hardware_file}", f"out={tmp_path}/${{algo.learning_rate}}"]
    assert cli.main(["train", "-m", *sweep, *where, f"hydra.sweep.dir={tmp_path}/sweep"]) == 2
    errors = capsys.readouterr().err
    assert "radar-rl train: algo.learning_rate=1e+30: algo=bc diverged in epoch 1: " in errors
    assert "1 of 2 jobs failed, the others are done" in errors
    assert [folder.parent.name for folder in tmp_path.glob("*/run.json")] == ["0.001"]
    assert not (tmp_path / "1e+30").exists()


def test_an_action_never_taken_is_told(
    collection: Path, hardware_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log(collection, hardware_file, tmp_path / "log", "static:3")
    changes = {"traces": None, "rollouts": str(tmp_path / "log"), "hardware": None}
    train(**arguments(collection, hardware_file, tmp_path / "run", **changes, algo={"name": "cql"}))
    assert "never takes stop after draft call 1, 2; algo=cql: its conservative term pushes" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traces": None}, "exactly one"),
        ({"rollouts": "x"}, "exactly one"),
        ({"behaviour": "greedy"}, "valid: full, uniform, static"),
        ({"episode": "text"}, "valid: sequence, round"),
        ({"algo": {"name": "dqn"}}, "valid: cql, iql, bc"),
        ({"reward": {"kind": "radar"}}, "episode=round"),
        ({"held_out": 1.0}, "held_out"),
        ({"share": 0.0}, "share"),
        ({"asks_from": 9}, "draft calls 1 … 8"),
        ({"algo": {"name": "radar"}, "asks_from": 3}, "decides after every draft call"),
        ({"validation": 1.0}, "validation"),
        ({"traces": None, "rollouts": "x", "validation": 0.1}, "needs traces"),
        ({"steps": 3}, "steps"),
        ({"wandb": "maybe"}, "valid: disabled, offline, online"),
    ],
)
def test_wrong_settings_are_named(collection: Path, hardware_file: Path, tmp_path: Path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        train(**arguments(collection, hardware_file, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_missing_trace_and_a_tree_larger_than_collected(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match="collect"):
        train(**arguments(tmp_path / "nowhere", hardware_file, tmp_path / "run"))
    with pytest.raises(TraceError, match="tree_size"):
        train(**arguments(collection, hardware_file, tmp_path / "run", tree_size=61))


def test_a_folder_without_a_finished_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="radar-rl train"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InputError, match="lacks"):
        load_run(tmp_path)


def test_rounds_with_radars_reward(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    changes = {"reward": {"kind": "radar"}, "episode": "round", "algo": {"name": "cql"}}
    about = train(**arguments(collection, hardware_file, tmp_path / "run", **changes))
    assert np.isfinite(about["rate"])


def test_radars_network_reads_every_call_and_its_record_says_so(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    settings = {"name": "radar", "lstm_hidden": 12, "mlp_hidden": 16}
    about = train(**arguments(collection, hardware_file, tmp_path / "run", algo=settings, episode="round"))
    assert about["arguments"]["newest"] is None
