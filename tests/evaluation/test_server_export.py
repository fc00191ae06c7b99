"""The verb: a line to paste, figures beside it, and named errors that say how to get what is missing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_trace import HARDWARE, MadeTrace, as_chains, make_trace, write_collection

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.export import export
from radar_rl.offline.run import load_run
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.rollouts.split import held_out
from radar_rl.runtime.artifact import load_policy
from radar_rl.speculative.hardware import HardwareProfile

CHAINS = ["vllm", "llama.cpp", "transformers"]


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, trace: MadeTrace) -> Path:
    return write_collection(tmp_path_factory.mktemp("chains"), as_chains(trace), part_size=20)


def asked(name: str, traces: Path, hardware: Path, **changes: Any) -> dict[str, Any]:
    return {"out": None, "run": None, "format": name, "traces": str(traces), "hardware": str(hardware)} | changes


@pytest.mark.parametrize("name", [*CHAINS, "sglang"])
def test_the_line_is_printed_and_written_with_its_figures_and_sources(
    chains: Path, hardware_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    export(**asked(name, chains, hardware_file, out=str(tmp_path / "out")))
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "server.json").read_text())
    assert f"Paste:\n{record['line']}\n" in printed
    assert not record["leave_off"]
    assert "leave speculation off here" not in printed
    assert all(f"{flag}: {told['meaning']}" in printed for flag, told in record["sources"].items())
    assert all(told["source"] in printed for told in record["sources"].values())
    assert f"{record['tokens_per_second']:.1f}" in printed
    assert record["tokens_per_second"] in [one["tokens_per_second"] for one in record["by_depth"]]
    assert (record["trace"]["top_k"], record["hardware"]["name"], record["held_out"]) == (1, "synthetic", 0.3)
    assert record["data_hash"]
    assert bool(record["batches"]) == (name in ("vllm", "sglang"))
    if name == "sglang" and "--speculative-adaptive" in record["line"]:
        table = json.loads((tmp_path / "out" / "adaptive.json").read_text())
        assert json.dumps(table) in " ".join(printed.split())
        assert all(len(slot["candidate_steps"]) == 1 for slot in table.values())


@pytest.mark.parametrize("name", [*CHAINS, "sglang"])
def test_where_the_target_alone_is_faster_that_is_said_first(
    chains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    replace(HARDWARE, draft_seconds=(1.0,) * 8).save(tmp_path / "slow.json")
    export(**asked(name, chains, tmp_path / "slow.json", out=str(tmp_path / "out")))
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "server.json").read_text())
    assert record["leave_off"]
    assert "Paste" not in printed
    off = printed.index("leave speculation off here; nothing to paste")
    assert off < printed.index(f"The best setting all the same:\n{record['line']}\n")
    by_size = printed[printed.index("by texts decoded at once") : off] if name in ("vllm", "sglang") else ""
    assert ("the target alone is faster" in " ".join(by_size.split())) == (name == "sglang")
    assert ("no drafting" in by_size) == (name == "vllm")


def test_the_embedded_head_is_a_placeholder(trace: MadeTrace, hardware_file: Path, tmp_path: Path, capsys) -> None:
    made = as_chains(trace)
    pastes = {"pocket": "DRAFT_HEAD", "pocket-eagle2": "DRAFT_HEAD", "folder": "folder", "some/HEAD": "some/HEAD"}
    for name, pasted in pastes.items():
        named = replace(made, settings=replace(made.settings, draft=f"{name}@1"))
        traces = write_collection(tmp_path / name, named, part_size=20)
        export(**asked("vllm", traces, hardware_file))
        printed = " ".join(capsys.readouterr().out.split())
        assert f'"model": "{pasted}"' in printed
        note = f"Note: {pasted} stands for where vLLM has the draft head, {name} in the trace"
        assert (note in printed) == ("/" not in name)


def test_a_learned_policy_is_told_beside_on_the_same_texts(
    collection: Path, chains: Path, trace: MadeTrace, hardware_file: Path, runs: dict[str, Path], tmp_path: Path, capsys
) -> None:
    run = runs["bc-again"]
    beside = {"run": str(run), "out": str(tmp_path / "out")}
    away = held_out(trace.sequences.prompt_id, load_run(run).held_out)
    machine = HardwareProfile.load(hardware_file)
    speed = walk_policy(Outcomes.of(trace.select(away), machine), load_policy(run)).tokens_per_second
    for traces, more in ((collection, {}), (chains, {"run_traces": str(collection)})):
        export(**asked("sglang", traces, hardware_file, **beside, **more))
        record = json.loads((tmp_path / "out" / "server.json").read_text())
        assert record["learned"]["tokens_per_second"] == pytest.approx(speed)
        assert record["held_out"] == 0.2  # the run's own split counts
        assert f"learned: {record['learned']['policy']}" in capsys.readouterr().out
    with pytest.raises(TraceError, match=r"reads traces of max_depth=8 and top_k=10, not .*: run_traces=FOLDER"):
        export(**asked("vllm", chains, hardware_file, **beside))
    others = write_collection(tmp_path / "others", make_trace(prompts=40, new_tokens=30, seed=9))
    with pytest.raises(TraceError, match=r"run_traces: .* lacks texts of"):
        export(**asked("vllm", chains, hardware_file, **beside, run_traces=str(others)))


@pytest.mark.parametrize("name", CHAINS)
def test_a_trace_of_trees_is_refused_with_the_way_to_chains(collection: Path, hardware_file: Path, name: str) -> None:
    with pytest.raises(
        TraceError, match=rf"drafts chains.*top_k=10 .* collect texts_of={collection} top_k=1 tree_size=9 max_depth=8"
    ):
        export(**asked(name, collection, hardware_file))


def test_what_cannot_be_is_said(
    chains: Path, collection: Path, hardware_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        (asked("vlm", chains, hardware_file), ConfigError, "expected artifact, vllm, sglang, llama.cpp, transformers"),
        (
            asked("vllm", chains, hardware_file) | {"hardware": None},
            ConfigError,
            "hardware=PROFILE, measured where vLLM runs",
        ),
        (asked("vllm", chains, hardware_file) | {"traces": None}, ConfigError, "traces=FOLDER"),
        (asked("vllm", chains, hardware_file, held_out=1.0), ConfigError, "held_out"),
        (asked("vllm", chains, hardware_file, batches=[2, 4]), ConfigError, "increasing from 1"),
        (asked("vllm", chains, hardware_file, batches=[1, 1]), ConfigError, "increasing from 1"),
        (asked("llama.cpp", chains, hardware_file, head="eagle2"), ConfigError, "llama.cpp drafts with eagle3"),
        (asked("vllm", chains, hardware_file, held_out=0.999), TraceError, "to tune settings on"),
        (asked("vllm", chains, hardware_file, held_out=0.001), TraceError, "to predict on"),
        ({"run": None, "out": "x"}, ConfigError, "give run=…"),
        ({"run": "x", "out": None}, ConfigError, "give out=…"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            export(**arguments)
    plain = as_chains(make_trace(prompts=20, new_tokens=20))
    plain = replace(plain, settings=replace(plain.settings, features=()), features={})
    bare = write_collection(tmp_path / "bare", plain)
    export(**asked("llama.cpp", bare, hardware_file))
    assert "probabilities were not tried" in " ".join(capsys.readouterr().out.split())


def test_a_serving_machine_exports_artifacts_without_what_replaying_needs() -> None:
    code = (
        "import sys, radar_rl.evaluation.export; print({'polars', 'pyarrow', 'd3rlpy', 'gymnasium'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_artifact_is_exported_as_ever(runs: dict[str, Path], tmp_path: Path) -> None:
    export(run=str(runs["bc"]), out=str(tmp_path / "policy"))
    assert load_policy(tmp_path / "policy").name == load_policy(runs["bc"]).name
