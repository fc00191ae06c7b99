"""``radar-rl describe``: what a collected trace holds, and what stopping after each draft call would bring."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from radar_rl.console import wide_console
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.reading import trace_parts, trace_settings
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.trace import Trace, TraceSettings

ALL_TASKS = "all"
WIDTH = 110

COUNTS = ("texts", "rows", "censored", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Description:
    """What a trace holds. Tasks come in alphabetical order, ``all`` after them if there are several.

    Attributes:
        settings: what the trace was made with; ``tree_size`` is the one described.
        parts, parts_total: parts that are finished, and parts there will be.
        counts: per task: ``texts``, ``prompts``, ``rows`` (root tokens), ``censored`` ones of them, ``prompt_tokens``,
            ``completion_tokens``.
        lengths: per task and static ``depth``: ``tau``, the tokens ``emitted`` per round over the ``rounds`` of exact
            walks over the texts (not a mean over rows: rounds do not start at every one).
        acceptance: per task and ``level``: rows whose text goes on for so many tokens and whose tree, drafting stopped
            after this level, holds the text's tokens above it (``reached``) and of the level too (``accepted``), and
            the ``share`` of the one in the other; censored rows left out.
    """

    settings: TraceSettings
    parts: int
    parts_total: int
    counts: pl.DataFrame
    lengths: pl.DataFrame
    acceptance: pl.DataFrame


def describe(*, traces: str, tree_size: int | None) -> Description:
    """The verb ``describe``: read a trace part by part, print what it holds.

    Args:
        traces: folder of a collected trace.
        tree_size: nodes verified, root included, at most the collected ones; None takes those.

    Returns:
        What was printed, as frames.

    Raises:
        TraceError: the folder holds no trace, or a file is damaged.
    """
    described = description(traces, tree_size=tree_size)
    print_description(described, traces, wide_console(WIDTH))
    return described


def description(path: str | Path, *, tree_size: int | None = None) -> Description:
    """Describe a collected trace; one part at a time is in memory.

    Raises:
        TraceError: the folder holds no trace, or a file is damaged.
    """
    settings = trace_settings(path)
    depth = settings.max_depth
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    prompts: dict[str, set[str]] = defaultdict(set)
    # Per task: rounds and emitted tokens by static depth, rows reached and accepted by level.
    totals: dict[str, Any] = defaultdict(lambda: np.zeros((4, depth), dtype=np.int64))
    for part in trace_parts(path, tree_size=tree_size):
        settings = part.settings
        names, task = np.unique(part.sequences.task, return_inverse=True)  # task: [S] index into names
        texts = part.sequences
        row_task = task[part.sequence]
        of_texts = {
            "texts": np.ones(len(texts)),
            "prompt_tokens": texts.prompt_length,
            "completion_tokens": texts.length - texts.prompt_length,
        }
        of_rows = {"rows": np.ones(len(part)), "censored": part.censored}
        for index, values in ((task, of_texts), (row_task, of_rows)):
            for key, column in values.items():
                for name, total in zip(names, np.bincount(index, column, len(names)), strict=True):
                    counts[str(name)][key] += int(total)
        for name, prompt_id in zip(texts.task, texts.prompt_id, strict=True):
            prompts[name].add(prompt_id)
        for name, table in zip(names, _totals(part, row_task, len(names)), strict=True):
            totals[str(name)] += table
    tasks = sorted(counts)
    if len(tasks) > 1:
        counts[ALL_TASKS] = {key: sum(counts[task][key] for task in tasks) for key in COUNTS}
        totals[ALL_TASKS] = sum(totals[task] for task in tasks)
        prompts[ALL_TASKS] = {f"{task}/{prompt_id}" for task in tasks for prompt_id in prompts[task]}
        tasks.append(ALL_TASKS)
    steps = np.arange(1, depth + 1)
    found = DataSet.read(path, "traces")
    return Description(
        settings,
        len(found.parts),
        found.parts_total,
        pl.DataFrame([{"task": task, "prompts": len(prompts[task]), **counts[task]} for task in tasks]),
        pl.concat(
            pl.DataFrame({"task": task, "depth": steps, "rounds": totals[task][0], "emitted": totals[task][1]})
            for task in tasks
        ).with_columns(tau=pl.col("emitted") / pl.col("rounds")),
        pl.concat(
            pl.DataFrame({"task": task, "level": steps, "reached": totals[task][2], "accepted": totals[task][3]})
            for task in tasks
        ).with_columns(share=pl.col("accepted") / pl.col("reached")),
    )


def _totals(part: Trace, row_task: Any, tasks: int) -> Any:
    """Rounds, emitted tokens, rows reached and accepted, per static depth or level: [tasks, 4, max_depth] int64."""
    depth = part.settings.max_depth
    totals = np.zeros((tasks, 4, depth), dtype=np.int64)
    usable = ~part.censored
    remaining = part.remaining
    for step in range(1, depth + 1):
        for rows, _, emitted in part.rounds(np.full(len(part), step, dtype=np.int8)):
            index = row_task[rows]
            totals[:, 0, step - 1] += np.bincount(index, minlength=tasks)
            totals[:, 1, step - 1] += np.bincount(index, emitted, minlength=tasks).astype(np.int64)
        accepted = part.accepted[:, step - 1]
        reached = usable & (accepted >= step - 1) & (remaining >= step)
        totals[:, 2, step - 1] = np.bincount(row_task[reached], minlength=tasks)
        totals[:, 3, step - 1] = np.bincount(row_task[reached & (accepted >= step)], minlength=tasks)
    return totals


def print_description(described: Description, path: str | Path, console: Console) -> None:
    """Print counts, τ by stopping depth and acceptance by level, per task."""
    made = described.settings
    pair = f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}"
    console.print(
        f"{Store.at(path).place}: {described.parts} of {described.parts_total} parts · {pair}", soft_wrap=True
    )
    table = Table("task")
    for name in described.counts.columns[1:]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in described.counts.iter_rows():
        table.add_row(row[0], *(f"{value:,}" for value in row[1:]), end_section=_is_last_task(row[0], described))
    console.print(table)
    title = f"τ, tokens emitted per verification of {made.tree_size} nodes, by static depth"
    console.print(_by_step(described, described.lengths, "tau", title, "{:.2f}"))
    title = "Acceptance by level: share of the rows accepted down to the level above"
    console.print(_by_step(described, described.acceptance, "share", title, "{:.1%}"))
    shown = {key: value for key, value in asdict(made).items() if key not in ("target", "draft")}
    console.print(f"target {made.target}, draft {made.draft}", soft_wrap=True)
    console.print(", ".join(f"{key} {value}" for key, value in shown.items()), soft_wrap=True)


def _by_step(described: Description, frame: pl.DataFrame, value: str, title: str, shape: str) -> Table:
    """A row per task, a column per depth or level."""
    table = Table("task", title=title, title_justify="left")
    for step in frame[frame.columns[1]].unique(maintain_order=True):
        table.add_column(str(step), justify="right")
    for (task,), rows in frame.group_by("task", maintain_order=True):
        cells = ["–" if np.isnan(number) else shape.format(number) for number in rows[value].to_numpy()]
        table.add_row(str(task), *cells, end_section=_is_last_task(task, described))
    return table


def _is_last_task(task: object, described: Description) -> bool:
    """Whether only ``all`` follows, which a line sets apart."""
    tasks = described.counts["task"]
    return tasks.len() > 1 and bool(task == tasks[-2])
