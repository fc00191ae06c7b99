"""Plausible random traces: texts with easy and hard stretches, drafts whose confidences predict acceptance."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from radar_rl.rollouts.columns import TracedText, sequences_table, trace_table
from radar_rl.rollouts.manifest import Manifest, part_name
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.trace import NO_RANK, Sequences, Trace, TraceSettings, accepted_tokens
from radar_rl.rollouts.writing import Work, WrittenText
from radar_rl.speculative.features import COLUMNS
from radar_rl.speculative.hardware import HardwareProfile
from radar_rl.speculative.prompts import Prompt

HARDWARE = HardwareProfile(
    name="synthetic",
    draft_seconds=(0.0010,) * 8,
    verify_nodes=(1, 11, 60),
    verify_seconds=(0.0050, 0.0055, 0.0060),
    decide_seconds=0.00001,
    rest_seconds=0.0002,
    autoregressive_seconds=0.0051,
)


Kind = TypeVar("Kind", bound=Trace)


@dataclass(frozen=True)
class MadeTrace(Trace):
    """A trace with the ranks that it would be stored with: [N, max_depth, max_depth] uint16."""

    ranks: NDArray[np.uint16] = field(kw_only=True)

    def at(self, tree_size: int, widen_first_level: bool = False) -> "MadeTrace":
        """The trace as it is read for another tree size."""
        accepted = accepted_tokens(
            self.ranks,
            self.remaining,
            top_k=self.settings.top_k,
            tree_size=tree_size,
            widen_first_level=widen_first_level,
        )
        settings = replace(self.settings, tree_size=tree_size)
        return replace(self, accepted=accepted, settings=settings, widen_first_level=widen_first_level)


def written_out(source: Any) -> Any:
    """All decisions or transitions of something that makes them when they are taken."""
    return source.take(np.arange(len(source)))


def make_trace(
    prompts: int = 40,
    new_tokens: int = 80,
    seed: int = 0,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
    tasks: tuple[str, ...] = ("first", "second"),
    cut: bool = True,
    target: str = "target@0",
) -> MadeTrace:
    """A trace of ``prompts`` texts of up to ``new_tokens`` tokens; every third text is cut by length (``cut``)."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(2, new_tokens // 2), new_tokens + 1, size=prompts)  # of the completion
    prompt_lengths = rng.integers(5, 20, size=prompts)
    rows = lengths - 1
    sequence = np.repeat(np.arange(prompts), rows)
    position = np.concatenate([p + np.arange(n) for p, n in zip(prompt_lengths, rows, strict=True)])
    count = len(position)
    # How well the draft head knows the text, drifting along it.
    ease = np.zeros(count)
    noise = rng.normal(size=count)
    for i in range(count):
        fresh = i == 0 or sequence[i] != sequence[i - 1]
        ease[i] = noise[i] if fresh else 0.7 * ease[i - 1] + 0.7 * noise[i]
    steps = ease[:, None] + rng.normal(scale=1.0, size=(count, max_depth)) - 0.15 * np.arange(max_depth) + 0.9
    known = 1 / (1 + np.exp(-1.6 * steps))  # [N, max_depth], what the head believes of its best child
    matched = np.cumprod(rng.random((count, max_depth)) < 0.55 + 0.45 * known, axis=1).sum(axis=1)
    best = np.cumsum(np.log(known), axis=1)
    drops = -np.cumsum(rng.exponential(scale=0.8, size=(count, max_depth, top_k)), axis=2)
    drops[:, :, 0] = 0
    confidences = np.maximum(best[:, :, None] + drops, -60000).astype(np.float16)

    ranks = np.full((count, max_depth, max_depth), NO_RANK, dtype=np.uint16)
    spread = np.cumsum(rng.integers(1, 4, size=(count, max_depth)), axis=1)
    growth = rng.integers(0, 3, size=(count, max_depth))
    for calls in range(1, max_depth + 1):
        for node in range(1, calls + 1):
            rank = spread[:, node - 1] - 1 + (calls - 1) * growth[:, node - 1]
            rank = np.minimum(rank, top_k - 1) if calls == 1 else rank
            ranks[:, calls - 1, node - 1] = np.where(matched >= node, rank, NO_RANK)
    # Along a path ranks only grow.
    ranks = np.maximum.accumulate(ranks, axis=2)

    lengths_total = prompt_lengths + lengths
    short_of_end = lengths_total[sequence] - 1 - position <= max_depth
    return MadeTrace(
        settings=TraceSettings(target=target, draft="draft@0", max_depth=max_depth, top_k=top_k, tree_size=tree_size),
        sequences=Sequences(
            sequence_id=[f"{tasks[i % len(tasks)]}/p{i}/0/0" for i in range(prompts)],
            task=[tasks[i % len(tasks)] for i in range(prompts)],
            prompt_id=[f"p{i}" for i in range(prompts)],
            prompt_length=prompt_lengths.astype(np.int64),
            length=lengths_total.astype(np.int64),
        ),
        sequence=sequence.astype(np.int32),
        position=position.astype(np.int32),
        confidences=confidences,
        ranks=ranks,
        accepted=accepted_tokens(ranks, lengths_total[sequence] - 1 - position, top_k=top_k, tree_size=tree_size),
        censored=short_of_end & (sequence % 3 == 0) if cut else np.zeros(count, dtype=np.bool_),
    )


def write_collection(folder: Path, trace: MadeTrace, part_size: int = 4) -> Path:
    """Write a trace as ``collect`` does; the tokens are made up."""
    texts = trace.sequences
    store, count = Store.at(folder), -(-len(texts) // part_size)
    manifest = Manifest.open(store, "traces", asdict(trace.settings), count)
    for number in range(count):
        traced = []
        for i in range(number * part_size, min(len(texts), (number + 1) * part_size)):
            task, prompt_id, sample, turn = texts.sequence_id[i].split("/")
            rows = trace.sequence == i
            prompt = tuple(range(int(texts.prompt_length[i])))
            work = Work(Prompt(task, prompt_id, token_ids=prompt), prompt, int(sample))
            text = WrittenText(work, int(turn), prompt, tuple(range(len(prompt), int(texts.length[i]))), i)
            features = {name: values[rows] for name, values in trace.features.items()}
            traced.append(TracedText(text, trace.confidences[rows], trace.ranks[rows], trace.censored[rows], features))
        name, about = part_name(number), asdict(trace.settings)
        tables = {"sequences": sequences_table(traced, trace.settings), "trace": trace_table(traced, trace.settings)}
        rows = sum(len(t.confidences) for t in traced)
        manifest.add(name, tables, about, {"rows": rows, "sequences": len(traced)})
    return folder


def with_features(trace: Kind, feature_dim: int = 3, seed: int = 1) -> Kind:
    """The trace with made-up columns of every feature, of the shapes, types and ranges that real ones have."""
    rng = np.random.default_rng(seed)
    made, columns = trace.settings, {}
    for name, feature in COLUMNS.items():
        shape = feature.shape(max_depth=made.max_depth, top_k=made.top_k, feature_dim=feature_dim)
        low, high = max(feature.low, -30.0), min(feature.high, 30.0)
        drawn = rng.uniform(low, high, size=(len(trace), *shape))
        columns[name] = drawn.astype(feature.dtype)
    settings = replace(made, features=tuple(COLUMNS), feature_dim=feature_dim)
    return replace(trace, settings=settings, features=columns)


def as_chains(made: MadeTrace, seed: int = 3) -> MadeTrace:
    """A trace collected with ``top_k=1`` of chains that match as far as its paths did, with plausible probabilities."""
    depths = np.arange(made.settings.max_depth, dtype=np.uint16)
    ranks = np.where(made.ranks != NO_RANK, depths, NO_RANK)
    rng = np.random.default_rng(seed)
    matched = (ranks[:, -1] != NO_RANK).sum(axis=1, keepdims=True)
    own = np.where(depths < matched, rng.beta(5, 2, ranks.shape[:2]), rng.beta(2, 4, ranks.shape[:2]))
    among = own + (1 - own) * rng.uniform(size=own.shape)
    features = {"log_probs": np.log(own)[:, :, None].astype(np.float16), "top_mass": np.log(among).astype(np.float16)}
    settings = replace(made.settings, top_k=1, features=("log_probs", "top_mass"))
    confidences = np.cumsum(np.log(own), axis=1)[:, :, None].astype(np.float16)
    chains = replace(made, settings=settings, ranks=ranks, confidences=confidences, features=features)
    return chains.at(made.settings.max_depth + 1)
