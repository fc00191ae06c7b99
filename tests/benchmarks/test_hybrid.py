"""``bench hybrid``: three draft sources and the target alone over the same prompts, counted by task."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from radar_rl import cli
from radar_rl.benchmarks import live
from radar_rl.benchmarks.experiment import ROWS
from radar_rl.benchmarks.hybrid_report import draw, figures, tables
from radar_rl.benchmarks.live import ALONE
from radar_rl.console import wide_console
from radar_rl.errors import InputError
from radar_rl.policies import StaticDepth
from radar_rl.rollouts.tasks import load_prompts
from radar_rl.runtime.artifact import save_policy

SMALL = ["tasks=[told,mixed/rag]", "max_new_tokens=16", "policy=static:3", "max_depth=4", "resamples=50"]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A folder of two prompt sets: one that repeats its passage, one of two categories."""
    passage = "The ferry leaves at nine and the ferry returns at five, every day but Sunday."
    rows = [{"id": f"q{i}", "context": passage, "prompt": f"Repeat the passage, {i} times."} for i in range(11)]
    for name, lines in (
        ("told", rows),
        ("mixed", [{"prompt": "Hi!", "category": "chat"}, {"prompt": passage, "category": "rag"}]),
    ):
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / "eval.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return tmp_path


def test_acceptance_is_counted_by_task_and_source(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs/hybrid"
    assert cli.main(["bench", "hybrid", f"data_dir={sets}", "limit=11", f"out={out}", *SMALL]) == 0
    printed = capsys.readouterr().out
    for words in ("told", "mixed/rag", "all", "hybrid / head", "1.073×", "36 of 36 texts are the target's own"):
        assert words in printed
    assert "hybrid-speculative-decoding" in printed  # where the published figure is from
    assert (out / "hybrid.png").stat().st_size > 5_000
    rows = pl.read_parquet(out / "measurements.parquet")
    assert rows.height == 12 * 4
    by_source = rows.group_by("policy").agg(pl.col("tokens", "rounds", "draft_calls", "nodes").sum())
    totals = {row["policy"]: row for row in by_source.iter_rows(named=True)}
    assert set(totals) == {"autoregressive", "head", "ngram", "hybrid"}
    assert len({row["tokens"] for row in totals.values()}) == 1
    assert totals["ngram"]["draft_calls"] == 0
    assert totals["head"]["draft_calls"] == 3 * totals["head"]["rounds"]
    assert all(row["nodes"] <= 60 * row["rounds"] for row in totals.values())
    assert totals["hybrid"]["rounds"] <= totals["head"]["rounds"]
    about = json.loads((out / "experiment.json").read_text())
    told = {row["task"]: row for row in about["results"]["by_task"]}
    assert told["told"]["low"] <= told["told"]["ratio"] <= told["told"]["high"]
    assert told["mixed/rag"]["low"] is None
    assert told["all"]["tau"]["head"] == pytest.approx(totals["head"]["tokens"] / totals["head"]["rounds"])
    assert about["published"]["ratio"] == 1.073


def test_a_killed_run_goes_on_and_another_is_refused(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["bench", "hybrid", f"data_dir={sets}", "limit=1", f"out={tmp_path / 'out'}", *SMALL]
    decoded: list[str] = []
    one = live.timed

    def counted(way: live.Way, *rest: object) -> object:
        decoded.append(way.name)
        if len(decoded) == 6:
            raise KeyboardInterrupt
        return one(way, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(live, "timed", counted)
    assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert len(decoded) == 5 + 1 + 3  # five texts are kept, the sixth was cut
    assert sorted(decoded[:4]) == sorted([decoded[4], *decoded[6:]]) == ["autoregressive", "head", "hybrid", "ngram"]
    capsys.readouterr()
    assert cli.main([*command, "seed=1"]) == 2
    assert "seed=0 there, 1 here" in capsys.readouterr().err


def decoded(task: str, prompts: int, tokens: int) -> list[dict[str, Any]]:
    """Rows of texts of so many tokens after the first, half of them rounds; without any no second is timed."""
    return [
        {"policy": policy, "text": f"{task}/{i}", "task": task, "tokens": tokens, "seconds": tokens / 10}
        | {"rounds": tokens // 2, "draft_calls": 0, "nodes": 3 * tokens, "digest": "same"}
        for policy in (ALONE, "head", "ngram", "hybrid")
        for i in range(prompts)
    ]


def test_a_task_without_a_timed_token_has_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = pl.DataFrame(decoded("ended", 12, 0))
    told = figures(pl.DataFrame([*ended.to_dicts(), *decoded("told", 2, 4)]), 100, 0)
    by_task = {row["task"]: row for row in told}
    assert by_task["ended"]["tau"] == {"head": None, "ngram": None, "hybrid": None}
    assert by_task["ended"]["ratio"] is by_task["ended"]["low"] is None
    assert by_task["all"]["ratio"] == by_task["told"]["ratio"] == 1
    assert by_task["all"]["low"] is None  # two prompts that anything is known of
    json.dumps(told, allow_nan=False)
    console = wide_console()
    for table in tables(told, "pocket", 1.073):
        console.print(table)
    [lengths, speeds] = [line for line in capsys.readouterr().out.splitlines() if line.lstrip(" │").startswith("ended")]
    assert lengths.count("–") == 5
    assert speeds.count("–") == 4
    draw(told, "pocket", tmp_path / "drawn.png")
    with pytest.raises(InputError, match="no text has a token after its first"):
        figures(ended, 100, 0)


def test_another_policy_in_the_same_folder_is_refused(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "policy"
    command = ["bench", "hybrid", f"data_dir={sets}", "limit=1", f"out={tmp_path / 'out'}", *SMALL, f"policy={made}"]
    save_policy(made, StaticDepth(3), {})
    assert cli.main(command) == 0
    rows = (tmp_path / "out" / ROWS).read_text()
    save_policy(made, StaticDepth(3), {})
    assert cli.main(command) == 0
    save_policy(made, StaticDepth(2), {})
    capsys.readouterr()
    assert cli.main(command) == 2
    assert f"settings (policy={made} (sha256 " in capsys.readouterr().err
    assert (tmp_path / "out" / ROWS).read_text() == rows


def test_a_file_as_out_is_told_to_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "hybrid", f"out={tmp_path}/hybrid.parquet"]) == 2
    assert "expected a folder" in capsys.readouterr().err


def test_a_category_is_a_part_of_a_task(sets: Path) -> None:
    assert [prompt.task for prompt in load_prompts(["mixed/chat"], data_dir=sets)] == ["mixed/chat"]
    assert len(load_prompts(["mixed"], data_dir=sets)) == 2
    with pytest.raises(InputError, match="no rows of category 'poems'; categories: chat, rag"):
        load_prompts(["mixed/poems"], data_dir=sets)


def test_no_resamples_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "hybrid", "resamples=0", f"out={tmp_path}"]) == 2
    assert "resamples: expected a whole number ≥ 1" in capsys.readouterr().err
