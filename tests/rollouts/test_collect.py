import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.rollouts import load_trace, read_traces
from radar_rl.rollouts.collect import collect
from radar_rl.runtime import autoregressive
from radar_rl.runtime.models import pair_from_config

QUESTION = "Question: Tom has {} boxes with {} pens each. How many pens does he have?\nAnswer:"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five prompts, one of them longer than any context."""
    path = tmp_path / "sums.jsonl"
    prompts = [{"id": f"sum-{i}", "prompt": QUESTION.format(i + 2, 3 * i + 5)} for i in range(4)]
    prompts.insert(2, {"id": "long", "prompt": "many words " * 3000})
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return path


@pytest.fixture
def arguments(model: dict[str, Any], rows: Path) -> dict[str, Any]:
    return {"model": model, "tasks": [], "task": {"path": str(rows)}, "max_new_tokens": 20, "part_size": 2}


def same_rows(one: Path, other: Path) -> bool:
    return all(
        pl.read_parquet(one / part / "*.parquet").equals(pl.read_parquet(other / part / "*.parquet"))
        for part in ("sequences", "trace")
    )


def test_collected_texts_are_the_targets_own(arguments: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    out = Path(collect(out=str(tmp_path / "out"), **arguments))
    pair = pair_from_config(model)
    texts = pl.read_parquet(out / "sequences" / "*.parquet")
    assert texts["sequence_id"].to_list() == [f"sums/sum-{i}/0/0" for i in range(4)]
    for row in texts.iter_rows(named=True):
        prompt = row["token_ids"][: row["prompt_length"]]
        assert row["token_ids"][row["prompt_length"] :] == list(autoregressive(pair, prompt, max_new_tokens=20))
    trace = load_trace(out, expect={"target": pair.target_identity, "draft": pair.draft_identity})
    frame = read_traces(out).collect()
    np.testing.assert_array_equal(np.array(frame["accepted"].to_list()), trace.accepted)
    ended = [tokens[-1] in pair.eos_token_ids for tokens in texts["token_ids"]]
    for i, complete in enumerate(ended):
        censored = trace.censored[trace.sequence == i]
        assert censored.sum() == (0 if complete else min(8, len(censored)))
        assert complete or censored[-1]


def test_too_long_prompts_are_skipped_and_listed(arguments: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    out = Path(collect(out=str(tmp_path / "out"), **arguments))
    (skipped,) = json.loads((out / "manifest-00000-of-00001.json").read_text())["settings"]["skipped"]
    assert skipped["prompt_id"] == "long"
    assert "exceed the context" in skipped["reason"]
    assert "1 prompts skipped" in capsys.readouterr().out


def test_an_interrupted_collection_goes_on(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import radar_rl.rollouts.collect as module

    whole = Path(collect(out=str(tmp_path / "whole"), **arguments))
    calls, traced = [], module.trace_sequence

    def killed(*positional: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return traced(*positional, **named)

    monkeypatch.setattr(module, "trace_sequence", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(out=str(tmp_path / "cut"), **arguments)
    assert list(json.loads((tmp_path / "cut" / "manifest-00000-of-00001.json").read_text())["parts"]) == ["part-00000"]
    first = (tmp_path / "cut" / "trace" / "part-00000.parquet").stat().st_mtime_ns
    collect(out=str(tmp_path / "cut"), **arguments)
    assert len(calls) == 4 + 2  # the finished part was not made again
    assert (tmp_path / "cut" / "trace" / "part-00000.parquet").stat().st_mtime_ns == first
    assert same_rows(whole, tmp_path / "cut")


def test_other_settings_are_refused(arguments: dict[str, Any], tmp_path: Path, rows: Path) -> None:
    collect(out=str(tmp_path / "out"), **arguments)
    with pytest.raises(TraceError, match="tree_size: 60 there, 30 asked for"):
        collect(out=str(tmp_path / "out"), **arguments, tree_size=30)
    rows.write_text(rows.read_text().replace("Tom", "Ann"))
    with pytest.raises(TraceError, match="works_digest"):
        collect(out=str(tmp_path / "out"), **arguments)


def test_samples_differ_and_repeat(arguments: dict[str, Any], tmp_path: Path) -> None:
    sampled = arguments | {"samples": 2, "temperature": 1.0, "limit": 2}
    one = Path(collect(out=str(tmp_path / "one"), **sampled))
    other = Path(collect(out=str(tmp_path / "other"), **sampled, positions_per_batch=7))
    texts = pl.read_parquet(one / "sequences" / "*.parquet")
    assert texts["sequence_id"].to_list() == ["sums/sum-0/0/0", "sums/sum-0/1/0", "sums/sum-1/0/0", "sums/sum-1/1/0"]
    assert texts["token_ids"].n_unique() == texts["seed"].n_unique() == 4
    assert texts.equals(pl.read_parquet(other / "sequences" / "*.parquet"))
    np.testing.assert_array_equal(load_trace(one).accepted, load_trace(other).accepted)


def test_bad_arguments_are_named(arguments: dict[str, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="part_size"):
        collect(out=out, **arguments | {"part_size": 0})
    with pytest.raises(ConfigError, match="temperature"):
        collect(out=out, **arguments, samples=2)
    with pytest.raises(InputError, match="no prompt fits"):
        collect(out=out, **arguments | {"max_new_tokens": 100_000})
    assert not (tmp_path / "out").exists()
