"""``radar-rl bench features``: what each feature adds to a round of one text, beside a draft call's own time."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table

from radar_rl.benchmarks.telling import in_line, machine, tell
from radar_rl.errors import ConfigError, InputError, check_whole
from radar_rl.progress import track
from radar_rl.runtime import autoregressive
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.profiler import clock
from radar_rl.speculative import NgramIndex, Pair
from radar_rl.speculative.draft_call import LiveSlots
from radar_rl.speculative.features import FEATURES, Features, check_columns, checked_names, match_length
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import TreeGrowth

EVERY = 4
"""Tokens from one root to the next."""


@dataclass(frozen=True)
class FeatureCost:
    """What one feature costs.

    Attributes:
        name: of the feature.
        numbers: that a decision reads.
        seconds: of a draft call, or of a round where the feature is a function of its root alone; the device's work
            included, the one read that brings them to the host with the confidences not.
        per_call: which of the two.
    """

    name: str
    numbers: int
    seconds: float
    per_call: bool


@dataclass(frozen=True)
class FeatureMeasurement:
    """What ``measure`` found; medians over repeats of means over calls or rounds.

    Attributes:
        draft_seconds: a draft call without features, the first ones of rounds left out.
        costs: of each feature.
        rounds: that each repeat measured.
    """

    draft_seconds: float
    costs: list[FeatureCost]
    rounds: int


def measure(
    pair: Pair,
    texts: Sequence[tuple[int, Sequence[int]]],
    names: Sequence[str],
    *,
    max_depth: int,
    top_k: int,
    tree_size: int,
    feature_dim: int,
    repeats: int,
) -> FeatureMeasurement:
    """Grow the trees of rounds all along some texts, one at a time as in live decoding, and time each feature.

    Args:
        texts: prompt length and token ids, prompt and completion, of each.
        names: of features.
        repeats: passes that count; one before them warms up.
    """
    single = {
        name: Features(pair.head, [name], tree_size=tree_size, feature_dim=feature_dim, feature_seed=0)
        for name in checked_names(names, feature_dim)
    }
    shape = {"top_k": top_k, "max_depth": max_depth}
    passes: list[dict[str, list[float]]] = []
    with torch.inference_mode():
        for repeat in track(range(repeats + 1), repeats + 1, "bench features"):
            spent: dict[str, list[float]] = {name: [] for name in ("draft", *single)}
            for prompt_length, token_ids in texts:
                _along(pair, prompt_length, list(token_ids), single, shape, spent)
            if repeat > 0:
                passes.append(spent)

    def median(name: str) -> float:
        return statistics.median(statistics.fmean(spent[name]) for spent in passes)

    costs = []
    for name in single:
        feature = FEATURES[name]
        row = feature.shape(**shape, feature_dim=feature_dim)
        numbers = math.prod(row[1:] if feature.per_call else row)
        costs.append(FeatureCost(name, numbers, median(name), feature.per_call))
    rounds = sum(len(range(prompt_length, len(ids) - 1, EVERY)) for prompt_length, ids in texts)
    return FeatureMeasurement(median("draft"), costs, rounds)


def _along(
    pair: Pair,
    prompt_length: int,
    token_ids: list[int],
    single: Mapping[str, Features],
    shape: Mapping[str, int],
    spent: dict[str, list[float]],
) -> None:
    """Add the seconds of each call of a round at every fourth token of one text."""
    device, length, max_depth = pair.target.device, len(token_ids), shape["max_depth"]
    text = torch.tensor(token_ids, device=device)
    _, read = pair.target.extend(text, TargetCache(pair.target.model, length))
    cache = DraftCache(pair.head, length + max_depth * (shape["top_k"] + 1))
    hidden = cache.extend(pair.head, read[None, :-1], text[None, 1:], [length - 1])[0]

    def timed(name: str, function: Callable[[], object]) -> None:
        start = clock(pair)
        function()
        spent[name].append(clock(pair) - start)

    roots = range(prompt_length, length - 1, EVERY)
    if "ngram" in single:
        index = NgramIndex()
        index.extend(token_ids[:prompt_length])
        for root in roots:
            timed("ngram", partial(_match, index, token_ids[len(index.token_ids) : root + 1]))
    # A root's tree is written over the slots behind it, so the last root goes first.
    for root in reversed(roots):
        cache.lengths = [root]
        position, before = torch.tensor([root], device=device), read[root - 1 : root]
        alone, kept = (
            TreeGrowth(
                pair.head,
                LiveSlots(cache),
                position,
                hidden[root - 1 : root],
                top_k=shape["top_k"],
                max_depth=max_depth,
                keep_newest=keep,
            )
            for keep in (False, True)
        )
        while alone.depth < max_depth:
            timed("draft", alone.grow)
        while kept.depth < max_depth:
            kept.grow()
            for name, features in single.items():
                if features.per_call:
                    timed(name, partial(features.of_call, kept))
        if "target" in single:
            timed("target", partial(single["target"].of_root, before))


def _match(index: NgramIndex, emitted: list[int]) -> int:
    index.extend(emitted)
    return match_length(index)


def bench_features(
    *,
    out: str | None,
    model: Mapping[str, Any],
    features: list[str],
    feature_dim: int,
    max_depth: int,
    top_k: int,
    tree_size: int,
    max_new_tokens: int,
    repeats: int,
    messages: list[str],
) -> FeatureMeasurement:
    """The verb ``bench features``: measure, print the table, write it to ``out`` if it is given.

    Raises:
        ConfigError: no messages, no features or unknown ones.
        InputError: a number out of range.
    """
    if not messages or not features:
        raise ConfigError("messages, features: expected at least one of each")
    check_columns(checked_names(features, feature_dim))
    check_whole("repeats", repeats, 1)
    check_whole("max_depth", max_depth, 2)  # later calls than the first are timed
    check_whole("max_new_tokens", max_new_tokens, 2)
    pair = pair_from_config(model)
    pair.check_shape(max_depth, top_k, tree_size, widen_first_level=False)
    texts = []
    for message in messages:
        ids = pair.encode_prompt(message)
        texts.append((len(ids), [*ids, *autoregressive(pair, ids, max_new_tokens=max_new_tokens)]))
    if all(len(ids) < prompt_length + 2 for prompt_length, ids in texts):
        raise InputError("every text ended with its first token; give other messages")
    measured = measure(
        pair,
        texts,
        features,
        max_depth=max_depth,
        top_k=top_k,
        tree_size=tree_size,
        feature_dim=feature_dim,
        repeats=repeats,
    )
    where = machine(pair)
    figures = {"pair": pair.label, **where, **asdict(measured)}
    tell("bench features", [table(measured, pair.label), in_line(where)], figures, out)
    return measured


def table(measured: FeatureMeasurement, label: str) -> Table:
    """The measurement as a table."""
    draft = measured.draft_seconds
    title = f"{label}: features at run time, one text, {measured.rounds} rounds"
    shown = Table(title=title, title_justify="left")
    shown.add_column("feature")
    shown.add_column("numbers", justify="right")
    shown.add_column("µs", justify="right")
    shown.add_column("of a draft call", justify="right")
    shown.add_column("what it does")
    shown.add_row("(draft call)", "", f"{1e6 * draft:.1f}", "100.0%", "the head's forward pass, and the next beam")
    shown.add_section()
    for cost in measured.costs:
        microseconds, share = f"{1e6 * cost.seconds:.1f}", f"{cost.seconds / draft:.1%}"
        shown.add_row(cost.name, str(cost.numbers), microseconds, share, FEATURES[cost.name].cost)
    return shown
