"""A trace in memory: what would be accepted at every position for every stopping depth.

Positions are indices of root tokens in prompt + completion. A row belongs to one (sequence, position); the rows of a
sequence are consecutive and run from ``prompt_length`` to the last token but one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.speculative.features import FEATURES

NO_RANK = np.uint16(65535)

# Rows that are worked on together where something is computed at every row: temporaries stay tens of megabytes.
PIECE_ROWS = 100_000

Integers = NDArray[np.integer]


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

    def read_for(self, tree_size: int | None) -> "TraceSettings":
        """The settings of the trace read for trees of another size.

        Args:
            tree_size: nodes verified, root included, at most the collected ones; None: those.

        Raises:
            TraceError: no such trees were collected.
        """
        size = self.tree_size if tree_size is None else tree_size
        if not 2 <= size <= self.tree_size:
            raise TraceError(f"tree_size: expected 2 … {self.tree_size} (as collected), got {size}")
        return replace(self, tree_size=size)

    def check_projections(self, spec: ObservationSpec, whose: str) -> None:
        """Refuse an observation whose projected features are other ones than the trace's.

        Args:
            whose: how the message calls who observes.

        Raises:
            TraceError: they are projected to another size, or by another seed.
        """
        if not any(FEATURES[name].projected for name in spec.columns):
            return
        for name in ("feature_dim", "feature_seed"):
            if getattr(spec, name) != getattr(self, name):
                raise TraceError(
                    f"{name}: the trace was collected with {getattr(self, name)}, {whose} has {getattr(spec, name)}; "
                    "collect it alike"
                )


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
    remaining: Integers,
    *,
    top_k: int,
    tree_size: int,
    widen_first_level: bool = False,
) -> NDArray[np.uint8]:
    """Draft tokens accepted when stopping after call 1 … max_depth, cut where the text ends.

    Args:
        ranks: [N, max_depth, max_depth]; ``ranks[n, ℓ-1, d-1]`` is the rank, in the score order of the candidates after
            ℓ calls, of the path node at depth d, ``NO_RANK`` where the text leaves the candidates. Row ℓ = 1 ranks
            ``tree_size - 1`` children (plain level 1: rank < top_k).
        remaining: [N], tokens that follow each root in its text.
        top_k: beam width.
        tree_size: nodes verified, root included; at most the collected one.
        widen_first_level: after call 1 verify ``tree_size - 1`` children instead of ``top_k`` (RADAR).

    Returns:
        [N, max_depth] uint8.
    """
    limit = np.full(ranks.shape[1], min(tree_size - 1, int(NO_RANK)), dtype=np.uint16)
    if not widen_first_level:
        limit[0] = min(top_k, tree_size - 1)
    # Along a path ranks only grow, so counting the ranks below the limit counts the path's leading nodes.
    matched = (ranks < limit[None, :, None]).sum(axis=2, dtype=np.uint8)
    return np.asarray(np.minimum(matched, np.minimum(remaining, 255).astype(np.uint8)[:, None]))


@dataclass(frozen=True)
class Trace:
    """Rows (N) of a trace, read for one tree size.

    Attributes:
        settings: what it was made with; ``tree_size`` is the one it was read for.
        sequences: the texts.
        sequence: [N] int32, index into ``sequences``; not decreasing.
        position: [N] int32, index of the root token in prompt + completion; consecutive within a sequence.
        confidences: [N, max_depth, top_k] float16, cumulative draft log-probabilities of each level's beam.
        accepted: [N, max_depth] uint8, draft tokens accepted when stopping after call 1 … max_depth, cut where the text
            ends.
        censored: [N] bool, near the end of a text that length, not eos, ended: no use for training or statistics.
        widen_first_level: whether ``accepted`` after call 1 is of ``tree_size - 1`` children instead of ``top_k``.
        features: by name, [N, …] of the shapes and types of ``radar_rl.speculative.features.FEATURES``; those that were
            asked for when the trace was read.
    """

    settings: TraceSettings
    sequences: Sequences
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    confidences: NDArray[np.float16]
    accepted: NDArray[np.uint8]
    censored: NDArray[np.bool_]
    widen_first_level: bool = False
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.position)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Trace":
        """Itself: Gymnasium copies an environment's arguments, and nobody changes a trace."""
        return self

    @property
    def remaining(self) -> NDArray[np.int32]:
        """Tokens that follow each root in its text: [N] int32, at least 1."""
        return self.tokens_after(slice(None)).astype(np.int32)

    def tokens_after(self, rows: Integers | slice) -> NDArray[np.int64]:
        """Tokens that follow the roots of some rows in their texts: [B] int64, at least 1."""
        return np.asarray(self.sequences.length[self.sequence[rows]] - 1 - self.position[rows])

    def stop(self, rows: Integers, depths: Integers | int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What rounds emit that start at some rows and stop after some draft calls, and where they lead.

        Args:
            rows: [B].
            depths: [B] or one number, 1 … max_depth.

        Returns:
            Tokens emitted (accepted and the bonus token, cut where the text ends) and row at which the next round
            starts, −1 where the text ends; [B] int64 both.
        """
        remaining = self.tokens_after(rows)
        emitted = np.minimum(self.accepted[rows, depths - 1].astype(np.int64) + 1, remaining)
        return emitted, np.where(emitted == remaining, -1, rows + emitted)

    def rounds(self, depths: Integers) -> Iterator[tuple[NDArray[np.int64], Integers, NDArray[np.int64]]]:
        """Walk all texts in step, round after round.

        Args:
            depths: [N] in 1 … max_depth, calls after which a round that starts at the row stops.

        Yields:
            Of each text that has not ended the row at which its round starts, the round's draft calls, and the tokens
            that it emits; [texts] each.
        """
        rows = self.first_row
        while len(rows):
            made = depths[rows]
            emitted, following = self.stop(rows, made)
            yield rows, made, emitted
            rows = following[following >= 0]

    @property
    def first_row(self) -> NDArray[np.int64]:
        """Row at which each sequence that has rows begins: [S'] int64, ascending."""
        starts = np.flatnonzero(np.r_[True, self.sequence[1:] != self.sequence[:-1]]) if len(self) else np.empty(0)
        return np.asarray(starts, dtype=np.int64)

    def pieces(self, rows: int = PIECE_ROWS) -> Iterator[slice]:
        """The rows in slices of whole sequences, of about ``rows`` rows each: what ``rows_of`` takes."""
        bounds = np.append(self.first_row, len(self))
        start = 0
        while bounds[start] < len(self):
            stop = max(int(np.searchsorted(bounds, bounds[start] + rows, side="right")) - 1, start + 1)
            yield slice(int(bounds[start]), int(bounds[stop]))
            start = stop

    def rows_of(self, piece: slice) -> "Trace":
        """Some consecutive rows, without copying them; ``sequences`` and the numbers that point there stay."""
        arrays = ("sequence", "position", "confidences", "accepted", "censored")
        features = {name: values[piece] for name, values in self.features.items()}
        return replace(self, **{name: getattr(self, name)[piece] for name in arrays}, features=features)

    def check_tree_size(self, tree_size: int | None) -> None:
        """Refuse a tree size other than the one that the trace was read for; None is that one.

        Raises:
            TraceError: it is another.
        """
        if tree_size not in (None, self.settings.tree_size):
            raise TraceError(
                f"tree_size: this trace was read for trees of {self.settings.tree_size} nodes, got {tree_size}; "
                f"read it for that size: load_trace(path, tree_size={tree_size})"
            )

    def check_features(self, names: Sequence[str]) -> None:
        """Refuse features that the trace was not read with.

        Raises:
            TraceError: naming them, and how to come by them.
        """
        missing = [name for name in names if name not in self.features]
        if missing:
            collected = ", ".join(self.settings.features) or "none"
            asked = ",".join(missing)
            raise TraceError(
                f"features: this trace was read without {asked} (it was collected with: {collected}); collect with "
                f"features=[{asked}] and read it with load_trace(path, features=[{asked}])"
            )

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
            sequence=renumbered[self.sequence[rows]].astype(np.int32),
            position=self.position[rows],
            confidences=self.confidences[rows],
            accepted=self.accepted[rows],
            censored=self.censored[rows],
            features={name: values[rows] for name, values in self.features.items()},
        )
