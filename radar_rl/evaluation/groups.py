"""Runs alike: groups whose members differ by their seed, and what else is left out, alone; how sweeps are read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

# What a run follows from, but for the machine and the seed; the algorithm's own settings besides.
SETTINGS = (
    "behaviour",
    "episode",
    "reward",
    "observation",
    "newest",
    "asks_from",
    "share",
    "validation",
    "held_out",
    "steps",
    "batch_size",
    "data_hash",
)

# What tells one training from another in a table, beside the algorithm and its settings; where evaluated, on what.
TRAINING = (*SETTINGS, "tree_size", "hardware", "trained_for", "positions", "seed")


@dataclass(frozen=True)
class Group:
    """Runs that are alike.

    Attributes:
        name: the algorithm, and what sets it apart from other groups of it.
        rows: numbers of the runs' rows.
    """

    name: str
    rows: list[int]


def grouped(results: pl.DataFrame, alike: Sequence[str] = (*SETTINGS, "tree_size", "hardware")) -> list[Group]:
    """The groups among runs, in the order of their first ones.

    The same training in two folders is one run, the first: it is no second seed.

    Args:
        results: rows of ``gather_results`` (``offline.results``), or runs' rows of ``evaluation.parquet``.
        alike: columns in which a group's runs are the same, beside the algorithm and its settings; by default all that
            a run follows from but its seed.
    """
    told = [_told(row, alike) for row in results.iter_rows(named=True)]
    algorithms = results["algorithm"].to_list()
    rows: dict[tuple[tuple[str, str], ...], list[int]] = {}
    trainings = set()
    for number, (row, settings) in enumerate(zip(results.iter_rows(named=True), told, strict=True)):
        training = (*(row.get(name) for name in TRAINING), row["settings"], row["algorithm"])
        if row["seed"] is not None and training in trainings:
            continue
        trainings.add(training)
        rows.setdefault(tuple(sorted(settings.items())), []).append(number)
    groups = []
    for numbers in rows.values():
        name = algorithms[numbers[0]]
        others = [told[i] for i, algorithm in enumerate(algorithms) if algorithm == name]
        own = [key for key in told[numbers[0]] if len({other.get(key) for other in others}) > 1]
        parts = [_said(key, told[numbers[0]][key]) for key in own]
        groups.append(Group(" · ".join([name, *parts]), numbers))
    return groups


def _told(row: dict[str, Any], alike: Sequence[str]) -> dict[str, str]:
    """What sets a run apart, as texts by name; an algorithm's settings under their own names."""
    settings = {key: json.dumps(value) for key, value in json.loads(row["settings"]).items()}
    return {"algorithm": row["algorithm"]} | {key: str(row[key]) for key in alike} | settings


def _said(key: str, value: str) -> str:
    if key in ("behaviour", "episode", "hardware", "observation"):
        return value
    if key == "data_hash":
        return f"data {value[:8]}"
    if key == "reward":
        return " ".join(str(part) for part in json.loads(value).values())
    return f"{key}={value}"


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample; 0 for a single value)."""
    series = pl.Series(values, dtype=pl.Float64)
    mean, deviation = series.mean(), series.std()
    assert isinstance(mean, float)
    return mean, deviation if isinstance(deviation, float) else 0.0
