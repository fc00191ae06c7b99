"""A data set in an object store: collected, gone on with, read, replayed."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyarrow.fs import FileSystem

from radar_rl.errors import InputError, TraceError
from radar_rl.rollouts import DataSet, load_rollouts, load_trace, read_traces
from radar_rl.rollouts import claim as claims
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.rollout import rollout


def test_out_is_an_object_store(
    object_store: str, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("RENEWED_EVERY", 0.2), ("DEAD_AFTER", 2.0), ("SETTLED_AFTER", 0.01)):
        monkeypatch.setattr(claims, name, seconds)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id": "p{i}", "prompt_ids": [{4 + i}, 7, 9]}}\n' for i in range(6)))
    model = {"name": "tiny", "target": str(tiny_pair[0]), "draft": str(tiny_pair[1]), "dtype": "float32"}
    arguments: dict[str, Any] = {"model": model | {"device": "cpu"}, "tasks": [], "task": {"path": str(rows)}}
    arguments |= {"max_new_tokens": 16, "max_depth": 3, "tree_size": 12, "part_size": 2}
    local = collect(out=str(tmp_path / "local"), **arguments)

    out = f"{object_store.partition('?')[0]}/traces?{object_store.partition('?')[2]}"
    for shard in (1, 0):
        collect(out=out, **arguments, shard=shard, shards=2)
    collect(out=out, **arguments, shard=0, shards=2)  # all there
    assert DataSet.read(out).complete
    one, other = load_trace(local), load_trace(out)
    assert (one.confidences == other.confidences).all()
    assert (one.accepted == other.accepted).all()
    assert read_traces(local).collect().equals(read_traces(out).collect())
    filtered = read_traces(out).filter(pl.col("prompt_id") == "p3").select("position").collect()
    assert len(filtered) == (one.sequence == one.sequences.prompt_id.index("p3")).sum()

    settings: dict[str, Any] = {"env": "replay", "policy": "random:0.5", "model": arguments["model"], "tasks": []}
    settings |= {"task": {}, "reward": {"kind": "linear"}, "hardware": "pocket_cpu", "max_depth": 3, "tree_size": 12}
    logged = rollout(out=out.replace("/traces?", "/rollouts?"), traces=out, **settings)
    assert load_rollouts(logged).equals(load_rollouts(rollout(out=str(tmp_path / "r"), traces=local, **settings)))

    filesystem, folder = FileSystem.from_uri(out)
    with filesystem.open_output_stream(f"{folder}/trace/part-00002.parquet") as altered:
        altered.write(b"half")
    with pytest.raises(TraceError, match=r"traces/trace/part-00002.parquet: holds 4 bytes, its manifest says"):
        load_trace(out)
    with pytest.raises(InputError, match=r"cannot (read|write) .*nowhere"):
        collect(out=out.replace("s3://", "s3://nowhere-"), **arguments)
