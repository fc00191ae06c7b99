"""A trace in memory: what would be accepted at every position for every stopping depth.

Positions are indices of root tokens in prompt + completion. A row belongs to one (sequence, position); the rows of a
sequence are consecutive and run from ``prompt_length`` to the last token but one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import TraceError

NO_RANK = np.uint16(65535)


@dataclass(frozen=True)
class TraceSettings:
    """What a trace was made with; recorded in every file and checked on read.

    Attributes:
        target, draft: name and weights hash of the two models, ``NAME@HASH``.
        source: ``model``: the target wrote the texts here; ``texts``: they were given.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        temperature, sample_top_k, sample_top_p, seed: how the target's text was sampled (0 = greedy).
        features: names of the feature columns, see ``radar_rl.speculative.features``.
        feature_dim, feature_seed: what ``hidden`` and ``target`` are projected to, and the seed of the projections.
    """

    target: str
    draft: str
    max_depth: int = 8
    top_k: int = 10
    tree_size: int = 60
    temperature: float = 0.0
    sample_top_k: int = 0
    sample_top_p: float = 1.0
    seed: int = 0
    source: str = "model"
    features: tuple[str, ...] = ()
    feature_dim: int = 0
    feature_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))  # a file's JSON has lists only


@dataclass(frozen=True)
class Sequences:
    """The texts of a trace, one entry each; lengths in tokens."""

    sequence_id: list[str]
    task: list[str]
    prompt_id: list[str]
    prompt_length: NDArray[np.int64]  # [S]
    length: NDArray[np.int64]  # [S] prompt + completion

    def __len__(self) -> int:
        return len(self.sequence_id)


def accepted_tokens(
    ranks: NDArray[np.uint16],
    remaining: NDArray[np.int64],
    *,
    top_k: int,
    tree_size: int,
    widen_first_level: bool = False,
) -> NDArray[np.int64]:
    """Draft tokens accepted when stopping after call 1 … max_depth, cut where the text ends.

    Args:
        ranks: [N, max_depth, max_depth], see ``Trace``.
        remaining: [N], tokens that follow each root in its text.
        top_k: beam width.
        tree_size: nodes verified, root included.
        widen_first_level: after call 1 verify ``tree_size - 1`` children instead of ``top_k`` (RADAR).

    Returns:
        [N, max_depth] int64.
    """
    limit = np.full(ranks.shape[1], tree_size - 1)
    if not widen_first_level:
        limit[0] = min(top_k, tree_size - 1)
    # Along a path ranks only grow, so counting the ranks below the limit counts the path's leading nodes.
    matched = (ranks < limit[None, :, None]).sum(axis=2)
    return np.asarray(np.minimum(matched, remaining[:, None]))


@dataclass(frozen=True)
class Trace:
    """Rows (N) of a trace.

    Attributes:
        settings: what it was made with.
        sequences: the texts.
        sequence: [N] int64, index into ``sequences``; not decreasing.
        position: [N] int64, index of the root token in prompt + completion; consecutive within a sequence.
        confidences: [N, max_depth, top_k] float16, cumulative draft log-probabilities of each level's beam.
        ranks: [N, max_depth, max_depth] uint16; ``ranks[n, ℓ-1, d-1]`` is the rank, in the score order of the
            candidates after ℓ calls, of the path node at depth d, ``NO_RANK`` where the text leaves the candidates.
            Row ℓ = 1 ranks ``tree_size - 1`` children (plain level 1: rank < top_k).
        censored: [N] bool, near the end of a text that length, not eos, ended: no use for training or statistics.
    """

    settings: TraceSettings
    sequences: Sequences
    sequence: NDArray[np.int64]
    position: NDArray[np.int64]
    confidences: NDArray[np.float16]
    ranks: NDArray[np.uint16]
    censored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.position)

    def accepted(self, tree_size: int | None = None, widen_first_level: bool = False) -> NDArray[np.int64]:
        """Draft tokens accepted when stopping after call 1 … max_depth, cut where the text ends.

        Args:
            tree_size: nodes verified, root included; at most the collected one (the default).
            widen_first_level: after call 1 verify ``tree_size - 1`` children instead of ``top_k`` (RADAR).

        Returns:
            [N, max_depth] int64.

        Raises:
            TraceError: ``tree_size`` is larger than what was collected.
        """
        size = self.settings.tree_size if tree_size is None else tree_size
        if not 2 <= size <= self.settings.tree_size:
            raise TraceError(f"tree_size: expected 2 … {self.settings.tree_size} (as collected), got {size}")
        return accepted_tokens(
            self.ranks,
            self.remaining,
            top_k=self.settings.top_k,
            tree_size=size,
            widen_first_level=widen_first_level,
        )

    @property
    def remaining(self) -> NDArray[np.int64]:
        """Tokens that follow each root in its text: [N] int64, at least 1."""
        return self.sequences.length[self.sequence] - 1 - self.position

    def emitted(self, accepted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens a round emits given its accepted ones (the bonus token, unless the text ends): same shape."""
        remaining = self.remaining.reshape(-1, *([1] * (accepted.ndim - 1)))
        return np.minimum(accepted + 1, remaining)

    @property
    def first_row(self) -> NDArray[np.int64]:
        """Row at which each sequence that has rows begins: [S'] int64, ascending."""
        starts = np.flatnonzero(np.r_[True, self.sequence[1:] != self.sequence[:-1]]) if len(self) else np.empty(0)
        return np.asarray(starts, dtype=np.int64)

    def next_row(self, emitted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row at which the next round starts, −1 where the text ends.

        Args:
            emitted: [N] or [N, L] tokens emitted by the round that starts at each row.

        Returns:
            Same shape, int64.
        """
        shape = (-1, *([1] * (emitted.ndim - 1)))
        following = np.arange(len(self)).reshape(shape) + emitted
        return np.where(emitted >= self.remaining.reshape(shape), -1, following)

    def select(self, sequences: NDArray[np.bool_]) -> "Trace":
        """The rows of some sequences.

        Args:
            sequences: [S] bool, which to keep.
        """
        rows = sequences[self.sequence]
        renumbered = np.cumsum(sequences) - 1
        kept = np.flatnonzero(sequences)

        def pick(values: list[Any]) -> list[Any]:
            return [values[i] for i in kept]

        old = self.sequences
        return replace(
            self,
            sequences=Sequences(
                pick(old.sequence_id),
                pick(old.task),
                pick(old.prompt_id),
                old.prompt_length[kept],
                old.length[kept],
            ),
            sequence=renumbered[self.sequence[rows]],
            position=self.position[rows],
            confidences=self.confidences[rows],
            ranks=self.ranks[rows],
            censored=self.censored[rows],
        )
