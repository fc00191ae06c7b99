"""What ``bench banditspec`` measured, as figures: throughput, best and worst arm in hindsight, bandits' regret."""

from typing import Any

import polars as pl

from radar_rl.benchmarks.ratios import check_timed, ratio, relative

ALONE = "autoregressive"
BANDITS = ("ucbspec", "ucbspec-throughput", "exp3spec")
BEST, WORST = "best arm", "worst arm"
WARM_UP, REPLAY = "warm-up", "replay"  # what stands in ``part`` beside the numbers of batches

ARM, BANDIT, HINDSIGHT, REFERENCE = "arm", "bandit", "hindsight", "reference"

SCHEMA = {
    "target": pl.String,
    "batch": pl.Int64,
    "policy": pl.String,
    "kind": pl.String,
    "tokens_per_second": pl.Float64,
    "improvement": pl.Float64,
    "acceptance_length": pl.Float64,
    "draft_calls": pl.Float64,
    "regret": pl.Float64,
    "regret_hindsight": pl.Float64,
    "gain": pl.Float64,
    "more_rounds": pl.Float64,
    "texts": pl.Int64,
    "same_text": pl.Int64,
    "replayed_tokens_per_second": pl.Float64,
    "replayed_improvement": pl.Float64,
    "replay_error": pl.Float64,
}


def figures(measured: pl.DataFrame) -> pl.DataFrame:
    """A row per target, batch size and policy.

    Args:
        measured: rows as ``banditspec.decode_batches`` and ``replay`` add them.

    Returns:
        Columns as ``SCHEMA``. ``kind`` is ``reference`` (the target alone), ``arm``, ``bandit``, or ``hindsight``: the
        best or worst arm of each batch, chosen when all are known (the paper's "best" and "worst", §6.2).
        ``improvement`` is throughput over the target's alone. Of bandits: ``regret``, the share of the throughput of
        the best arm, one for all batches, that is lost; ``regret_hindsight``, that of the best arm of each batch;
        ``gain`` over the worst arm, one for all batches; ``more_rounds`` a text than the arm with the fewest, the
        paper's stopping-time regret (1). ``same_text`` counts texts that are those of the target alone. Replayed
        figures, with their error against live ones, are null but for batches of 1. Where no text has a token after its
        first one, every figure is null.

    Raises:
        InputError: that is so at every batch size.
    """
    replayed = measured.filter(pl.col("part") == REPLAY)
    live = measured.filter(~pl.col("part").is_in([WARM_UP, REPLAY]))
    check_timed(live)
    rows: list[dict[str, Any]] = []
    for (target, batch), here in live.group_by("target", "batch", maintain_order=True):
        beside = replayed.filter((pl.col("target") == target) & (pl.col("batch") == batch))
        rows += [{"target": target, "batch": batch, **row} for row in _of_size(here, _speeds(beside))]
    return pl.DataFrame(rows, schema=SCHEMA)


def _speeds(rows: pl.DataFrame) -> dict[str, float]:
    """Tokens per second of each policy that has any, over all rows."""
    totals = rows.group_by("policy").agg(pl.col("tokens", "seconds").sum()).filter(pl.col("tokens") > 0)
    return {row["policy"]: row["tokens"] / row["seconds"] for row in totals.iter_rows(named=True)}


def _of_size(live: pl.DataFrame, replayed: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of one target and batch size."""
    speeds = _speeds(live)
    tried = set(live["policy"]) - {ALONE, *BANDITS}
    arms = sorted(tried, key=lambda name: int(name.split("-")[1]))
    speeds |= _in_hindsight(live, arms)
    best, worst = (chosen((speeds[arm] for arm in arms if arm in speeds), default=None) for chosen in (max, min))
    totals = live.group_by("policy").agg(
        pl.col("rounds", "draft_calls", "tokens").sum(), pl.col("texts").list.len().sum()
    )
    sums = {row["policy"]: row for row in totals.iter_rows(named=True)}
    fewest = min(sums[arm]["rounds"] for arm in arms)
    same = _same_texts(live)
    kinds = {ALONE: REFERENCE, **dict.fromkeys(arms, ARM), BEST: HINDSIGHT, WORST: HINDSIGHT}
    rows = []
    for name, kind in {**kinds, **dict.fromkeys(BANDITS, BANDIT)}.items():
        own, speed = sums.get(name), speeds.get(name)
        row: dict[str, Any] = {"policy": name, "kind": kind, "tokens_per_second": speed}
        row["improvement"] = ratio(speed, speeds.get(ALONE))
        if own is not None:
            row |= {"texts": own["texts"], "same_text": same[name]}
        if own is not None and own["rounds"]:
            row["acceptance_length"] = own["tokens"] / own["rounds"]
            row["draft_calls"] = own["draft_calls"] / own["rounds"]
        if own is not None and kind == BANDIT:
            row |= {"regret": _lost(speed, best), "regret_hindsight": _lost(speed, speeds.get(BEST))}
            row["gain"] = relative(speed, worst)
            row["more_rounds"] = (own["rounds"] - fewest) / own["texts"]
        if name in replayed:
            row["replayed_tokens_per_second"] = replayed[name]
            row["replayed_improvement"] = ratio(replayed[name], replayed.get(ALONE))
            row["replay_error"] = relative(replayed[name], speed)
        rows.append({column: row.get(column) for column in SCHEMA if column not in ("target", "batch")})
    return rows


def _lost(speed: float | None, best: float | None) -> float | None:
    """The share of the best throughput that is lost."""
    share = ratio(speed, best)
    return None if share is None else 1 - share


def _in_hindsight(live: pl.DataFrame, arms: list[str]) -> dict[str, float]:
    """Tokens per second if every batch had its best arm, or its worst."""
    tried = live.filter(pl.col("policy").is_in(arms)).sort("seconds")  # an arm's batch has the same tokens as another's
    best, worst = tried.group_by("part").first(), tried.group_by("part").last()
    return _speeds(pl.concat([best.with_columns(policy=pl.lit(BEST)), worst.with_columns(policy=pl.lit(WORST))]))


def _same_texts(live: pl.DataFrame) -> dict[str, int]:
    """How many texts of each policy are those of the target alone."""
    alone = {row["part"]: row["texts"] for row in live.filter(pl.col("policy") == ALONE).iter_rows(named=True)}
    same = dict.fromkeys(live["policy"], 0)
    for row in live.iter_rows(named=True):
        same[row["policy"]] += sum(a == b for a, b in zip(row["texts"], alone[row["part"]], strict=True))
    return same
