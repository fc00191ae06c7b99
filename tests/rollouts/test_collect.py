import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from radar_rl.errors import CheckpointError, ConfigError, InputError, TraceError
from radar_rl.rollouts import DataSet, load_trace, read_traces, room, trace_settings
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.manifest import Manifest
from radar_rl.rollouts.storage import Store
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
    (skipped,) = json.loads((out / "manifest-00000-of-00001.json").read_text())["notes"]["skipped"]
    assert skipped["prompt_id"] == "long"
    assert "exceed the context" in skipped["reason"]
    assert "1 prompts skipped" in capsys.readouterr().out


def test_an_interrupted_collection_goes_on(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import radar_rl.rollouts.collect as module

    fitting = iter((7, 7, 64))
    monkeypatch.setattr(module, "positions_that_fit", lambda *pair, **shape: next(fitting))
    whole = Path(collect(out=str(tmp_path / "whole"), **arguments))
    calls, traced = [], module.trace_sequence

    def killed(*positional: Any, **named: Any) -> Any:
        calls.append(named["positions_per_batch"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return traced(*positional, **named)

    monkeypatch.setattr(module, "trace_sequence", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(out=str(tmp_path / "cut"), **arguments)
    assert list(json.loads((tmp_path / "cut" / "manifest-00000-of-00001.json").read_text())["parts"]) == ["part-00000"]
    first = (tmp_path / "cut" / "trace" / "part-00000.parquet").stat().st_mtime_ns
    collect(out=str(tmp_path / "cut"), **arguments)
    assert calls == [7] * (4 + 2)  # the finished part was not made again; as many positions as when it began
    assert (tmp_path / "cut" / "trace" / "part-00000.parquet").stat().st_mtime_ns == first
    assert same_rows(whole, tmp_path / "cut")


def test_other_settings_are_refused(arguments: dict[str, Any], tmp_path: Path, rows: Path) -> None:
    collect(out=str(tmp_path / "out"), **arguments)
    with pytest.raises(TraceError, match="tree_size: 60 there, 30 asked for"):
        collect(out=str(tmp_path / "out"), **arguments, tree_size=30)
    rows.write_text(rows.read_text().replace("Tom", "Ann"))
    with pytest.raises(TraceError, match="the prompts are others"):
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


def test_a_smaller_tree_read_back_is_the_one_collected(arguments: dict[str, Any], tmp_path: Path) -> None:
    large = collect(out=str(tmp_path / "large"), **arguments)
    small = collect(out=str(tmp_path / "small"), **arguments, tree_size=14)
    read, collected = load_trace(large, tree_size=14), load_trace(small)
    assert read.settings == collected.settings
    for name in ("sequence", "position", "confidences", "accepted", "censored"):
        np.testing.assert_array_equal(getattr(read, name), getattr(collected, name))
    assert (read.accepted != load_trace(large).accepted).any()


def test_logged_texts_give_the_trace_of_the_written_ones(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sampled = arguments | {"temperature": 1.0}
    written = Path(collect(out=str(tmp_path / "written"), **sampled))
    texts = pl.read_parquet(written / "sequences" / "*.parquet")
    log = tmp_path / "log.jsonl"

    def logged(change: Callable[[list[int]], list[int]]) -> None:
        rows = []
        for row in texts.iter_rows(named=True):
            ids, start = row["token_ids"], row["prompt_length"]
            rows.append({"id": row["prompt_id"], "prompt_ids": ids[:start], "completion_ids": change(ids[start:])})
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    logged(list)
    capsys.readouterr()
    given = arguments | {"source": "texts", "task": {"path": str(log)}}
    again = Path(collect(out=str(tmp_path / "given"), **given))
    told = capsys.readouterr().out
    assert "0.00% have a probability below 1e-6" in told
    assert not caplog.records
    same = pl.read_parquet(again / "sequences" / "*.parquet")
    assert same["token_ids"].equals(texts["token_ids"])
    assert same["seed"].null_count() == 4
    one, other = (pl.read_parquet(folder / "trace" / "*.parquet") for folder in (written, again))
    assert one.drop("sequence_id").equals(other.drop("sequence_id"))

    logged(lambda ids: [(7 * i + 11) % 2000 + 100 for i in ids])  # another model's words
    collect(out=str(tmp_path / "foreign"), **given)
    (warning, *_) = (record.getMessage() for record in caplog.records if "1e-6" in record.getMessage())
    assert "did another model write them" in warning


def test_a_head_of_another_target_is_doubted(
    arguments: dict[str, Any], tmp_path: Path, tiny_pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt_ids": [4 + i, 7, 9]}) + "\n" for i in range(4)))
    model = arguments["model"] | {"target": str(tiny_pair[0]), "draft": str(tiny_pair[1])}
    tiny = arguments | {"model": model, "task": {"path": str(rows)}, "max_depth": 2, "top_k": 1, "tree_size": 2}
    collect(out=str(tmp_path / "random"), **tiny)
    assert "does draft@" in caplog.text
    with pytest.raises(CheckpointError, match="draft"):
        collect(out=str(tmp_path / "misfit"), **tiny | {"model": model | {"draft": "pocket"}})


def test_a_turn_that_does_not_fit_is_listed(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "talk.jsonl"
    talk = [{"id": "a", "turns": ["Hello.", "And?"]}, {"id": "b", "turns": ["Hi.", "many words " * 3000, "So?"]}]
    rows.write_text("".join(json.dumps(row) + "\n" for row in talk))
    pocket = arguments["model"] | {"target": "pocket", "draft": "pocket"}
    out = collect(out=str(tmp_path / "out"), **arguments | {"task": {"path": str(rows)}, "model": pocket})
    assert load_trace(out).sequences.sequence_id == ["talk/a/0/0", "talk/a/0/1", "talk/b/0/0"]
    assert "2 prompts skipped as too long" in capsys.readouterr().out
    (part,) = DataSet.read(out).parts.values()
    assert [(one["prompt_id"], one["turn"]) for one in part["skipped"]] == [("b", 1), ("b", 2)]


def test_a_full_disk_is_named_and_finished_parts_are_whole(arguments: dict[str, Any], tmp_path: Path) -> None:
    whole = Path(collect(out=str(tmp_path / "whole"), **arguments))
    largest = max(path.stat().st_size for path in (whole / "trace").iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = Store.write

    def filling(store: Store, name: str, data: Any) -> None:
        if name == "trace/part-00001.parquet":  # from here on no file may be as large as this one
            resource.setrlimit(resource.RLIMIT_FSIZE, (min(largest, data.size) - 1, before[1]))
        written(store, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", filling)
        try:
            with pytest.raises(InputError, match=r"cannot write .*trace/part-00001"):
                collect(out=str(tmp_path / "full"), **arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(DataSet.read(tmp_path / "full").parts) == ["part-00000"]
    assert len(load_trace(tmp_path / "full").sequences) == 2
    collect(out=str(tmp_path / "full"), **arguments)
    assert same_rows(whole, tmp_path / "full")


def test_a_second_collector_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with claimed(Store.at(out), "shard-00000-of-00002"):
        with pytest.raises(InputError, match="shard-00000-of-00002 is being written by another process"):
            collect(out=out, **arguments, shards=2)
        collect(out=out, **arguments, shards=2, shard=1)
    assert list(DataSet.read(out).parts) == ["part-00001"]
    with (
        claimed(Store.at(out), "shard-00000-of-00002"),
        pytest.raises(InputError, match="shard-00000-of-00002 is being written by another process"),
    ):
        collect(out=out, **arguments)  # all of it, which shard 0 of 2 is a share of


def test_a_mistyped_value_does_not_bind_the_folder(arguments: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for wrong in ({"temperature": -1.0}, {"sample_top_p": 2.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            collect(out=str(out), **arguments | wrong)
    assert not out.exists()
    Manifest.open(Store.at(out), "traces", {"temperature": 7}, 2)  # of a run that ended before its first part
    collect(out=str(out), **arguments)
    assert len(load_trace(out).sequences) == 4


def test_what_is_unfinished_is_said(
    arguments: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = collect(out=str(tmp_path / "x[1]*"), **arguments, shards=2)
    assert len(load_trace(out).sequences) == 2
    assert "1 of 2 parts are finished; only they are read" in caplog.text
    assert len(read_traces(out).collect()) == len(load_trace(out))  # and no pattern is seen in the folder's name


def test_positions_follow_the_free_memory(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_from_config(model)
    need = room.bytes_per_position(pair, 500, max_depth=8, top_k=10)
    fitting = []
    for times in (0.1, 3, 20, 1e9):
        monkeypatch.setattr(room, "_free_bytes", lambda device, times=times: need * times / room.SHARE)
        fitting.append(room.positions_that_fit(pair, 500, max_depth=8, top_k=10))
    assert fitting == [1, 2, 16, room.MOST["cpu"]]
    assert room.bytes_per_position(pair, 5000, max_depth=8, top_k=10) > need


def test_the_very_texts_of_a_collection_are_traced_again(
    arguments: dict[str, Any], model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = arguments | {"temperature": 0.8, "samples": 2, "seed": 4}
    trees = collect(out=str(tmp_path / "trees"), **sampled)
    chain = {"top_k": 1, "tree_size": 9, "features": ["log_probs"]}
    wanted = collect(out=str(tmp_path / "wanted"), **sampled, **chain)
    monkeypatch.setattr("radar_rl.rollouts.collect.write_texts", None)  # nothing is decoded
    again = {"model": model, "tasks": ["dialogue"], "task": {"path": None}, "part_size": 2, "texts_of": trees, **chain}
    chains = collect(out=str(tmp_path / "chains"), **again)
    assert same_rows(Path(chains), Path(wanted))
    assert trace_settings(chains) == trace_settings(wanted)
    few = load_trace(collect(out=str(tmp_path / "few"), **again, limit=1))
    assert few.sequences.sequence_id == ["sums/sum-0/0/0", "sums/sum-0/1/0"]
    manifest = Path(trees) / "manifest-00000-of-00001.json"
    whole = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(whole | {"parts": dict(list(whole["parts"].items())[:1])}))
    with pytest.raises(TraceError, match=r"texts_of: .* is not finished"):
        collect(out=str(tmp_path / "x"), **again)
    manifest.write_text(json.dumps(whole | {"settings": whole["settings"] | {"target": "other@1"}}))
    with pytest.raises(TraceError, match=r"holds texts of other@1, the model is .*; give the model= that wrote them"):
        collect(out=str(tmp_path / "x"), **again)
