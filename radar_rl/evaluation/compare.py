"""The comparison: every policy's walk over the same held-out texts, as rows of figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.evaluation.statistics import per_prompt, speedup_interval
from radar_rl.offline.tuning import TunedRules
from radar_rl.offline.walk import Outcomes, Walk, walk_oracle, walk_policy
from radar_rl.policies.protocol import Policy
from radar_rl.policies.static import StaticDepth

ALL_TASKS = "all"

SCHEMA = {
    "policy": pl.String,
    "kind": pl.String,
    "task": pl.String,
    "tokens_per_second": pl.Float64,
    "speedup_autoregressive": pl.Float64,
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
    "hardware": pl.String,
    "marginal_draft_share": pl.Float64,
}


@dataclass(frozen=True)
class Contender:
    """A policy in the comparison.

    Attributes:
        name: how the table calls it.
        kind: ``static``, ``rule``, ``learned`` or ``oracle``.
        walk: its walk over the held-out texts.
        training_seconds: what training took; None for what is not trained.
    """

    name: str
    kind: str
    walk: Walk = field(repr=False)
    training_seconds: float | None = None


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


def comparison(
    outcomes: Outcomes, entries: Sequence[Contender], baseline: str, *, resamples: int, seed: int
) -> pl.DataFrame:
    """One row per task (``all`` first) and policy.

    Args:
        outcomes: of the held-out texts.
        entries: their walks; the last is the oracle.
        baseline: name of the tuned static depth, which the others are compared with.
        resamples, seed: of the bootstrap.

    Returns:
        Columns as ``SCHEMA``. Speedups are ratios (1 = as fast); null where the profile has no autoregressive time or
        prompts are too few for an interval. ``oracle_gap_closed`` is (policy − baseline) / (oracle − baseline) in
        tokens per second, null where the gap is zero. Texts that emit nothing after their first token don't count.
    """
    sequences = outcomes.trace.sequences
    decoded = entries[0].walk.rounds > 0
    tasks = np.array(sequences.task)
    groups: list[tuple[str, NDArray[np.bool_]]] = [(ALL_TASKS, decoded)]
    groups += [(str(task), decoded & (tasks == task)) for task in np.unique(tasks[decoded])]
    if len(groups) == 2:  # a single task is all there is
        groups = groups[:1]
    rows: list[dict[str, Any]] = []
    for task, texts in groups:
        # Tasks number their prompts independently: a prompt is (task, id).
        names = [f"{sequences.task[i]}/{sequences.prompt_id[i]}" for i in np.flatnonzero(texts)]
        prompt = np.unique(names, return_inverse=True)[1].astype(np.int64)
        walks = {entry.name: entry.walk.of_sequences(texts) for entry in entries}
        base, best = walks[baseline], walks[entries[-1].name]
        gap = best.tokens_per_second - base.tokens_per_second
        for entry in entries:
            run = walks[entry.name]
            interval = speedup_interval(
                per_prompt(run.seconds, prompt), per_prompt(base.seconds, prompt), resamples, seed
            )
            alone = outcomes.hardware.autoregressive_seconds
            rows.append(
                {
                    "policy": entry.name,
                    "kind": entry.kind,
                    "task": task,
                    "tokens_per_second": run.tokens_per_second,
                    "speedup_autoregressive": run.tokens_per_second * alone if alone else None,
                    "speedup_static": run.tokens_per_second / base.tokens_per_second,
                    "speedup_static_low": interval[0] if interval else None,
                    "speedup_static_high": interval[1] if interval else None,
                    "acceptance_length": run.acceptance_length,
                    "draft_calls": run.draft_calls_per_round,
                    "oracle_gap_closed": (run.tokens_per_second - base.tokens_per_second) / gap if gap > 0 else None,
                    "prompts": int(prompt.max()) + 1,
                    "texts": int(texts.sum()),
                    "rounds": int(run.rounds.sum()),
                    "training_seconds": entry.training_seconds,
                    "hardware": outcomes.hardware.name,
                    "marginal_draft_share": outcomes.hardware.marginal_draft_share,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)
