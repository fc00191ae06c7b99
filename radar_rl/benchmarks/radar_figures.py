"""What ``bench radar`` measured and what the replay of the same texts predicts, as figures of each policy and task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.ratios import check_timed, ratio, relative
from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.statistics import speedup_interval
from radar_rl.offline.walk import Outcomes, Walk, walk_oracle, walk_policy
from radar_rl.policies import Policy
from radar_rl.rollouts import Trace
from radar_rl.speculative.hardware import HardwareProfile

ORACLE = "oracle"
TUNED = "tuned static"
LIVE, REPLAYED = "live", "replayed"

COUNTS = ("tokens", "seconds", "rounds", "draft_calls")


@dataclass(frozen=True)
class Contest:
    """What the figures are made from.

    Attributes:
        live: rows of ``decode_all``.
        trace: the same texts, traced.
        profile: what the replay takes a round to cost.
        policies: by name, those that can be replayed.
        shown: how tables call those that were decoded, in their order.
    """

    live: pl.DataFrame
    trace: Trace
    profile: HardwareProfile
    policies: Mapping[str, Policy]
    shown: Mapping[str, str]

    def same_texts(self) -> tuple[int, int]:
        """Texts that came out as the target alone decodes them, and texts decoded, all policies together."""
        alone = self.live.filter(pl.col("policy") == ALONE).select("text", own="digest")
        others = self.live.filter(pl.col("policy") != ALONE).join(alone, on="text")
        return int((others["digest"] == others["own"]).sum()), others.height

    def replayed(self) -> pl.DataFrame:
        """Every policy's walk, the oracle's and the target alone: a row per policy and text, columns as ``COUNTS``."""
        outcomes = Outcomes.of(self.trace, self.profile)
        walks = {name: walk_policy(outcomes, policy) for name, policy in self.policies.items()}
        walks[ORACLE] = walk_oracle(outcomes)
        tables = [_by_text(name, walk, self.trace) for name, walk in walks.items()]
        one = self.profile.autoregressive_seconds
        if one is not None:
            nothing = pl.lit(0, dtype=pl.Int64)
            tables.append(
                tables[0].with_columns(
                    policy=pl.lit(ALONE), seconds=one * pl.col("tokens"), rounds=nothing, draft_calls=nothing
                )
            )
        return pl.concat(tables)


def _by_text(name: str, walk: Walk, trace: Trace) -> pl.DataFrame:
    texts = trace.sequences
    return pl.DataFrame(
        {
            "policy": [name] * len(texts),
            "text": texts.sequence_id,
            "task": texts.task,
            "tokens": walk.emitted,
            "seconds": walk.seconds,
            "rounds": walk.rounds,
            "draft_calls": walk.draft_calls,
        }
    )


def figures(contest: Contest, resamples: int, seed: int) -> pl.DataFrame:
    """The figures of every policy over all texts (task ``all``) and over each task's.

    Args:
        contest: what was measured.
        resamples, seed: of the intervals, a paired bootstrap over prompts.

    Returns:
        Columns ``policy``, ``task``, ``texts``; then of live decoding and, with ``_replayed``, of the replay:
        ``tokens_per_second``, ``speedup`` (over the target alone), ``acceptance_length`` (τ), ``draft_calls`` (a
        round); ``replay_error`` (replayed tokens/s over live ones, minus 1), ``agreeing`` (texts whose tokens, rounds
        and draft calls are the same live and replayed); ``gain`` (live, over the tuned static depth, minus 1) with
        ``gain_low`` and ``gain_high``, its 95 % interval. Null: not there, such as EAGLE-2's replay or the oracle live,
        or whatever is of a task whose texts all end with their first token.

    Raises:
        InputError: that is so for all tasks.
    """
    check_timed(contest.live)
    replayed = contest.replayed()
    names = [ALONE, *contest.shown, ORACLE]
    rows = []
    for task in [ALL_TASKS, *contest.live["task"].unique(maintain_order=True)]:
        live, replay = _of_task(contest.live, task), _of_task(replayed, task)
        own, predicted = dict(_totals(live)), dict(_totals(replay))
        for name in names:
            row: dict[str, Any] = {"policy": name, "task": task}
            row |= _speeds(own.get(name), own.get(ALONE), "")
            row |= _speeds(predicted.get(name), predicted.get(ALONE), f"_{REPLAYED}")
            row["replay_error"] = relative(row["tokens_per_second_replayed"], row["tokens_per_second"])
            row |= _agreement(live, replay, name) | _gain(live, name, resamples, seed)
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _of_task(rows: pl.DataFrame, task: str) -> pl.DataFrame:
    return rows if task == ALL_TASKS else rows.filter(pl.col("task") == task)


def _totals(rows: pl.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each policy's counts, summed over texts."""
    for row in rows.group_by("policy").agg(pl.col(COUNTS).sum()).iter_rows(named=True):
        yield row.pop("policy"), row


def _speeds(total: Mapping[str, Any] | None, alone: Mapping[str, Any] | None, of: str) -> dict[str, float | None]:
    """A policy's figures, of totals over some texts."""
    found: dict[str, float | None] = dict.fromkeys(
        f"{name}{of}" for name in ("tokens_per_second", "speedup", "acceptance_length", "draft_calls")
    )
    if total is None or not total["tokens"]:
        return found
    speed = ratio(total["tokens"], total["seconds"])
    found[f"tokens_per_second{of}"] = speed
    if alone is not None:
        found[f"speedup{of}"] = ratio(speed, ratio(alone["tokens"], alone["seconds"]))
    found[f"acceptance_length{of}"] = ratio(total["tokens"], total["rounds"])
    found[f"draft_calls{of}"] = ratio(total["draft_calls"], total["rounds"])
    return found


def _agreement(live: pl.DataFrame, replay: pl.DataFrame, name: str) -> dict[str, int | None]:
    """Texts, and those on which live decoding and replay count the same."""
    own = live.filter(pl.col("policy") == name)
    both = own.join(replay.filter(pl.col("policy") == name), on="text", suffix="_replayed")
    counted = ("tokens", "rounds", "draft_calls")
    same = pl.all_horizontal(pl.col(column) == pl.col(f"{column}_replayed") for column in counted)
    known = name != ALONE and not both.is_empty()
    return {"texts": own.height, "agreeing": both.filter(same).height if known else None}


def _gain(live: pl.DataFrame, name: str, resamples: int, seed: int) -> dict[str, float | None]:
    """How much faster than the tuned static depth a policy was, live."""
    seconds, base = _per_prompt(live, name), _per_prompt(live, TUNED)
    if not len(seconds) or not seconds.sum() or name == TUNED:
        return {"gain": None, "gain_low": None, "gain_high": None}
    interval = speedup_interval(seconds, base, resamples, seed)
    low, high = interval or (None, None)
    return {
        "gain": float(base.sum() / seconds.sum()) - 1,
        "gain_low": None if low is None else low - 1,
        "gain_high": None if high is None else high - 1,
    }


def _per_prompt(live: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """A policy's seconds for each prompt, the prompts in the same order for all."""
    of_prompt = live.filter(pl.col("policy") == name).group_by("task", "prompt_id").agg(pl.col("seconds").sum())
    return of_prompt.sort("task", "prompt_id")["seconds"].to_numpy().astype(np.float64)
