"""Policies trained for several machines, decoding live on this one, beside what the replay says of the same texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from radar_rl.benchmarks.experiment import Experiment
from radar_rl.benchmarks.live import ALONE, Asked, decode_all, held_out_texts
from radar_rl.benchmarks.machines import Machine
from radar_rl.errors import ConfigError
from radar_rl.evaluation.trained import seen_features
from radar_rl.offline.run import load_run
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import Policy, StaticDepth
from radar_rl.rollouts import DataSet, load_trace, trace_settings
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.models import pair_from_config
from radar_rl.speculative.text import Options


def decode_live(
    work: Experiment,
    model: Mapping[str, Any],
    traces: str,
    here: Machine,
    runs: Mapping[str, Path],
    held_out: float,
    per_task: int,
) -> pl.DataFrame:
    """Decode held-out texts of a trace with every policy, this machine's tuned static depth and the target alone.

    Args:
        work: what keeps the rows of ``live.decode_all``.
        model: the pair.
        traces: folder of the trace.
        here: this machine.
        runs: a run for each machine, by its label.
        held_out: share of the prompts that nobody trained or tuned on.
        per_task: texts of each task.

    Returns:
        The rows, the target's alone first, with ``same_text`` (as the target's alone), ``replayed_seconds`` of the same
        text by ``here``'s profile, and ``same_rounds``: whether rounds and draft calls are the replay's.

    Raises:
        ConfigError: the trace's texts were given, so that decoding would bring others.
    """
    made = trace_settings(traces)
    if made.source != "model":
        raise ConfigError(
            f"traces={traces}: its texts were given, not written by the target: leave out live with live=0"
        )
    loaded = {label: load_run(run) for label, run in runs.items()}
    static = StaticDepth(int(loaded[here.label].about["best_static_depth"]))
    policies: dict[str, Policy] = {f"{static.name} (tuned)": static}
    policies |= {f"trained for {label}": run.policy for label, run in loaded.items()}
    texts = _first(held_out_texts(traces, held_out), per_task)
    sampling: Options = {
        "max_new_tokens": int(DataSet.read(traces, "traces").settings["max_new_tokens"]),
        "temperature": made.temperature,
        "sample_top_k": made.sample_top_k,
        "sample_top_p": made.sample_top_p,
    }
    pair = pair_from_config(model)
    shape: dict[str, Any] = {"max_depth": made.max_depth, "top_k": made.top_k, "tree_size": made.tree_size}
    decoders = {name: SpeculativeDecoder(pair, policy, strict=True, **shape) for name, policy in policies.items()}
    decode_all(work, pair, decoders, texts, sampling)
    replayed = _replayed(traces, texts, policies, seen_features(list(loaded.values())), here)
    rows = pl.DataFrame([row for row in work.rows if "text" in row])
    own = rows.filter(pl.col("policy") == ALONE).select("text", pl.col("digest").alias("own"))
    order = pl.DataFrame({"policy": [ALONE, *policies], "place": range(len(policies) + 1)})
    joined = rows.join(own, on="text").join(order, on="policy").join(replayed, on=["text", "policy"])
    return joined.with_columns(
        same_text=pl.col("digest") == pl.col("own"),
        same_rounds=(pl.col("rounds") == pl.col("replayed_rounds"))
        & (pl.col("draft_calls") == pl.col("replayed_calls")),
    ).sort("place", maintain_order=True)


def _first(texts: Sequence[Asked], per_task: int) -> list[Asked]:
    """The first texts of each task."""
    tasks = dict.fromkeys(text.task for text in texts)
    return [text for task in tasks for text in [own for own in texts if own.task == task][:per_task]]


def _replayed(
    traces: str, texts: Sequence[Asked], policies: Mapping[str, Policy], features: Sequence[str], here: Machine
) -> pl.DataFrame:
    """What a replay says of each text and policy; of the target alone, its seconds a token."""
    names = [text.name for text in texts]
    trace = load_trace(traces, keep=lambda some: np.isin(some.sequence_id, names), features=features)
    outcomes = Outcomes.of(trace, here.profile)
    ids = trace.sequences.sequence_id
    walks = {name: walk_policy(outcomes, policy) for name, policy in policies.items()}
    tokens = next(iter(walks.values())).emitted
    alone = tokens * (here.profile.autoregressive_seconds or 0.0)  # nothing is divided by it where it is not known
    nothing = np.zeros_like(tokens)
    parts = [(ALONE, alone, nothing, nothing)]
    parts += [(name, walk.seconds, walk.rounds, walk.draft_calls) for name, walk in walks.items()]
    return pl.concat(
        pl.DataFrame(
            {"text": ids, "replayed_seconds": seconds, "replayed_rounds": rounds, "replayed_calls": calls}
        ).with_columns(policy=pl.lit(name))
        for name, seconds, rounds, calls in parts
    )
