"""``radar-rl bench collect``: rows per second of traces, of live rollouts, and of RADAR's way, on the same prompts.

A *row* is what one round start would bring at all ``max_depth`` stopping depths, an *outcome* what it brings at one.
A live rollout gets one outcome a round; RADAR (arXiv 2512.14069) verifies one tree per depth in each round, so a row;
a trace gets a row for every position of the text, from one pass over it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from radar_rl.benchmarks.telling import machine, tell
from radar_rl.errors import ConfigError, check_whole
from radar_rl.policies.random import RandomStop
from radar_rl.progress import track
from radar_rl.rollouts.room import positions_that_fit
from radar_rl.rollouts.tasks import fitting, load_prompts
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.rollouts.writing import Work, WrittenText, sequence_seed, write_texts
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.profiler import clock
from radar_rl.speculative import Pair, SpeculativeBatch

TRACES, LIVE, RADAR = "traces", "live rollouts", "RADAR's way"


@dataclass(frozen=True)
class Rate:
    """How fast one way collects.

    Attributes:
        name: of the way.
        rows: round starts of which something is known.
        outcomes: (round start, stopping depth) pairs of which it is known what they bring.
        seconds: it took, texts included.
    """

    name: str
    rows: int
    outcomes: int
    seconds: float


@dataclass(frozen=True)
class Bounds:
    """What bounds collecting traces.

    Attributes:
        written_tokens: of the target's texts, written side by side.
        writing_seconds: for them, prefill included.
        tracing_seconds: of the target's pass over them and the growth of the trees.
        head_tokens: tokens that the head reads for the trees.
        head_seconds: the same tokens through the head's matrix products alone.
    """

    written_tokens: int
    writing_seconds: float
    tracing_seconds: float
    head_tokens: int
    head_seconds: float


def bench_collect(
    *,
    out: str | None,
    model: Mapping[str, Any],
    tasks: list[str],
    data_dir: str | None,
    limit: int,
    slow_limit: int,
    max_new_tokens: int,
    max_depth: int,
    top_k: int,
    tree_size: int,
    texts_per_batch: int,
    positions_per_batch: int | None,
    temperature: float,
    seed: int,
) -> list[Rate]:
    """The verb ``bench collect``: collect the same prompts in three ways, side by side, and print rates and ratios.

    Args:
        out: a JSON file; None only prints.
        tasks, data_dir, limit: prompts, see ``load_prompts``.
        slow_limit: prompts per task that the two live ways decode; the first of each task.
        texts_per_batch, positions_per_batch: see ``collect``.

    Returns:
        The rates: traces, live rollouts, RADAR's way.

    Raises:
        InputError: a number out of range, a task that cannot be read.
        ConfigError: ``slow_limit`` exceeds ``limit``.
    """
    check_whole("slow_limit", slow_limit, 1)
    check_whole("texts_per_batch", texts_per_batch, 1)
    if slow_limit > limit:
        raise ConfigError(f"slow_limit: expected at most limit={limit}, got {slow_limit}")
    pair = pair_from_config(model)
    prompts, _ = fitting(pair, load_prompts(tasks, data_dir=data_dir, limit=limit), max_new_tokens)
    works = [Work(prompt, tuple(ids), 0) for prompt, ids in prompts]
    first = {id(work) for name in {w.prompt.task for w in works} for work in _of(name, works)[:slow_limit]}
    few = [work for work in works if id(work) in first]
    shape: dict[str, Any] = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    longest = max(len(work.prompt_ids) for work in works) + max_new_tokens
    positions = positions_per_batch or positions_that_fit(pair, longest, max_depth=max_depth, top_k=top_k)
    chosen: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}

    def write(some: Sequence[Work]) -> list[WrittenText]:
        texts, _ = write_texts(pair, some, sample_top_k=0, sample_top_p=1.0, texts_per_batch=texts_per_batch, **chosen)
        return texts

    def trace(text: WrittenText, size: int = positions) -> int:
        traced = trace_sequence(pair, text.token_ids, len(text.prompt_ids), positions_per_batch=size, **shape)
        return len(traced.confidences)

    trace(write(works[:1])[0])  # warms up
    start = clock(pair)
    texts = write(works)
    written = clock(pair)
    rows = sum(trace(text) for text in track(texts, len(texts), "bench collect: traces"))
    traced = clock(pair)
    rates = [
        Rate(TRACES, rows, rows * max_depth, traced - start),
        _live(pair, few, shape, chosen, LIVE, _one_outcome),
        _live(pair, few, shape, chosen, RADAR, _every_outcome),
    ]
    nodes = rows * (1 + (max_depth - 1) * top_k)
    tokens = sum(len(text.completion_ids) for text in texts)
    bounds = Bounds(tokens, written - start, traced - written, nodes, _head_seconds(pair, nodes, positions * top_k))
    title = f"{pair.label}, {len(texts)} texts, {positions} positions a batch"
    figures: dict[str, Any] = {"machine": machine(pair), "pair": pair.label}
    figures |= {"rates": [asdict(rate) for rate in rates]}
    figures |= {"bounds": asdict(bounds), "shape": shape, "chosen": chosen, "positions_per_batch": positions}
    tell("bench collect", tables(rates, bounds, title), figures, out)
    return rates


def _of(task: str, works: Sequence[Work]) -> list[Work]:
    return [work for work in works if work.prompt.task == task]


def _live(
    pair: Pair,
    works: Sequence[Work],
    shape: Mapping[str, Any],
    chosen: Mapping[str, Any],
    name: str,
    decode: Callable[[SpeculativeBatch, RandomStop], tuple[int, int]],
) -> Rate:
    """One of the two live ways over some prompts, one text at a time, as a live environment has them."""
    rows = outcomes = 0
    start = clock(pair)
    for work in track(works, len(works), f"bench collect: {name}"):
        seed = sequence_seed(int(chosen["seed"]), work.prompt.prompt_id, 0)
        batch = SpeculativeBatch(
            pair,
            [work.prompt_ids],
            seeds=[seed],
            max_new_tokens=chosen["max_new_tokens"],
            temperature=chosen["temperature"],
            **shape,
        )
        policy = RandomStop(0.8, seed)
        policy.begin_sequence(work.sequence_id(0))
        while batch.active:
            got = decode(batch, policy)
            rows, outcomes = rows + got[0], outcomes + got[1]
    return Rate(name, rows, outcomes, clock(pair) - start)


def _one_outcome(batch: SpeculativeBatch, policy: RandomStop) -> tuple[int, int]:
    """A round that stops where a random policy does: rows and outcomes it brings."""
    state = batch.begin()[0]
    while state.depth < batch.max_depth and policy.act(state):
        state = batch.draft()[0]
    batch.verify()
    return 1, 1


def _every_outcome(batch: SpeculativeBatch, policy: RandomStop) -> tuple[int, int]:
    """A round that verifies the tree of every depth."""
    state = batch.begin()[0]
    _ = state.confidences  # which is what is logged
    while state.depth < batch.max_depth:
        batch.would_accept()
        state = batch.draft()[0]
        _ = state.confidences
    batch.verify()
    return 1, batch.max_depth


def _head_seconds(pair: Pair, tokens: int, rows: int) -> float:
    """Seconds that the head's matrix products take for so many tokens, ``rows`` of them at a time."""
    head, device, dtype = pair.head, pair.target.device, pair.target.model.dtype
    weights = [p.detach() for p in head.parameters() if p.ndim == 2 and p is not head.embed_tokens.weight]
    if not any(weight.shape[0] == len(head.draft_to_target) for weight in weights):
        weights.append(pair.target.model.get_output_embeddings().weight.detach())  # an EAGLE-2 head has none of its own
    inputs = {width: torch.ones(rows, width, device=device, dtype=dtype) for width in {w.shape[1] for w in weights}}
    repeats = 0
    with torch.inference_mode():
        start = clock(pair)
        while repeats < 3 or clock(pair) - start < 0.5:
            for weight in weights:
                inputs[weight.shape[1]] @ weight.T
            repeats += 1
        seconds = clock(pair) - start
    return seconds / (repeats * rows) * tokens


def tables(rates: Sequence[Rate], bounds: Bounds, title: str) -> list[Table]:
    """Rates with the traces' ratio to each, and what bounds the traces.

    Args:
        rates: of each way of collecting, the traces' first.
        bounds: parts of the traces' seconds.
        title: pair and texts.
    """
    shown = Table(title=f"Collecting: {title}", title_justify="left")
    shown.add_column("way")
    for column in ("rows", "outcomes", "seconds", "rows/s", "outcomes/s", "traces: rows ×", "outcomes ×"):
        shown.add_column(column, justify="right")
    ours = rates[0]
    for rate in rates:
        ratios = [f"{ours.rows / ours.seconds / (rate.rows / rate.seconds):.1f}"]
        ratios.append(f"{ours.outcomes / ours.seconds / (rate.outcomes / rate.seconds):.1f}")
        shown.add_row(
            rate.name,
            f"{rate.rows:,}",
            f"{rate.outcomes:,}",
            f"{rate.seconds:.1f}",
            f"{rate.rows / rate.seconds:,.0f}",
            f"{rate.outcomes / rate.seconds:,.0f}",
            *(ratios if rate is not ours else ("", "")),
        )
    bounded = Table(title="What bounds the traces", title_justify="left")
    bounded.add_column("part")
    bounded.add_column("seconds", justify="right")
    bounded.add_column("share", justify="right")
    for name, seconds in (
        (f"texts, {bounds.written_tokens / bounds.writing_seconds:,.0f} tokens/s", bounds.writing_seconds),
        ("the target's pass over them, and their trees", bounds.tracing_seconds),
        (f"  of which the head's matrix products alone, {bounds.head_tokens:,} tokens", bounds.head_seconds),
    ):
        bounded.add_row(name, f"{seconds:.1f}", f"{seconds / ours.seconds:.0%}")
    return [shown, bounded]
