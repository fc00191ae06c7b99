"""``radar-rl compare``: what the runs of a sweep gain over the tuned static depth, across seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from radar_rl.errors import ConfigError, InputError
from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.evaluation.groups import Group, grouped, spread
from radar_rl.evaluation.runs_picture import draw_runs
from radar_rl.evaluation.tables import told_wide
from radar_rl.folders import made_folder
from radar_rl.offline.results import SCHEMA, result_row, runs_in, write_table

PICTURE_FILE = "compare.png"
TRAINING = "the training prompts"

COLUMNS = {
    "measured_on": pl.String,
    "measured_hardware": pl.String,
    "tokens_per_second": pl.Float64,
    "gain": pl.Float64,
}


def compare(
    *,
    out: str,
    runs: Sequence[str],
    traces: str | None,
    hardware: str | Sequence[str] | None,
    model: Mapping[str, Any],
    allow_other_pair: bool,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Gather runs, measure them if there is a trace, print a table, write ``results.parquet`` and ``compare.png``.

    Args:
        out: the folder to write.
        runs: folders, each a trained run or a folder of them.
        traces: a trace to replay the runs on, on the prompts that they held out; None takes their throughput on the
            training prompts.
        hardware: FILE or NAME of a profile to replay with, or several; None measures ``model`` on this machine.
        model: the pair to measure where ``hardware`` is None.
        allow_other_pair: accept a trace of another pair than the runs were trained on.
        resamples: bootstrap samples of the evaluation.
        seed: of the bootstrap.

    Returns:
        A row for each run and profile: the columns of ``radar_rl.offline.results.SCHEMA``, what was measured on which
        prompts with which seconds, tokens per second, and the gain over the tuned static depth (0.05: 5 % faster).

    Raises:
        InputError: a folder holds no finished run.
        ConfigError: ``hardware`` without ``traces``.
    """
    if traces is None and hardware is not None:
        raise ConfigError("hardware= is for a replay: give traces=DIR too, or leave it out")
    folders = runs_in(runs)
    if not folders:
        raise InputError("runs: expected folders of trained runs, or of sweeps: runs=[DIR,…]")
    results = [result_row(path, path.as_posix()) for path in folders]
    if traces is None:
        measured = [_trained(row) for row in results]
    else:
        replayed = evaluate(
            out=str(Path(out) / "evaluation"),
            traces=traces,
            runs=[str(path) for path in folders],
            hardware=hardware,
            model=model,
            allow_other_pair=allow_other_pair,
            held_out=0.0,
            seed=seed,
            tree_size=None,
            resamples=resamples,
        )
        measured = _replayed(results, replayed)
    rows = pl.DataFrame(measured, schema=SCHEMA | COLUMNS)
    folder = Path(out)
    made_folder(folder)
    write_table(folder, rows)
    for name in rows["measured_hardware"].unique(maintain_order=True):
        some = rows.filter(pl.col("measured_hardware").eq_missing(name))
        _print_runs(some, grouped(some))
    draw_runs(rows, folders, folder / PICTURE_FILE)
    print(f"compare: {len(folders)} runs → {folder / PICTURE_FILE}")
    return rows.to_dicts()


def _trained(row: dict[str, Any]) -> dict[str, Any]:
    """A run with what it reached on the prompts that it learned from."""
    reached, gain = row["training_tokens_per_second"], row["training_gain"]
    return row | {
        "measured_on": TRAINING,
        "measured_hardware": None,
        "tokens_per_second": reached,
        "gain": gain,
    }


def _replayed(results: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs with what they bring on held-out prompts.

    Args:
        results: of the runs.
        rows: what ``evaluate`` returned: a row for each run over all tasks, in the order of the runs, for each profile.
    """
    learned = [row for row in rows if row["kind"] == "learned" and row["task"] == ALL_TASKS]
    return [
        result
        | {
            "measured_on": f"{row['prompts']} held-out prompts",
            "measured_hardware": row["hardware"],
            "tokens_per_second": row["tokens_per_second"],
            "gain": row["speedup_static"] - 1.0,
        }
        for result, row in zip(list(results) * (len(learned) // len(results)), learned, strict=True)
    ]


def _print_runs(rows: pl.DataFrame, groups: Sequence[Group]) -> None:
    """A line for each group, best first."""
    first = rows.row(0, named=True)
    seconds = f" · seconds: {first['measured_hardware']}" if first["measured_hardware"] else ""
    table = Table(title=f"Gain over the tuned static depth on {first['measured_on']}{seconds}", title_justify="left")
    table.add_column("runs that differ by seed alone", overflow="fold")
    for column in ("seeds", "gain", "± std", "lowest", "highest", "tokens/s", "training s"):
        table.add_column(column, justify="right", no_wrap=True)
    lines = []
    for group in groups:
        mine = rows[group.rows].drop_nulls("gain")
        if mine.is_empty():
            continue
        gains = mine["gain"].to_list()
        mean, deviation = spread(gains)
        speed, seconds_each = spread(mine["tokens_per_second"].to_list())[0], spread(mine["training_seconds"].to_list())
        shown = f"{deviation:.2%}" if len(gains) > 1 else ""
        figures = (f"{mean:+.1%}", shown, f"{min(gains):+.1%}", f"{max(gains):+.1%}", f"{speed:.1f}")
        lines.append((mean, (group.name, str(len(gains)), *figures, f"{seconds_each[0]:.0f}")))
    for _, cells in sorted(lines, key=lambda line: -line[0]):
        table.add_row(*cells)
    told_wide(None).print(table)
