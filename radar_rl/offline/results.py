"""The results of many runs as one table, made anew from their records: whatever ran them, and however often."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.errors import InputError
from radar_rl.offline.run import RUN_FILE, read_record
from radar_rl.rollouts.storage import Store

RESULTS_FILE = "results.parquet"

SCHEMA = {
    "folder": pl.String,
    "algorithm": pl.String,
    "settings": pl.String,
    "behaviour": pl.String,
    "episode": pl.String,
    "reward": pl.String,
    "observation": pl.String,
    "newest": pl.Int64,
    "asks_from": pl.Int64,
    "decides_from": pl.Int64,
    "share": pl.Float64,
    "validation": pl.Float64,
    "held_out": pl.Float64,
    "steps": pl.Int64,
    "batch_size": pl.Int64,
    "tree_size": pl.Int64,
    "seed": pl.Int64,
    "hardware": pl.String,
    "training_seconds": pl.Float64,
    "rate": pl.Float64,
    "training_tokens_per_second": pl.Float64,
    "best_static_depth": pl.Int64,
    "best_static_tokens_per_second": pl.Float64,
    "training_gain": pl.Float64,
    "validation_tokens_per_second": pl.Float64,
    "validation_gain": pl.Float64,
    "positions": pl.Int64,
    "examples": pl.Int64,
    "target": pl.String,
    "draft": pl.String,
    "data_hash": pl.String,
    "commit": pl.String,
    "versions": pl.String,
}


def run_folders(folder: str | Path) -> list[Path]:
    """The finished runs in a folder, at any depth, or the folder itself if it is one; sorted.

    Raises:
        InputError: there is no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; expected a run of radar-rl train, or the out= of a sweep")
    return sorted(path.parent for path in place.rglob(RUN_FILE))


def runs_in(places: Sequence[str | Path]) -> list[Path]:
    """The finished runs in some folders, each once, in the order of the folders.

    Raises:
        InputError: one of them is no folder, or holds none.
    """
    found: dict[Path, Path] = {}
    for place in places:
        there = run_folders(place)
        if not there:
            raise InputError(f"no finished run in {place}: train one with: radar-rl train out={place}")
        found |= {path.resolve(): path for path in there if path.resolve() not in found}
    return list(found.values())


def result_row(folder: Path, shown: str) -> dict[str, Any]:
    """A run as one row, columns as ``SCHEMA``; what an older record lacks is null.

    Args:
        folder: of the run.
        shown: how the table calls it.

    Raises:
        InputError: its record is damaged.
    """
    return record_row(read_record(folder)) | {"folder": shown}


def record_row(about: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record as one row, columns as ``SCHEMA``, but for the folder; what an older record lacks is null."""
    arguments: Mapping[str, Any] = about.get("arguments", {})
    reached, static = about.get("training_tokens_per_second"), about.get("best_static_tokens_per_second")
    settings = {key: value for key, value in about["algorithm"].items() if key != "name"}
    row: dict[str, Any] = {key: about.get(key, arguments.get(key)) for key in SCHEMA}
    return row | {
        "algorithm": about["name"],
        "settings": json.dumps(settings),
        "reward": json.dumps({k: v for k, v in arguments.get("reward", {}).items() if v is not None}),
        "observation": ", ".join(arguments.get("observation", [])),
        "held_out": about["split"]["held_out"],
        "hardware": about["hardware"]["name"],
        "training_gain": reached / static - 1.0 if reached and static else None,
        "asks_from": arguments.get("asks_from"),
        "decides_from": about.get("asks_from"),
        "examples": about.get("transitions"),
        "target": about["trace"].get("target"),
        "draft": about["trace"].get("draft"),
        "versions": json.dumps(about.get("versions", {})),
    }


def gather_results(folder: str | Path) -> pl.DataFrame:
    """The finished runs in a folder: one row each, columns as ``SCHEMA``, folders relative to it.

    Throughputs are tokens per second of walks over the training (validation) prompts, gains over the static depth that
    was tuned on the training prompts (0.05: five per cent faster).

    Raises:
        InputError: there is no such folder, or a record is damaged.
    """
    root = Path(folder)
    rows = [result_row(path, path.relative_to(root).as_posix()) for path in run_folders(root)]
    return pl.DataFrame(rows, schema=SCHEMA)


def write_results(folder: str | Path) -> pl.DataFrame | None:
    """Write ``results.parquet`` of the finished runs in a sweep's folder; None if there are none."""
    root = Path(folder)
    if not root.is_dir():
        return None
    rows = gather_results(root)
    if rows.is_empty():
        return None
    write_table(root, rows)
    print(f"train: {rows.height} runs → {root / RESULTS_FILE}")
    return rows


def write_table(folder: Path, rows: pl.DataFrame) -> None:
    """Write a table of results to a folder, whole or not at all."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    Store.at(folder).write(RESULTS_FILE, buffer.getvalue())
