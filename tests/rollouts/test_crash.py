"""A collection that is killed again and again ends as one that was left alone."""

import json
import multiprocessing
import os
import random
import signal
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.rollouts import DataSet, load_trace
from radar_rl.rollouts.collect import collect

KILLS = 20


def same_rows(one: Path, other: Path) -> bool:
    return all(
        pl.read_parquet(one / part / "*.parquet").equals(pl.read_parquet(other / part / "*.parquet"))
        for part in ("sequences", "trace")
    )


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    prompts = [{"id": f"p{i}", "prompt_ids": [4 + i % 50, 7, 9 + i // 50]} for i in range(60)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    model = {"name": "tiny", "target": str(tiny_pair[0]), "draft": str(tiny_pair[1]), "dtype": "float32"}
    arguments: dict[str, Any] = {
        "model": model | {"device": "cpu"},
        "tasks": [],
        "task": {"path": str(rows)},
        "max_new_tokens": 24,
        "max_depth": 4,
        "tree_size": 20,
        "part_size": 2,
        "temperature": 1.0,
    }
    whole = tmp_path / "whole"
    collect(out=str(whole), **arguments)
    assert load_trace(whole).sequences.sequence_id[0].startswith("rows/p0/")

    # Children of a server that has only imported: forking this process would copy its threads' locks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radar_rl.rollouts.collect"])
    moments = random.Random(0)
    killed = midway = 0
    for number in count():
        if killed >= KILLS:
            break
        cut = tmp_path / f"cut-{number}"
        while True:
            worker = context.Process(target=collect, kwargs={"out": str(cut), **arguments})
            worker.start()
            worker.join(moments.uniform(0.1, 1.2))
            if worker.is_alive():
                os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
            if worker.exitcode == 0:
                break
            assert worker.exitcode == -signal.SIGKILL
            killed += 1
            midway += bool(list(cut.glob("manifest-*")) and DataSet.read(cut).parts)
        assert same_rows(whole, cut)
        assert not list(cut.rglob("*.tmp"))
    assert midway >= KILLS / 4  # parts were done, and others left
