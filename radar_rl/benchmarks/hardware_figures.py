"""The figures of ``bench hardware``: what an evaluation says of each machine, and live seconds beside replayed ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.machines import Machine
from radar_rl.benchmarks.ratios import ratio, relative
from radar_rl.evaluation.compare import headline
from radar_rl.evaluation.retarget import retargetings

STATIC, RULE, OWN, OTHERS, ORACLE = "tuned static", "best rule", "trained for it", "trained for others", "oracle"


def replay_rows(table: pl.DataFrame, machines: Sequence[Machine]) -> list[dict[str, Any]]:
    """What the policies bring on each machine.

    Args:
        table: what ``evaluate`` wrote; the rows that runs are judged by count (``compare.headline``).
        machines: the machines.

    Returns:
        For each machine and ``who``, ``STATIC`` … ``ORACLE``: ``policy``, its name or how many policies the figures
        are means over; ``tokens_per_second``, ``gain`` over the tuned static depth with its 95 % interval ``low`` …
        ``high`` (None for means), ``oracle_gap_closed``, ``acceptance_length``, ``draft_calls``; ``draft_share``, a
        draft call over a round's rest. The best rule is the one that is fastest on the very texts, which flatters it.
    """
    rows = []
    for machine in machines:
        name = machine.profile.name
        on = headline(table).filter(pl.col("hardware") == name)
        learned = on.filter(pl.col("kind") == "learned")
        groups = {
            STATIC: on.filter(pl.col("policy") == pl.col("baseline")),
            RULE: on.filter(pl.col("kind") == "rule").sort("tokens_per_second", descending=True).head(1),
            OWN: learned.filter(pl.col("trained_for") == name),
            OTHERS: learned.filter(pl.col("trained_for") != name),
            ORACLE: on.filter(pl.col("kind") == "oracle"),
        }
        rows += [
            {"stage": "replay", "hardware": machine.label, "who": who, **_means(group)} for who, group in groups.items()
        ]
    return rows


def _means(group: pl.DataFrame) -> dict[str, Any]:
    """The figures of a policy, or their means over several."""
    one = group.row(0, named=True)
    alone = group.height == 1
    means: dict[str, Any] = group.select(
        pl.col("tokens_per_second", "oracle_gap_closed", "acceptance_length", "draft_calls").mean(),
        gain=pl.col("speedup_static").mean() - 1,
    ).row(0, named=True)
    return {
        "policy": one["policy"] if alone else f"mean of {group.height}",
        **means,
        "low": one["speedup_static_low"] - 1 if alone and one["speedup_static_low"] else None,
        "high": one["speedup_static_high"] - 1 if alone and one["speedup_static_high"] else None,
        "draft_share": one["marginal_draft_share"],
    }


def matrix_rows(table: pl.DataFrame, machines: Sequence[Machine]) -> list[dict[str, Any]]:
    """The retargeting matrix: ``gain`` over the static depth tuned for ``hardware``, of what was ``trained_for`` one.

    Args:
        table: what ``evaluate`` wrote.
        machines: the machines.
    """
    [matrix] = retargetings(table)
    labels = {machine.profile.name: machine.label for machine in machines}
    return [
        {"stage": "matrix", "trained_for": labels[trained], "hardware": labels[on], "gain": float(gain)}
        for trained, gains in zip(matrix.trained_for, matrix.gains, strict=True)
        for on, gain in zip(matrix.run_on, gains, strict=True)
    ]


def live_figures(texts: pl.DataFrame) -> list[dict[str, Any]]:
    """Live beside replay, by policy.

    Args:
        texts: what ``hardware_live.decode_live`` returned.

    Returns:
        The target alone first: ``policy``, ``tau``, ``draft_calls`` a round; ``live`` and ``replayed`` tokens/s and the
        prediction's ``error`` (replayed / live − 1); ``live_speedup`` and ``replayed_speedup`` over the target alone
        and the ``speedup_error``; ``texts``, of which ``same_text`` are the target's own and ``same_rounds`` have the
        very rounds of the replay. None: there is nothing to divide by, such as rounds of the target alone.
    """
    sums = texts.group_by("policy", maintain_order=True).agg(
        pl.col("tokens", "rounds", "draft_calls", "seconds", "replayed_seconds", "same_text", "same_rounds").sum(),
        texts=pl.len(),
    )
    own = sums.row(by_predicate=pl.col("policy") == ALONE, named=True)
    told = []
    for row in sums.iter_rows(named=True):
        live, replayed = _speeds(row)
        speedup, foreseen = (ratio(speed, alone) for speed, alone in zip((live, replayed), _speeds(own), strict=True))
        told.append(
            {
                "policy": row["policy"],
                "tau": ratio(row["tokens"], row["rounds"]),
                "draft_calls": ratio(row["draft_calls"], row["rounds"]),
                "live": live,
                "replayed": replayed,
                "error": relative(replayed, live),
                "live_speedup": speedup,
                "replayed_speedup": foreseen,
                "speedup_error": relative(foreseen, speedup),
                **{name: row[name] for name in ("texts", "same_text", "same_rounds")},
            }
        )
    return told


def _speeds(sums: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Tokens per second, live and replayed."""
    return ratio(sums["tokens"], sums["seconds"]), ratio(sums["tokens"], sums["replayed_seconds"])
