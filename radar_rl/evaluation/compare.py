"""The comparison: every policy's walk over the same held-out texts, as rows of figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.evaluation.statistics import mean_speedup_interval, per_prompt, speedup_interval
from radar_rl.offline.tuning import TunedRules
from radar_rl.offline.walk import Outcomes, Walk, walk_oracle, walk_policy
from radar_rl.policies.protocol import Policy
from radar_rl.policies.static import StaticDepth

# What stands in the column ``task`` where figures are of the texts of all tasks, or means over tasks.
ALL_TASKS, MEAN_OF_TASKS = "all", "mean"

# What is known of a trained run, and null for other policies.
FACTS = {
    "trained_for": pl.String,
    "algorithm": pl.String,
    "observation": pl.String,
    "behaviour": pl.String,
    "episode": pl.String,
    "positions": pl.Int64,
    "seed": pl.Int64,
    "settings": pl.String,
    "reward": pl.String,
    "newest": pl.Int64,
    "asks_from": pl.Int64,
    "share": pl.Float64,
    "validation": pl.Float64,
    "held_out": pl.Float64,
    "steps": pl.Int64,
    "batch_size": pl.Int64,
    "data_hash": pl.String,
    "run": pl.String,
}

SCHEMA = {
    "policy": pl.String,
    "kind": pl.String,
    "task": pl.String,
    "tokens_per_second": pl.Float64,
    "speedup_autoregressive": pl.Float64,
    "speedup_default": pl.Float64,
    "speedup_static": pl.Float64,
    "speedup_static_low": pl.Float64,
    "speedup_static_high": pl.Float64,
    "acceptance_length": pl.Float64,
    "draft_calls": pl.Float64,
    "oracle_gap_closed": pl.Float64,
    "prompts": pl.Int64,
    "texts": pl.Int64,
    "rounds": pl.Int64,
    "training_seconds": pl.Float64,
    "decision_microseconds": pl.Float64,
    "hardware": pl.String,
    "marginal_draft_share": pl.Float64,
    "baseline": pl.String,
    **FACTS,
}


@dataclass(frozen=True)
class Contender:
    """A policy in the comparison.

    Attributes:
        name: how the table calls it.
        kind: ``static``, ``rule``, ``learned`` or ``oracle``.
        walk: its walk over the held-out texts.
        training_seconds: what training took; None for what is not trained.
        decision_microseconds: median of a decision as measured here; None where nobody measured it.
        facts: what is known of a run, by the names of ``FACTS``.
    """

    name: str
    kind: str
    walk: Walk = field(repr=False)
    training_seconds: float | None = None
    decision_microseconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)


def contenders(
    outcomes: Outcomes, rules: TunedRules, learned: Sequence[tuple[str, Policy, float | None]]
) -> list[Contender]:
    """Every static depth, the tuned rules, the learned policies and the oracle, walked over ``outcomes``.

    Args:
        outcomes: of the held-out texts.
        rules: tuned on the training texts.
        learned: name, policy and training seconds of each.
    """
    statics = [StaticDepth(depth) for depth in range(1, outcomes.max_depth + 1)]
    rows = [Contender(rule.name, "static", walk_policy(outcomes, rule)) for rule in statics]
    rows += [Contender(rule.name, "rule", walk_policy(outcomes, rule)) for rule in rules.rules]
    rows += [Contender(name, "learned", walk_policy(outcomes, policy), seconds) for name, policy, seconds in learned]
    rows.append(Contender("oracle", "oracle", walk_oracle(outcomes)))
    return rows


@dataclass(frozen=True)
class _Group:
    """The texts of a task: their walks by policy, and the number of each text's prompt, 0 … prompts − 1."""

    task: str
    walks: dict[str, Walk]
    prompt: NDArray[np.int64]

    @property
    def prompts(self) -> int:
        return int(self.prompt.max()) + 1

    def seconds(self, policy: str) -> NDArray[np.float64]:
        """[prompts], those that a policy takes for each prompt."""
        return per_prompt(self.walks[policy].seconds, self.prompt)


def comparison(
    outcomes: Outcomes, entries: Sequence[Contender], baseline: str, *, resamples: int, seed: int
) -> pl.DataFrame:
    """One row per task and policy: ``all`` tasks' texts first, then the ``mean`` over tasks, then each task.

    Args:
        outcomes: of the held-out texts.
        entries: their walks; the last is the oracle's. The default depth's (``max_depth``, EAGLE-3's 8 calls), if it is
            there, is what ``speedup_default`` compares with.
        baseline: name of the tuned static depth, which the others are compared with.
        resamples, seed: of the bootstrap.

    Returns:
        Columns as ``SCHEMA``. Speedups are ratios (1 = as fast); null where the profile has no autoregressive time, the
        default depth is not there, or prompts are too few for an interval. ``oracle_gap_closed`` is (policy − baseline)
        / (oracle − baseline) in tokens per second, null where the gap is zero. Texts that emit nothing after their
        first token don't count.
        In rows of the task ``mean`` every task weighs the same: figures are means over the tasks' own (the share of the
        gap is the mean gain over the oracle's), the interval draws prompts within each task, and counts are sums. A
        single task has neither these rows nor rows of its own.

    Raises:
        ConfigError: two policies have the same name.
    """
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"two policies are called {', '.join(double)}; rename a run's folder")
    together, *tasks = _groups(outcomes, entries)
    by_task = [_rows(outcomes, entries, baseline, group, resamples, seed) for group in tasks]
    rows = _rows(outcomes, entries, baseline, together, resamples, seed)
    if tasks:
        rows += _mean_rows(entries, baseline, tasks, by_task, resamples, seed)
    rows += [row for of_task in by_task for row in of_task]
    known = {entry.name: {name: entry.facts.get(name) for name in FACTS} for entry in entries}
    return pl.DataFrame([row | known[row["policy"]] for row in rows], schema=SCHEMA)


def _groups(outcomes: Outcomes, entries: Sequence[Contender]) -> list[_Group]:
    """All texts that were decoded, then those of each task if there are several."""
    sequences = outcomes.trace.sequences
    decoded = entries[0].walk.rounds > 0
    tasks = np.array(sequences.task)
    masks: list[tuple[str, NDArray[np.bool_]]] = [(ALL_TASKS, decoded)]
    masks += [(str(task), decoded & (tasks == task)) for task in np.unique(tasks[decoded])]
    groups = []
    for task, texts in masks if len(masks) > 2 else masks[:1]:
        # Tasks number their prompts independently: a prompt is (task, id).
        names = [f"{sequences.task[i]}/{sequences.prompt_id[i]}" for i in np.flatnonzero(texts)]
        prompt = np.unique(names, return_inverse=True)[1].astype(np.int64)
        groups.append(_Group(task, {entry.name: entry.walk.of_sequences(texts) for entry in entries}, prompt))
    return groups


def _rows(
    outcomes: Outcomes, entries: Sequence[Contender], baseline: str, group: _Group, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The figures of every policy over a group's texts."""
    walks, hardware = group.walks, outcomes.hardware
    base, best = walks[baseline], walks[entries[-1].name]
    default = walks.get(StaticDepth(outcomes.max_depth).name)
    gap = best.tokens_per_second - base.tokens_per_second
    alone = hardware.autoregressive_seconds
    rows = []
    for entry in entries:
        run = walks[entry.name]
        interval = speedup_interval(group.seconds(entry.name), group.seconds(baseline), resamples, seed)
        rows.append(
            {
                "policy": entry.name,
                "kind": entry.kind,
                "task": group.task,
                "tokens_per_second": run.tokens_per_second,
                "speedup_autoregressive": run.tokens_per_second * alone if alone else None,
                "speedup_default": run.tokens_per_second / default.tokens_per_second if default else None,
                "speedup_static": run.tokens_per_second / base.tokens_per_second,
                "speedup_static_low": interval[0] if interval else None,
                "speedup_static_high": interval[1] if interval else None,
                "acceptance_length": run.acceptance_length,
                "draft_calls": run.draft_calls_per_round,
                "oracle_gap_closed": (run.tokens_per_second - base.tokens_per_second) / gap if gap > 0 else None,
                "prompts": group.prompts,
                "texts": len(run.rounds),
                "rounds": int(run.rounds.sum()),
                "training_seconds": entry.training_seconds,
                "decision_microseconds": entry.decision_microseconds,
                "hardware": hardware.name,
                "marginal_draft_share": hardware.draft_share(int(outcomes.nodes[-1])),
                "baseline": baseline,
            }
        )
    return rows


# Figures of a policy whose mean over tasks is told.
MEANS = (
    "tokens_per_second",
    "speedup_autoregressive",
    "speedup_default",
    "speedup_static",
    "acceptance_length",
    "draft_calls",
)


def _mean_rows(
    entries: Sequence[Contender],
    baseline: str,
    groups: Sequence[_Group],
    by_task: Sequence[list[dict[str, Any]]],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The mean of every policy's figures over the tasks."""
    base = [group.seconds(baseline) for group in groups]
    rows = []
    for entry, *own in zip(entries, *by_task, strict=True):
        means = {name: _mean([row[name] for row in own]) for name in MEANS}
        counts = {name: sum(row[name] for row in own) for name in ("prompts", "texts", "rounds")}
        interval = mean_speedup_interval([group.seconds(entry.name) for group in groups], base, resamples, seed)
        low, high = interval or (None, None)
        ends = {"speedup_static_low": low, "speedup_static_high": high}
        rows.append(own[0] | means | counts | ends | {"task": MEAN_OF_TASKS})
    gap = rows[-1]["speedup_static"] - 1
    for row in rows:
        row["oracle_gap_closed"] = (row["speedup_static"] - 1) / gap if gap > 0 else None
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def headline(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows by which runs are judged: of means over tasks where there are any, else over all texts."""
    means = rows.filter(pl.col("task") == MEAN_OF_TASKS)
    return rows.filter(pl.col("task") == ALL_TASKS) if means.is_empty() else means
