"""Growing draft trees level by level, for one position or for many at once, and choosing the nodes to verify.

The definition is EAGLE-2's dynamic tree as SafeAILab's ``topK_genrate`` builds it. Call 1 scores the root's children
and keeps the ``top_k`` best as a beam. Each further call expands every beam node into ``top_k`` children, adds all
``top_k``² as candidates, and keeps the ``top_k`` best by cumulative log-probability as the next beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.speculative.attention import NEGATIVE_INFINITY, additive
from radar_rl.speculative.draft_call import Further, NewestCall, Then, TreeSlots, scored
from radar_rl.speculative.graphs import Outputs
from radar_rl.speculative.heads import DraftHead


@dataclass(frozen=True)
class DraftTree:
    """A verified tree as arrays, root first, parents before children; node i is in ``tokens[i]`` and so on."""

    token_array: NDArray[np.int64]
    parent_array: NDArray[np.int64]
    depth_array: NDArray[np.int64]
    log_prob_array: NDArray[np.float32]
    source_array: NDArray[np.uint8]

    @classmethod
    def of(cls, arrays: NDArray[np.float64]) -> "DraftTree":
        """The tree of what ``Nodes.arrays`` holds of it, [5, n] float64; padding is left out."""
        arrays = arrays[:, np.isfinite(arrays[3])]
        tokens, parents, depths = arrays[:3].astype(np.int64)
        parents[0] = -1
        return cls(tokens, parents, depths, arrays[3].astype(np.float32), arrays[4].astype(np.uint8))

    def path(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Which nodes lie on the way from the root along some tokens, the root included: [n] bool.

        Raises:
            ValueError: no child on the way is the next token.
        """
        on_path = np.zeros(len(self.token_array), dtype=np.bool_)
        node = 0
        on_path[0] = True
        for token in tokens:
            children = (self.parent_array == node) & (self.token_array == token)
            if not children.any():
                raise ValueError(f"no child of node {node} is the token {token}")
            node = int(children.argmax())
            on_path[node] = True
        return on_path

    @cached_property
    def tokens(self) -> list[int]:
        """Token ids; the root token first."""
        return [int(x) for x in self.token_array]

    @cached_property
    def parents(self) -> list[int]:
        """Index of each node's parent; −1 for the root."""
        return [int(x) for x in self.parent_array]

    @cached_property
    def depths(self) -> list[int]:
        """Distance from the root."""
        return [int(x) for x in self.depth_array]

    @cached_property
    def log_probs(self) -> list[float]:
        """Cumulative draft log-probabilities; 0 for the root."""
        return [float(x) for x in self.log_prob_array]

    @cached_property
    def sources(self) -> list[int]:
        """Who proposed each node (``Source``); 0 for the root."""
        return [int(x) for x in self.source_array]


class Source(IntEnum):
    """Who proposed a node, whichever of two scored it higher."""

    HEAD = 1
    NGRAM = 2
    BOTH = 3


@dataclass(frozen=True)
class Candidates:
    """What may be verified: C candidates for each of B trees, parents before children, no path twice.

    Attributes:
        tokens: [B, C] int64, the target's token ids.
        scores: [B, C] float32, cumulative log-probabilities, never above the parent's; −∞ where no candidate stands.
        parents: [B, C] int64, the candidate index of each one's parent; −1 for the root.
        levels: [B, C] int64, distance from the root.
        sources: [B, C] uint8, ``Source``.
        depth: the largest level there can be.
    """

    tokens: Tensor
    scores: Tensor
    parents: Tensor
    levels: Tensor
    sources: Tensor
    depth: int

    def padded(self, width: int) -> "Candidates":
        """At least ``width`` candidates, with padding behind them."""
        more = width - self.tokens.shape[1]
        if more <= 0:
            return self
        tokens, parents, levels, sources = (
            F.pad(column, (0, more)) for column in (self.tokens, self.parents, self.levels, self.sources)
        )
        return Candidates(
            tokens, F.pad(self.scores, (0, more), value=NEGATIVE_INFINITY), parents, levels, sources, self.depth
        )


@dataclass(frozen=True)
class Nodes:
    """The nodes chosen for verification, B trees of n nodes each, root first; shorter trees end in padding.

    Attributes:
        tokens, parents, depths: [B, n] int64; a root's parent is 0, itself.
        log_probs: [B, n]; −∞ marks padding, whose other values mean nothing.
        sources: [B, n] uint8, ``Source``; 0 for the root.
        ancestors: [B, n, n] bool; ``ancestors[b, i, j]``: j lies on the path from the root to i, i included.
        depth: the largest depth there can be.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    log_probs: Tensor
    sources: Tensor
    ancestors: Tensor
    depth: int

    def arrays(self) -> Tensor:
        """Token, parent, depth, cumulative log-probability and source of each node: [B, 5, n] float64."""
        columns = (self.tokens, self.parents, self.depths, self.log_probs, self.sources)
        return torch.stack([column.double() for column in columns], dim=1)


class TreeGrowth:
    """Candidates of B trees, one draft call after the other.

    Args:
        head: the draft head.
        slots: the trees' part of its memory.
        positions: [B] int64, index of each root token.
        root_hidden: [B, hidden], the head's output at the slot before the root.
        top_k: beam width.
        max_depth: draft calls that may be made.
        first_width: children of the root to score; the first ``top_k`` of them are the beam.
        keep_newest: keep what features are read from, until the next call.
        further: what else is computed of every call.
        beams: [``beams_memory(…)``] float32, on a CPU, where the one tree's beams go, call by call; None: anywhere.

    Attributes:
        depth: draft calls made for the deepest tree.
        depths: draft calls made for each tree.
        tokens, scores, parents: [B, C]: candidate token ids (the target's), cumulative log-probabilities (−∞ where
            no candidate stands yet), and the candidate index of each one's parent (−1: the root). Level 1 fills the
            first ``top_k`` columns, level ℓ the next ``top_k``².
        wide_tokens, wide_scores: [B, first_width], all scored children of the root, best first; the scores, where
            beams have a place, until the next call.
        beam_scores, beam_tokens: [B, top_k], scores (descending) and token ids of each tree's newest beam.
        hidden: [B, top_k, hidden], the head's outputs at the parents of the newest beam.
        newest: what the newest call computed; None unless it is kept.
    """

    def __init__(
        self,
        head: DraftHead,
        slots: TreeSlots,
        positions: Tensor,
        root_hidden: Tensor,
        *,
        top_k: int,
        max_depth: int,
        first_width: int | None = None,
        keep_newest: bool = False,
        further: Further | None = None,
        beams: Tensor | None = None,
    ) -> None:
        batch, device = len(positions), positions.device
        self.further, self.keep_newest, self._beams = further, keep_newest, beams
        self.head, self.slots, self.top_k, self.max_depth = head, slots, top_k, max_depth
        self.positions = positions[:, None]
        candidates = top_k + (max_depth - 1) * top_k**2
        self.tokens = torch.zeros(batch, candidates, dtype=torch.int64, device=device)
        self.parents = torch.full((batch, candidates), -1, dtype=torch.int64, device=device)
        self.scores = torch.full((batch, candidates), NEGATIVE_INFINITY, device=device)

        _, log_probs = scored(head, root_hidden)  # [B, draft vocabulary]
        width = max(top_k, first_width or 0)
        values, indices = torch.topk(log_probs, width, dim=-1, out=self._place(0, width))
        self.wide_tokens, self.wide_scores = head.draft_to_target[indices], values
        self.depth, self.depths = 1, [1] * batch
        self.beam_scores = values[:, :top_k]
        self.beam_tokens = self.wide_tokens[:, :top_k]
        self.tokens[:, :top_k], self.scores[:, :top_k] = self.beam_tokens, self.beam_scores
        self._nodes = torch.arange(top_k, device=device).expand(batch, -1)  # [B, k] candidate indices
        self.hidden = root_hidden[:, None].expand(-1, top_k, -1)
        self._itself = itself(top_k, root_hidden.dtype, device).expand(batch, -1, -1)
        self._ancestors = self._itself[:, :, :0]  # [B, k, slots so far] additive
        self.newest: NewestCall | None = None
        if keep_newest:
            self.newest = self._first_call(root_hidden, log_probs, self.beam_scores)
        if further is not None:

            def after(output: Tensor, log_probs: Tensor, *inputs: Tensor) -> Outputs:
                best = log_probs.topk(top_k, dim=-1).values
                return further(self._first_call(output, log_probs, best), *inputs)

            further.keep(slots.first(Then(after, further.inputs(None), further.key), root_hidden, log_probs), None)

    @staticmethod
    def _first_call(root_hidden: Tensor, log_probs: Tensor, best: Tensor) -> NewestCall:
        """What call 1 computed; ``best``: [B, top_k], the beam."""
        chosen = torch.arange(best.shape[1], device=best.device).expand(len(best), -1)
        return NewestCall(None, root_hidden[:, None], log_probs[:, None], best[:, None], chosen, best, best)

    def _place(self, first: int, count: int) -> tuple[Tensor, Tensor] | None:
        """Where a call's best scores go, and memory for their indices: of all of them, since the next call comes later.

        Args:
            first: where its beam begins.
            count: how many scores are sorted, the beam's and what no one needs.
        """
        if self._beams is None:
            return None
        values = self._beams[None, first : first + count]
        return values, torch.empty_like(values, dtype=torch.int64)

    @property
    def width(self) -> int:
        """Candidates of the deepest tree (level 1 counted as ``top_k``)."""
        return self.top_k + (self.depth - 1) * self.top_k**2

    def grow(self, rows: Sequence[int] | None = None) -> None:
        """Make the next draft call: feed the beam, add its children as candidates, choose the next beam.

        Args:
            rows: the trees that grow, all of ``depth`` calls; None: all.
        """
        k, first = self.top_k, self.width
        self.newest = None  # its memory is free for this call
        which = None if rows is None else torch.tensor(rows, device=self.tokens.device)

        def of(state: Tensor) -> Tensor:
            return state if which is None else state[which]

        ancestors = torch.cat((of(self._ancestors), of(self._itself)), dim=2)  # a node sees its ancestors and itself
        positions = of(self.positions) + (self.depth - 1)  # [B, 1], the same for the whole level
        further, head, place = self.further, self.head, self._place(self.depth * k, k * k)
        more = () if further is None else (of(self.scores[:, :first]), *further.inputs(which))

        def after(output: Tensor, log_probs: Tensor, before: Tensor, ancestors: Tensor, *more: Tensor) -> Outputs:
            best = log_probs.topk(k, dim=-1)  # [B, k, k]
            scores = (best.values + before[:, :, None]).flatten(1)  # [B, k²]
            tokens = head.draft_to_target[best.indices].flatten(1)
            values, indices = torch.sort(scores, dim=1, descending=True, stable=True, out=place)  # ties by index
            chosen, beam = indices[:, :k], values[:, :k]
            parent = chosen // k  # [B, k] index into the old beam
            hidden = output.gather(1, parent[:, :, None].expand(-1, -1, output.shape[2]))
            ancestors = ancestors.gather(1, parent[:, :, None].expand(-1, -1, ancestors.shape[2]))
            made = (output, log_probs, best.values, scores, tokens, chosen, beam, hidden, ancestors)
            if further is None:
                return made
            candidates = torch.cat((more[0], scores), dim=1)
            newest = NewestCall(None, output, log_probs, best.values, chosen, beam, candidates)
            return *made, *further(newest, *more[1:])

        then = Then(after, (of(self.beam_scores), ancestors, *more), None if further is None else further.key)
        output, log_probs, children, scores, tokens, chosen, beam, hidden, ancestors, *told = self.slots.forward(
            head, of(self.hidden), of(self.beam_tokens), positions, ancestors, which, then
        )
        if further is not None:
            further.keep(tuple(told), which)

        columns = slice(first, first + k * k)
        into = slice(None) if which is None else which
        self.tokens[into, columns], self.scores[into, columns] = tokens, scores
        self.parents[into, columns] = of(self._nodes)[:, :, None].expand(-1, -1, k).flatten(1)
        newest = (beam, tokens.gather(1, chosen), chosen + first, hidden)
        if which is None:
            self.beam_scores, self.beam_tokens, self._nodes, self.hidden = newest
            self._ancestors = ancestors
        else:
            before = (self.beam_scores, self.beam_tokens, self._nodes, self.hidden)
            self.beam_scores, self.beam_tokens, self._nodes, self.hidden = (
                old.index_copy(0, which, new) for old, new in zip(before, newest, strict=True)
            )
            wider = ancestors.new_zeros(len(self.depths), *ancestors.shape[1:])
            self._ancestors = wider.index_copy(0, which, ancestors)
        self.depth += 1
        for row in range(len(self.depths)) if rows is None else rows:
            self.depths[row] += 1
        if self.keep_newest:
            candidates = of(self.scores[:, : self.width])
            self.newest = NewestCall(which, output, log_probs, children, chosen, beam, candidates)

    def candidates(self, widen_first_level: bool = False) -> Candidates:
        """What the draft calls so far scored.

        Args:
            widen_first_level: trees of one call offer all ``first_width`` scored children.
        """
        k, device = self.top_k, self.tokens.device
        tokens, scores, parents = (x[:, : self.width] for x in (self.tokens, self.scores, self.parents))
        levels = candidate_levels(k, self.max_depth, device)[: self.width].expand(len(tokens), -1)
        if widen_first_level and 1 in self.depths:
            shallow = torch.tensor([depth == 1 for depth in self.depths], device=device)[:, None]
            more = self.wide_scores[:, k:].masked_fill(~shallow, NEGATIVE_INFINITY)
            tokens, scores = torch.cat((tokens, self.wide_tokens[:, k:]), 1), torch.cat((scores, more), 1)
            parents = F.pad(parents, (0, more.shape[1]), value=-1)
            levels = F.pad(levels, (0, more.shape[1]), value=1)
        sources = torch.full_like(tokens, Source.HEAD, dtype=torch.uint8)
        return Candidates(tokens, scores, parents, levels, sources, self.depth)


def beams_memory(max_depth: int, top_k: int, first_width: int | None) -> int:
    """Numbers that the beams of a tree need: call ℓ's from (ℓ − 1) · ``top_k`` on, and what is sorted with the last."""
    return max((max_depth - 1) * top_k + top_k**2, first_width or 0)


@lru_cache
def itself(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What nodes see of one another if each sees itself alone: [count, count], additive."""
    return additive(torch.eye(count, dtype=torch.bool, device=device), dtype)


@lru_cache
def candidate_levels(top_k: int, max_depth: int, device: torch.device) -> Tensor:
    """Depth of each candidate's node: [C] int64."""
    counts = torch.tensor([top_k] + [top_k**2] * (max_depth - 1), device=device)
    return torch.arange(1, max_depth + 1, device=device).repeat_interleave(counts)


def select(root_tokens: Tensor, candidates: Candidates, tree_size: int) -> Nodes:
    """The nodes to verify: the root and the best candidates by cumulative log-probability (EAGLE's reranking).

    Ties go to the lower candidate index, so a parent never loses to its child.

    Args:
        root_tokens: [B] int64.
        candidates: of each tree.
        tree_size: nodes, root included; with fewer candidates, all of them.

    Returns:
        Nodes in candidate order.
    """
    batch, width = candidates.tokens.shape
    n = min(tree_size - 1, width)
    best = candidates.scores.sort(dim=1, descending=True, stable=True)
    padding = best.values[:, :n] == NEGATIVE_INFINITY
    kept = (best.indices[:, :n] + width * padding).sort(dim=1).values % max(width, 1)  # [B, n], padding last
    node_of = root_tokens.new_zeros(batch, width + 1)  # last column: the root
    node_of.scatter_(1, kept, torch.arange(1, n + 1, device=kept.device).expand(batch, -1))

    def rooted(values: Tensor, root: Tensor) -> Tensor:
        return torch.cat((root.to(values.dtype)[:, None], values.gather(1, kept)), dim=1)

    zero = torch.zeros_like(root_tokens)
    above = rooted(candidates.parents, zero - 1) % (width + 1)  # −1, the root's own too, wraps to the last column
    parents = node_of.gather(1, above)
    # A step leads to a node itself or to its parent; squared often enough, it leads to every ancestor.
    step = torch.eye(n + 1, device=kept.device).repeat(batch, 1, 1).scatter_(2, parents[:, :, None], 1.0)
    for _ in range((candidates.depth - 1).bit_length()):
        step = step @ step
    return Nodes(
        tokens=rooted(candidates.tokens, root_tokens),
        parents=parents,
        depths=rooted(candidates.levels, zero),
        log_probs=rooted(candidates.scores, zero),
        sources=rooted(candidates.sources, zero),
        ancestors=step > 0,
        depth=candidates.depth,
    )
