import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies import ObservationSpec
from radar_rl.rollouts import Trace, held_out, load_rollouts, rollout_settings
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.rollout import rollout
from radar_rl.rollouts.storage import Store

MODEL = {"name": "none", "target": "nowhere", "draft": "nowhere", "dtype": "float32", "device": "cpu"}
THROUGHPUT = {"kind": "throughput", "rate": None}
MEASURED = ["draft_seconds", "verify_seconds", "decide_seconds"]


def replay(out: Path, collection: Path, policy: str = "random:0.7", **changed: Any) -> pl.DataFrame:
    settings: dict[str, Any] = {
        "model": MODEL,
        "reward": THROUGHPUT,
        "hardware": "pocket_cpu",
        "tasks": [],
        "task": {"path": None},
    }
    return load_rollouts(
        rollout(out=str(out), env="replay", policy=policy, traces=str(collection), **settings | changed)
    )


def test_every_transition_is_logged(tmp_path: Path, collection: Path, trace: Trace) -> None:
    rows = replay(tmp_path / "out", collection, "threshold:0.3")
    text = trace.sequences
    assert rows["episode"].unique().sort().to_list() == list(range(10))
    emitted = rows.group_by("episode", maintain_order=True).agg(pl.col("emitted").sum())["emitted"].to_numpy()
    np.testing.assert_array_equal(emitted, text.length - text.prompt_length - 1)
    assert rows.filter("terminated").group_by("episode").len()["len"].to_list() == [1] * 10
    stops = rows.filter(pl.col("action") == 0)
    expected = trace.accepted[
        [
            np.flatnonzero((trace.sequence == e) & (trace.position == p))[0]
            for e, p in stops.select("episode", "position").rows()
        ],
        stops["depth"].to_numpy() - 1,
    ]
    np.testing.assert_array_equal(stops["accepted"].to_numpy(), expected)
    settings = rollout_settings(tmp_path / "out")
    spec = ObservationSpec.from_json(settings["spec"])
    assert rows.schema["observation"] == pl.Array(pl.Float32, spec.size)
    rate = settings["reward"]["rate"]
    seconds = rows.select(pl.sum_horizontal(MEASURED).sum()).item() + len(stops) * settings["hardware"]["rest_seconds"]
    assert rows["reward"].sum() == pytest.approx(rows["emitted"].sum() - rate * seconds)


def test_censored_rows_are_the_traced_ones(tmp_path: Path, collection: Path, trace: Trace) -> None:
    rows = replay(tmp_path / "out", collection, "static:1")
    flags = {(s, p): c for s, p, c in zip(trace.sequence, trace.position, trace.censored, strict=True)}
    logged = rows.select("episode", "position", "censored").rows()
    assert any(flags.values())
    assert all(flags[episode, position] == censored for episode, position, censored in logged)


def test_a_rollout_repeats_and_is_not_made_twice(tmp_path: Path, collection: Path, capsys: Any) -> None:
    one = replay(tmp_path / "one", collection)
    assert one.equals(replay(tmp_path / "other", collection))
    capsys.readouterr()
    assert one.equals(replay(tmp_path / "one", collection))
    assert "there already" in capsys.readouterr().out
    with pytest.raises(TraceError, match=r"policy: 'random:0\.7' there"):
        replay(tmp_path / "one", collection, "random:0.5")


def test_an_interrupted_rollout_goes_on(tmp_path: Path, collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import radar_rl.rollouts.rollout as module

    monkeypatch.setattr(module, "TEXTS_PER_PART", 4)
    whole = replay(tmp_path / "whole", collection)
    assert len(list((tmp_path / "whole" / "rollouts").iterdir())) == 3
    writes, write = [], Store.write_parquet

    def killed(*arguments: Any) -> Any:
        writes.append(1)
        if len(writes) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(Store, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        replay(tmp_path / "cut", collection)
    with pytest.raises(TraceError, match="not finished"):
        load_rollouts(tmp_path / "cut")
    assert replay(tmp_path / "cut", collection).equals(whole)


def test_subsets_and_episodes(tmp_path: Path, collection: Path, trace: Trace) -> None:
    names = trace.sequences.prompt_id
    held = [name for name, kept in zip(names, held_out(names, 0.5), strict=True) if kept]
    rest = [name for name in names if name not in held]
    for subset, expected in (("held_out", held), ("train", rest)):
        rows = replay(tmp_path / subset, collection, subset=subset, held_out=0.5)
        assert rows["prompt_id"].unique(maintain_order=True).to_list() == expected
    around = replay(tmp_path / "around", collection, episodes=12).group_by("episode", maintain_order=True)
    assert around.agg(pl.col("prompt_id").first())["prompt_id"].to_list() == [*names, *names[:2]]
    with pytest.raises(InputError, match="none of 10 prompts"):
        replay(tmp_path / "none", collection, subset="held_out", held_out=0.0)


def test_bad_arguments_are_named(tmp_path: Path, collection: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="static:DEPTH"):
        replay(out, collection, "always")
    with pytest.raises(TraceError, match="top_k=10, expected 8"):
        replay(out, collection, top_k=8)
    with pytest.raises(ConfigError, match="episodes"):
        replay(out, collection, episodes=0)
    with pytest.raises(ConfigError, match="traces=DIR"):
        rollout(
            out=str(out),
            env="replay",
            policy="static:8",
            model=MODEL,
            reward=THROUGHPUT,
            tasks=[],
            task={},
            traces=None,
        )
    assert not (out / "rollouts").exists()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_live_and_replay_log_the_same_rows(model: dict[str, Any], tmp_path: Path, temperature: float) -> None:
    prompts = tmp_path / "sums.jsonl"
    questions = [f"Question: Tom has {i + 2} boxes with 12 pens each. How many pens?\nAnswer:" for i in range(3)]
    prompts.write_text("".join(json.dumps({"id": f"s{i}", "prompt": q}) + "\n" for i, q in enumerate(questions)))
    shared: dict[str, Any] = {
        "model": model,
        "tasks": [],
        "task": {"path": str(prompts)},
        "temperature": temperature,
        "max_new_tokens": 24,
    }
    traces = collect(out=str(tmp_path / "traces"), **shared)
    settings = {"policy": "random:0.7", "reward": THROUGHPUT, "hardware": "pocket_cpu", "traces": str(traces)}
    live = load_rollouts(rollout(out=str(tmp_path / "live"), env="live", **shared, **settings))
    replayed = load_rollouts(rollout(out=str(tmp_path / "replay"), env="replay", **shared, **settings))
    assert live.drop(*MEASURED, "observation").equals(replayed.drop(*MEASURED, "observation"))
    seen, again = live["observation"].to_numpy(), replayed["observation"].to_numpy()
    # A log-probability between two float16 numbers may round either way in forwards of different shapes.
    np.testing.assert_allclose(seen, again, rtol=1.001 * 2**-10, atol=1e-6)
    assert (seen != again).mean() < 1e-3
    for rows in (live, replayed):
        assert (rows["draft_seconds"] > 0).all()
        assert ((rows["verify_seconds"] > 0) == (rows["emitted"] > 0)).all()
    assert live["draft_seconds"].n_unique() > replayed["draft_seconds"].n_unique()
