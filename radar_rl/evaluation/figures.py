"""The figures of a policy in a table of ``evaluate``, as an artifact records them."""

from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.errors import InputError
from radar_rl.evaluation.compare import SCHEMA
from radar_rl.evaluation.evaluate import TABLE_FILE

KEPT = (
    "task",
    "hardware",
    "tokens_per_second",
    "speedup_autoregressive",
    "speedup_default",
    "speedup_static",
    "speedup_static_low",
    "speedup_static_high",
    "baseline",
    "acceptance_length",
    "draft_calls",
    "oracle_gap_closed",
    "prompts",
    "texts",
    "rounds",
    "decision_microseconds",
    "marginal_draft_share",
)


def evaluation_figures(place: str | Path, run: str | Path, name: str) -> dict[str, Any]:
    """A policy's rows in ``evaluation.parquet``: one for each task and profile, columns as ``compare.SCHEMA``.

    Args:
        place: what ``radar-rl evaluate`` wrote: the folder, or the file in it.
        run: the policy's folder; where several runs have one name, tables call them by the ends of their paths.
        name: the policy's own name.

    Returns:
        ``{"held_out": rows}``; what was not measured is None.

    Raises:
        InputError: there is no such table, or the policy is not in it (lists who is).
    """
    path = Path(place)
    file = path / TABLE_FILE if path.is_dir() else path
    try:
        rows = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"evaluation: no table at {file}: expected what radar-rl evaluate wrote ({error})") from error
    if missing := sorted({"policy", *KEPT} - set(rows.columns)):
        raise InputError(f"evaluation: {file} lacks {', '.join(missing)}: expected what radar-rl evaluate wrote")
    there = rows["policy"].unique(maintain_order=True).to_list()
    parts = Path(run).parts
    called = [name, *("/".join(parts[-length:]) for length in range(len(parts), 0, -1))]
    found = next((each for each in called if each in there), None)
    if found is None:
        raise InputError(f"evaluation: {file} has no policy {name} of {run}; it has {', '.join(map(str, there))}")
    own = rows.filter(pl.col("policy") == found).select([key for key in SCHEMA if key in KEPT])
    floats = [column for column, dtype in own.schema.items() if dtype.is_float()]
    own = own.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))
    return {"held_out": own.to_dicts()}
