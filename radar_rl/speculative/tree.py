"""Growing draft trees level by level, for one position or for many at once, and choosing the nodes to verify.

The definition is EAGLE-2's dynamic tree as SafeAILab's ``topK_genrate`` builds it. Call 1 scores the root's children
and keeps the ``top_k`` best as a beam. Each further call expands every beam node into ``top_k`` children, adds all
``top_k``² as candidates, and keeps the ``top_k`` best by cumulative log-probability as the next beam.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.speculative.attention import tree_attention
from radar_rl.speculative.heads import DraftCache, DraftHead


@dataclass(frozen=True)
class DraftTree:
    """A verified tree as arrays, root first, parents before children; node i is in ``tokens[i]`` and so on."""

    token_array: NDArray[np.int64]
    parent_array: NDArray[np.int64]
    depth_array: NDArray[np.int64]
    log_prob_array: NDArray[np.float32]

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


@dataclass(frozen=True)
class Nodes:
    """The nodes chosen for verification, B trees of n nodes each, root first.

    Attributes:
        tokens, parents, depths: [B, n] int64; a root's parent is 0, itself.
        log_probs: [B, n].
        ancestors: [B, n, n] bool; ``ancestors[b, i, j]``: j lies on the path from the root to i, i included.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    log_probs: Tensor
    ancestors: Tensor


class TreeGrowth:
    """Candidates of B positions' trees, one draft call after the other.

    Args:
        head: the draft head.
        cache: committed slots of the text, shared by all positions.
        positions: [B] int64, index of each root token; the tree of position t sees slots 0 … t − 1.
        root_hidden: [B, hidden], the head's output at slot t − 1.
        top_k: beam width.
        max_depth: draft calls that may be made.
        prefix: the largest of ``positions``, known to the host: slots of the cache that some position sees.
        first_width: children of the root to score; the first ``top_k`` of them are the beam.

    Attributes:
        depth: draft calls made.
        tokens, scores, parents: [B, C]: candidate token ids (the target's), cumulative log-probabilities, and the
            candidate index of each one's parent (−1: the root). Level 1 fills the first ``top_k`` columns, level ℓ the
            next ``top_k``².
        wide_tokens, wide_scores: [B, first_width], all scored children of the root, best first.
        beam_scores: [B, top_k], scores of the newest beam, descending.
    """

    def __init__(
        self,
        head: DraftHead,
        cache: DraftCache,
        positions: Tensor,
        root_hidden: Tensor,
        *,
        top_k: int,
        max_depth: int,
        prefix: int,
        first_width: int | None = None,
    ) -> None:
        batch, device = len(positions), positions.device
        self.head, self.positions, self.top_k, self.max_depth = head, positions, top_k, max_depth
        self.prefix_keys, self.prefix_values = cache.keys[:, :prefix], cache.values[:, :prefix]
        self.prefix_mask = None if batch == 1 else torch.arange(prefix, device=device) < positions[:, None]  # [B, S]
        candidates, slots = top_k + (max_depth - 1) * top_k**2, (max_depth - 1) * top_k
        self.tokens = torch.zeros(batch, candidates, dtype=torch.int64, device=device)
        self.parents = torch.full((batch, candidates), -1, dtype=torch.int64, device=device)
        kv, width = cache.keys.shape[0], cache.keys.shape[2]
        self.tree_keys = cache.keys.new_empty(batch, kv, slots, width)
        self.tree_values = cache.keys.new_empty(batch, kv, slots, width)

        log_probs = head.logits(root_hidden).float().log_softmax(dim=-1)  # [B, draft vocabulary]
        best = log_probs.topk(max(top_k, first_width or 0), dim=-1)
        self.wide_tokens, self.wide_scores = head.draft_to_target[best.indices], best.values
        self.scores = best.values.new_zeros(batch, candidates)
        self.tokens[:, :top_k], self.scores[:, :top_k] = self.wide_tokens[:, :top_k], best.values[:, :top_k]
        self.depth = 1
        self.beam = torch.arange(top_k, device=device).expand(batch, -1)  # [B, k] candidate indices
        self.beam_scores = best.values[:, :top_k]
        self.hidden = root_hidden[:, None].expand(-1, top_k, -1)  # [B, k, hidden] outputs of the beam's parents
        self.eye = torch.eye(top_k, dtype=torch.bool, device=device).expand(batch, -1, -1)
        self.mask = self.eye.new_empty(batch, top_k, 0)  # [B, k, slots so far]: the beam's ancestors

    @property
    def width(self) -> int:
        """Candidates so far (level 1 counted as ``top_k``)."""
        return self.top_k + (self.depth - 1) * self.top_k**2

    def grow(self) -> None:
        """Make the next draft call: feed the beam, add its children as candidates, choose the next beam."""
        k, fed = self.top_k, (self.depth - 1) * self.top_k
        mask = torch.cat((self.mask, self.eye), dim=2)  # a node sees its ancestors and itself

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.tree_keys[:, :, fed : fed + k], self.tree_values[:, :, fed : fed + k] = key, value
            keys, values = self.tree_keys[:, :, : fed + k], self.tree_values[:, :, : fed + k]
            return tree_attention(query, self.prefix_keys, self.prefix_values, self.prefix_mask, keys, values, mask)

        beam_tokens = self.tokens.gather(1, self.beam)
        positions = (self.positions + self.depth - 1)[:, None].expand(-1, k)
        output = self.head.layer(self.hidden, beam_tokens, positions, attend)  # [B, k, hidden]
        log_probs = self.head.logits(output).float().log_softmax(dim=-1)
        best = log_probs.topk(k, dim=-1)  # [B, k, k]
        scores = (best.values + self.beam_scores[:, :, None]).flatten(1)  # [B, k²]

        first = self.width
        self.tokens[:, first : first + k * k] = self.head.draft_to_target[best.indices].flatten(1)
        self.scores[:, first : first + k * k] = scores
        self.parents[:, first : first + k * k] = self.beam.repeat_interleave(k, dim=1)

        ordered = scores.sort(dim=1, descending=True, stable=True)  # ties by candidate index
        chosen = ordered.indices[:, :k]
        self.beam_scores = ordered.values[:, :k]
        self.beam = chosen + first
        parent = chosen // k  # [B, k] index into the old beam
        self.hidden = output.gather(1, parent[:, :, None].expand(-1, -1, output.shape[2]))
        self.mask = mask.gather(1, parent[:, :, None].expand(-1, -1, mask.shape[2]))
        self.depth += 1

    def select(self, root_tokens: Tensor, tree_size: int, widen_first_level: bool = False) -> Nodes:
        """The nodes to verify: the root and the best candidates by cumulative log-probability (EAGLE's reranking).

        Ties go to the lower candidate index, so a parent never loses to its child.

        Args:
            root_tokens: [B] int64.
            tree_size: nodes, root included; with fewer candidates, all of them.
            widen_first_level: after call 1, use all ``first_width`` scored children.

        Returns:
            Nodes in candidate order.
        """
        if widen_first_level and self.depth == 1:
            tokens, scores = self.wide_tokens[:, : tree_size - 1], self.wide_scores[:, : tree_size - 1]
            parents = torch.full_like(tokens, -1)
        else:
            tokens, scores, parents = (x[:, : self.width] for x in (self.tokens, self.scores, self.parents))
        batch, width = tokens.shape
        n = min(tree_size - 1, width)
        kept = scores.sort(dim=1, descending=True, stable=True).indices[:, :n].sort(dim=1).values  # [B, n]
        node_of = torch.zeros(batch, width + 1, dtype=torch.int64, device=tokens.device)  # last column: the root
        node_of.scatter_(1, kept, torch.arange(1, n + 1, device=tokens.device).expand(batch, -1))
        node_parents = node_of.gather(1, parents.gather(1, kept) % (width + 1))  # −1 wraps to the root's column

        def rooted(value: Tensor, root: Tensor) -> Tensor:
            return torch.cat((root[:, None], value), dim=1)

        zero = torch.zeros(batch, dtype=torch.int64, device=tokens.device)
        all_parents = rooted(node_parents, zero)
        depths = rooted((kept - self.top_k).clamp(min=-1).div(self.top_k**2, rounding_mode="floor") + 2, zero)
        if widen_first_level and self.depth == 1:
            depths[:, 1:] = 1
        ancestors = torch.eye(n + 1, dtype=torch.bool, device=tokens.device).repeat(batch, 1, 1)
        ancestor = all_parents
        for _ in range(self.depth):
            ancestors.scatter_(2, ancestor[:, :, None], True)
            ancestor = all_parents.gather(1, ancestor)
        return Nodes(
            tokens=rooted(tokens.gather(1, kept), root_tokens),
            parents=all_parents,
            depths=depths,
            log_probs=rooted(scores.gather(1, kept), torch.zeros_like(scores[:, 0])),
            ancestors=ancestors,
        )
