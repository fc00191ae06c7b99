"""Generated traces of any size: made-up texts whose confidences predict acceptance about as real ones do.

Their figures mean nothing; they are there to fill a data set through the code that ``collect`` writes with.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from radar_rl.progress import track
from radar_rl.rollouts.columns import TracedText, sequences_table, trace_table
from radar_rl.rollouts.manifest import Manifest, part_name
from radar_rl.rollouts.sessions import near_cut
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.trace import NO_RANK, TraceSettings
from radar_rl.rollouts.writing import Work, WrittenText
from radar_rl.speculative.prompts import Prompt

# How much better than average the draft head knows the texts of each task.
TASKS = {"easy": 1.0, "fair": 0.3, "hard": -0.3, "alien": -1.0}

MADE_WITH = TraceSettings(target="generated@0", draft="generated@0", max_depth=8, top_k=10, tree_size=60)
COMPLETION_LENGTHS = (64, 193)  # tokens, from … to below
PROMPT_LENGTHS = (16, 128)


def generate(out: str | Path, *, rows: int, part_size: int, seed: int) -> None:
    """Write a generated trace as ``collect`` does; parts that are there already are kept.

    Args:
        out: the folder.
        rows: root tokens in all.
        part_size: texts per file.
        seed: each part's generator derives from it and the part's number.

    Raises:
        TraceError: the folder holds something made with other settings.
    """
    lengths = _completion_lengths(rows, seed)
    about = asdict(MADE_WITH) | {"generated_rows": rows, "part_size": part_size, "generator_seed": seed}
    store = Store.at(out)
    manifest = Manifest.open(store, "traces", about, -(-len(lengths) // part_size))
    todo = [number for number in range(manifest.parts_total) if part_name(number) not in manifest.parts]
    for number in track(todo, len(todo), "generating") if todo else []:
        first = number * part_size
        part = list(_texts(first, lengths[first : first + part_size], np.random.default_rng([seed, 1, number])))
        tables = {"sequences": sequences_table(part, MADE_WITH), "trace": trace_table(part, MADE_WITH)}
        entry = {"rows": len(tables["trace"]), "sequences": len(part)}
        manifest.add(part_name(number), tables, asdict(MADE_WITH), entry)


def _completion_lengths(rows: int, seed: int) -> NDArray[np.int64]:
    """Lengths of completions that have ``rows`` root tokens in all: every token but the last is one."""
    low, high = COMPLETION_LENGTHS
    drawn = np.random.default_rng([seed, 0]).integers(low, high, size=rows // (low - 1) + 1)
    count = int(np.searchsorted(np.cumsum(drawn - 1), rows)) + 1
    lengths = drawn[:count]
    lengths[-1] -= int((lengths - 1).sum()) - rows
    return np.asarray(lengths)


def _texts(first: int, lengths: NDArray[np.int64], rng: np.random.Generator) -> Iterator[TracedText]:
    """The texts of one part, numbered from ``first`` on; every third one is cut by its length."""
    names = list(TASKS)
    numbers = first + np.arange(len(lengths))
    offsets = np.array(list(TASKS.values()))[numbers % len(names)]
    confidences, ranks = _rows(lengths - 1, offsets, rng)
    bounds = np.cumsum(lengths - 1)
    for i, end, prompt_length in zip(numbers, bounds, rng.integers(*PROMPT_LENGTHS, size=len(lengths)), strict=True):
        own = slice(end - lengths[i - first] + 1, end)
        token_ids = rng.integers(0, 32_000, size=prompt_length + lengths[i - first]).tolist()
        prompt_ids = tuple(token_ids[:prompt_length])
        positions = prompt_length + np.arange(own.stop - own.start)
        cut = np.asarray(near_cut(positions, len(token_ids), MADE_WITH.max_depth)) & (i % 3 == 0)
        work = Work(Prompt(names[i % len(names)], f"p{i}", token_ids=prompt_ids), prompt_ids, 0)
        text = WrittenText(work, 0, prompt_ids, tuple(token_ids[prompt_length:]), int(i))
        yield TracedText(text, confidences[own], ranks[own], cut)


def _rows(
    rows: NDArray[np.int64], offsets: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.uint16]]:
    """Confidences and ranks of texts with so many ``rows`` [S]; ``offsets`` [S]: how well the head knows each."""
    depth, top_k = MADE_WITH.max_depth, MADE_WITH.top_k
    # How well the head knows the text drifts along it.
    drift = lfilter([0.7], [1.0, -0.7], rng.standard_normal((len(rows), int(rows.max()))), axis=1)
    ease = (drift + offsets[:, None])[np.arange(drift.shape[1]) < rows[:, None]]  # [N]
    count = len(ease)
    steps = ease[:, None] + rng.standard_normal((count, depth)) - 0.15 * np.arange(depth) + 0.9
    known = 1 / (1 + np.exp(-1.6 * steps))  # [N, depth], what the head believes of its best child
    matched = np.cumprod(rng.random((count, depth)) < 0.55 + 0.45 * known, axis=1).sum(axis=1)  # [N]
    best = np.cumsum(np.log(known), axis=1)[:, :, None]
    drops = np.cumsum(rng.standard_exponential((count, depth, top_k - 1), dtype=np.float32), axis=2)
    confidences = np.concatenate([best, best - 0.8 * drops], axis=2, dtype=np.float32)

    # A node's rank among the candidates grows along the path, and as deeper levels bring candidates of their own.
    at_once = np.cumsum(rng.integers(1, 4, size=(count, depth), dtype=np.uint16), axis=1, dtype=np.uint16) - 1
    growth = rng.integers(0, 3, size=(count, depth), dtype=np.uint16)
    later = np.arange(depth, dtype=np.uint16)
    ranks = at_once[:, None, :] + later[:, None] * growth[:, None, :]  # [N, calls, node]
    ranks[:, 0] = np.minimum(ranks[:, 0], top_k - 1)
    lost = (matched[:, None, None] <= later) | (later > later[:, None])
    return np.maximum(confidences, -60_000).astype(np.float16), np.maximum.accumulate(np.where(lost, NO_RANK, ranks), 2)
