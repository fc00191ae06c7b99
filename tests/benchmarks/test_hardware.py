"""``bench hardware``: one collection, a policy for each machine, run on all of them, and live on this one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl import cli
from radar_rl.benchmarks import hardware
from radar_rl.benchmarks.experiment import ROWS
from radar_rl.benchmarks.hardware_figures import live_figures
from radar_rl.benchmarks.hardware_report import WIDTH, _speeds, live_table
from radar_rl.benchmarks.live import ALONE
from radar_rl.configs import load
from radar_rl.console import wide_console
from radar_rl.offline import tuning
from radar_rl.speculative import HardwareProfile
from radar_rl.speculative.pair import pair_identities

SMALL = ["steps=20", "batch_size=64", "seeds=[0]", "resamples=100"]
TWO = ["hardware=[share_06,share_20]", *SMALL]


@pytest.fixture(autouse=True)
def few_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning all kinds of rules for every machine takes longer than all the rest."""
    monkeypatch.setattr(tuning, "RULES", {name: tuning.RULES[name] for name in ("threshold", "p-min")})


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "traces", make_trace(prompts=40, new_tokens=40, tasks=("only",)))


def command(traces: Path, out: Path, *more: str) -> list[str]:
    return ["bench", "hardware", f"traces={traces}", f"out={out}", *TWO, *more]


def test_each_policy_runs_on_every_machine(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(command(traces, out)) == 0
    printed = capsys.readouterr().out
    for words in ("trained", "share_06", "share_20", "configs/hardware/share_20.yaml", "nobody has published"):
        assert words in printed
    assert "live beside replay" not in printed  # this machine is not among them
    assert (out / "hardware.png").stat().st_size > 5_000
    rows = pl.read_parquet(out / "measurements.parquet")
    matrix = {(row["trained_for"], row["hardware"]): row["gain"] for row in of_stage(rows, "matrix")}
    assert len(matrix) == 4
    for machine, other in (("share_06", "share_20"), ("share_20", "share_06")):
        on = {row["who"]: row for row in of_stage(rows, "replay") if row["hardware"] == machine}
        assert list(on) == ["tuned static", "best rule", "trained for it", "trained for others", "oracle"]
        assert on["tuned static"]["gain"] == 0
        assert on["trained for it"]["gain"] == matrix[machine, machine]
        assert on["trained for others"]["gain"] == matrix[other, machine]
        assert on["oracle"]["gain"] == max(row["gain"] for row in on.values())
        assert on["oracle"]["oracle_gap_closed"] == 1
        assert on["best rule"]["low"] < on["best rule"]["gain"] < on["best rule"]["high"]
    about = json.loads((out / "experiment.json").read_text())
    assert about["complete"]
    assert about["settings"]["data"]
    assert about["results"]["machines"]["share_20"]["draft_seconds"] == [2.0e-3]


def of_stage(rows: pl.DataFrame, stage: str) -> list[dict[str, Any]]:
    return rows.filter(pl.col("stage") == stage).to_dicts()


def test_a_killed_run_goes_on_and_does_nothing_twice(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = hardware.Experiment.add, list[dict[str, Any]]()

    def killed(work: hardware.Experiment, **row: Any) -> None:
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(row)
        add(work, **row)

    with monkeypatch.context() as patch:
        patch.setattr(hardware.Experiment, "add", killed)
        assert cli.main(command(traces, tmp_path / "out")) == 130
    capsys.readouterr()
    assert cli.main(command(traces, tmp_path / "out")) == 0
    assert capsys.readouterr().out.count("trained already") == 2
    rows = pl.read_parquet(tmp_path / "out/measurements.parquet")
    assert rows.height == 2 * 5 + 4
    monkeypatch.delattr(hardware, "evaluate")
    assert cli.main(command(traces, tmp_path / "out")) == 0
    assert cli.main(command(traces, tmp_path / "out", "steps=30")) == 2
    assert "steps=20 there, 30 here" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [9, 10, 12, 13])
def test_one_killed_between_any_two_rows_has_all_of_them_at_last(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    done: list[str] = []

    def trained(**named: Any) -> None:
        done.append(named["out"])

    machines = ("share_06", "share_20")
    made = [{"stage": "replay", "hardware": on, "who": who} for on in machines for who in "abcde"]
    cells = [{"stage": "matrix", "trained_for": one, "hardware": on} for one in machines for on in machines]
    monkeypatch.setattr(hardware, "train", trained)
    monkeypatch.setattr(hardware, "_evaluate", lambda *given: None)
    monkeypatch.setattr(hardware, "replay_rows", lambda *given: made)
    monkeypatch.setattr(hardware, "matrix_rows", lambda *given: cells)
    monkeypatch.setattr(hardware, "_told", lambda work, *given: work.finish())
    out = tmp_path / "out"
    assert cli.main(command(traces, out)) == 0
    whole = (out / ROWS).read_text()
    (out / ROWS).write_text("".join(whole.splitlines(keepends=True)[:kept]))
    assert cli.main(command(traces, out)) == 0
    assert (out / ROWS).read_text() == whole


def test_runs_that_are_missing_are_trained_again_and_no_others(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, two = tmp_path / "out", "seeds=[0,1]"
    train, begun = hardware.train, list[str]()

    def killed(**named: Any) -> dict[str, Any]:
        begun.append(named["out"])
        if len(begun) == 4:
            raise KeyboardInterrupt
        return train(**named)

    with monkeypatch.context() as patch:
        patch.setattr(hardware, "train", killed)
        assert cli.main(command(traces, out, two)) == 130
    (out / "runs/share-06/seed-1/run.json").unlink()  # killed before it was whole
    shutil.rmtree(out / "runs/share-20/seed-0")
    capsys.readouterr()
    assert cli.main(command(traces, out, two)) == 0
    assert capsys.readouterr().out.count("trained already") == 1
    rows = pl.read_parquet(out / "measurements.parquet")
    assert {row["policy"] for row in of_stage(rows, "replay") if row["who"] == "trained for it"} == {"mean of 2"}
    shutil.rmtree(out / "runs/share-20/seed-1")
    assert cli.main(command(traces, out, two)) == 0
    assert capsys.readouterr().out.count("trained already") == 3
    assert pl.read_parquet(out / "measurements.parquet").equals(rows)
    (out / ROWS).unlink()
    assert cli.main(command(traces, out, two)) == 0  # the run that was trained again is the one that was lost
    assert pl.read_parquet(out / "measurements.parquet").equals(rows)
    weights = out / "runs/share-06/seed-0/policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (out / ROWS).unlink()
    assert cli.main(command(traces, out, two)) == 2
    assert f"{weights} is not the file" in capsys.readouterr().err


def test_another_profile_in_the_same_file_is_refused(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def began(*given: Any) -> None:
        begun.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(hardware, "_train", began)
    machine = tmp_path / "mine.json"
    for profile in (HARDWARE, HARDWARE, replace(HARDWARE, rest_seconds=0.1)):
        profile.save(machine)
        code = cli.main([*command(traces, tmp_path / "out"), f"hardware=[share_06,{machine}]"])
    assert (len(begun), code) == (2, 2)
    told = capsys.readouterr().err
    assert "settings (hardware=" in told
    assert f"{machine} (sha256 " in told


def test_this_machine_decodes_live_beside_the_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = tmp_path / "out", load("model", "pocket")
    target, _ = pair_identities(model["target"], model["draft"])
    replace(HARDWARE, name=f"{target} on a machine measured before").save(out / "hardware.json")
    small = ["tasks=[arithmetic,dialogue]", "limit=6", "max_new_tokens=12", "held_out=0.5", "live=1", *SMALL]
    assert cli.main(["bench", "hardware", "hardware=[null,share_20]", f"out={out}", *small]) == 0
    printed = capsys.readouterr().out
    assert "live beside replay: 2 held-out texts" in printed
    assert "6 of 6 texts are the target's own, 6 have the very rounds of the replay" in printed
    assert "trained for this machine" in printed
    live = json.loads((out / "experiment.json").read_text())["results"]["live"]
    assert live[0]["policy"] == "autoregressive"
    assert [row["policy"] for row in live][2:] == ["trained for this machine", "trained for share_20"]
    alone, static = live[:2]
    assert alone["replayed"] == pytest.approx(1 / HARDWARE.autoregressive_seconds)  # type: ignore[operator]
    assert alone["replayed_speedup"] == alone["live_speedup"] == 1
    assert static["error"] == pytest.approx(static["replayed"] / static["live"] - 1)
    rows = pl.read_parquet(out / "measurements.parquet").filter(pl.col("text").is_not_null())
    assert rows.height == 2 * 4
    assert rows["as_traced"].all()
    assert rows.group_by("text").agg(pl.col("tokens").n_unique())["tokens"].to_list() == [1, 1]


def test_live_figures_of_nothing_are_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"tokens": 4, "rounds": 2, "draft_calls": 6, "seconds": 2.0, "replayed_seconds": 1.0}
    same = {"same_text": True, "same_rounds": True}
    texts = pl.DataFrame(
        [{"policy": ALONE, **counts, **same, "rounds": 0, "draft_calls": 0, "replayed_seconds": None}]
        + [{"policy": "static-3", **counts, **same}, {"policy": "ended", **dict.fromkeys(counts, 0), **same}],
        strict=False,
    )
    told = {row["policy"]: row for row in live_figures(texts)}
    assert told["static-3"]["error"] == 1
    assert told["static-3"]["live_speedup"] == 1
    assert told["static-3"]["speedup_error"] is None  # the profile does not know the target alone
    for name in ("tau", "live", "replayed", "error", "live_speedup", "replayed_speedup", "speedup_error"):
        assert told["ended"][name] is None
    json.dumps(list(told.values()), allow_nan=False)
    wide_console(WIDTH).print(live_table(list(told.values())))
    assert "–" in capsys.readouterr().out
    axes = Figure().subplots()
    _speeds(axes, list(told.values()))


def test_what_cannot_be_retargeted_is_refused(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share = HardwareProfile.from_mapping(load("hardware", "share_06"), "share_06")
    share.save(tmp_path / "another.json")
    for wrong, told in (
        (f"hardware=[share_06,{tmp_path}/another.json]", f"two machines are called {share.name}"),
        ("hardware=[share_06]", "at least two machines"),
        ("hardware=[share_06,share_06]", "two machines are called share_06"),
        ("hardware=[share_06,abacus]", "no profile of that name"),
        ("seeds=[]", "seeds: expected at least one"),
        ("live=-1", "live: expected a whole number ≥ 0"),
        ("size=huge", "huge"),
    ):
        assert cli.main([*command(traces, tmp_path / "out"), wrong]) == 2
        assert told in capsys.readouterr().err
        (tmp_path / "out/experiment.json").unlink(missing_ok=True)
