"""A draft call's pass: where its keys and values go, what it computed, and what is made of it on the device."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from radar_rl.speculative.attention import additive, fold, folded_attention, shared_prefix_attention
from radar_rl.speculative.graphs import Outputs, rounded
from radar_rl.speculative.heads import DraftCache, DraftHead

Rows = Tensor | None


@dataclass(frozen=True)
class NewestCall:
    """What the newest draft call computed of the R trees that it grew, whole until the next call is made.

    Attributes:
        rows: [R] int64, the trees; None: all.
        output: [R, m, hidden], the head's outputs at the m nodes that the call expanded, best first; call 1 expanded
            the root alone.
        log_probs: [R, m, draft vocabulary] float32, of what follows each.
        children: [R, m, top_k] float32, those of each one's best children, descending.
        chosen: [R, top_k] int64, which of the m · top_k children are the newest beam, best first.
        scores: [R, top_k] float32, the newest beam's cumulative log-probabilities.
        candidates: [R, C] float32, those of all candidates so far, level 1 counted as ``top_k``.
    """

    rows: Rows
    output: Tensor
    log_probs: Tensor
    children: Tensor
    chosen: Tensor
    scores: Tensor
    candidates: Tensor


@dataclass(frozen=True)
class Then:
    """What a draft call does with the head's pass, as part of it.

    Attributes:
        after: function of outputs, log-probabilities and ``inputs``; gives back the first two, and what it made.
        inputs: tensors that are other ones in every call.
        key: stands for all that ``after`` reads beside its arguments and the shapes of the tree.
    """

    after: Callable[..., Outputs]
    inputs: tuple[Tensor, ...]
    key: Hashable


class Further(Protocol):
    """What else is computed of every draft call, on the device and in the same pass.

    Attributes:
        key: stands for all that it reads beside its arguments.
    """

    @property
    def key(self) -> Hashable:
        """See the class."""

    def inputs(self, rows: Rows) -> tuple[Tensor, ...]:
        """What it needs of the trees that make the next call."""

    def __call__(self, newest: NewestCall, *inputs: Tensor) -> Outputs:
        """A function of a call and of the inputs alone."""

    def keep(self, outputs: Outputs, rows: Rows) -> None:
        """Take what came out."""


class TreeSlots(Protocol):
    """Where the keys and values of growing trees go, and which committed slots each tree sees."""

    def forward(
        self,
        head: DraftHead,
        hidden: Tensor,
        token_ids: Tensor,
        positions: Tensor,
        ancestors: Tensor,
        rows: Rows,
        then: Then,
    ) -> Outputs:
        """The head's pass over the next k nodes of each tree, and what follows from it, in one.

        Args:
            head: the draft head.
            hidden: [B, k, hidden], its outputs at the nodes' parents.
            token_ids: [B, k] int64, the nodes.
            positions: [B, 1] int64, their slots' positions.
            ancestors: [B, k, fed + k] additive: which of its tree's slots each node sees, itself included; ``fed`` of
                them were filled before.
            rows: [B] int64, the trees that grow; None: all.
            then: what is made of outputs [B, k, hidden] and log-probabilities of what follows [B, k, draft vocabulary]
                float32.

        Returns:
            The two, and what was made of them.
        """

    def first(self, then: Then, output: Tensor, log_probs: Tensor) -> Outputs:
        """What is made of the first call's output and log-probabilities, which no pass over nodes gave."""


class LiveSlots:
    """Trees of B texts, each behind its own prefix: slots are written into the cache, behind the longest text."""

    def __init__(self, cache: DraftCache) -> None:
        self.cache, self.base = cache, rounded(max(cache.lengths), cache.bucket)
        like = cache.keys
        if min(cache.lengths) == self.base:
            self.prefix = like.new_zeros(len(cache.lengths), 1, self.base)
        else:
            lengths = torch.tensor(cache.lengths, device=like.device)[:, None, None]
            self.prefix = additive(torch.arange(self.base, device=like.device) < lengths, like.dtype)

    def forward(
        self,
        head: DraftHead,
        hidden: Tensor,
        token_ids: Tensor,
        positions: Tensor,
        ancestors: Tensor,
        rows: Rows,
        then: Then,
    ) -> Outputs:
        """See ``TreeSlots``."""
        cache, k = self.cache, ancestors.shape[1]
        stop = self.base + ancestors.shape[2]
        start = stop - k
        prefix = (self.prefix if rows is None else self.prefix[rows]).expand(-1, k, -1)
        bias = fold(torch.cat((prefix, ancestors), dim=2), cache.group)
        keys, values = cache.keys, cache.values
        which = slice(None) if rows is None else rows

        def over_tree(hidden: Tensor, token_ids: Tensor, positions: Tensor, bias: Tensor, *inputs: Tensor) -> Outputs:
            def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                keys[which, :, start:stop], values[which, :, start:stop] = key, value
                return folded_attention(query, keys[which, :, :stop], values[which, :, :stop], bias)

            return then.after(*scored(head, head.layer(hidden, token_ids, positions, attend)), *inputs)

        if cache.replays is None or rows is not None:
            return over_tree(hidden, token_ids, positions, bias, *then.inputs)
        return cache.replays(("tree", start, then.key), over_tree, hidden, token_ids, positions, bias, *then.inputs)

    def first(self, then: Then, output: Tensor, log_probs: Tensor) -> Outputs:
        """What follows from the first call, whose output was there before."""
        if self.cache.replays is None:
            return then.after(output, log_probs, *then.inputs)
        return self.cache.replays(("first", then.key), then.after, output, log_probs, *then.inputs)


class SharedSlots:
    """Trees of B positions of one text, whose prefixes are parts of one another: the prefix is stored once.

    Args:
        cache: of the one text, all its slots committed.
        positions: [B] int64, index of each root token; the tree of position t sees slots 0 … t − 1.
        prefix: the largest of ``positions``.
        capacity: slots of each tree.
    """

    def __init__(self, cache: DraftCache, positions: Tensor, prefix: int, capacity: int) -> None:
        self.keys, self.values = cache.keys[0, :, :prefix], cache.values[0, :, :prefix]
        self.visible = torch.arange(prefix, device=positions.device) < positions[:, None]  # [B, prefix]
        kv, width = cache.keys.shape[1], cache.keys.shape[3]
        self.tree_keys = cache.keys.new_empty(len(positions), kv, capacity, width)
        self.tree_values = torch.empty_like(self.tree_keys)

    def forward(
        self,
        head: DraftHead,
        hidden: Tensor,
        token_ids: Tensor,
        positions: Tensor,
        ancestors: Tensor,
        rows: Rows,
        then: Then,
    ) -> Outputs:
        """See ``TreeSlots``; all trees grow together."""
        stop = ancestors.shape[2]
        fed = stop - ancestors.shape[1]

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.tree_keys[:, :, fed:stop], self.tree_values[:, :, fed:stop] = key, value
            keys, values = self.tree_keys[:, :, :stop], self.tree_values[:, :, :stop]
            return shared_prefix_attention(query, self.keys, self.values, self.visible, keys, values, ancestors)

        return then.after(*scored(head, head.layer(hidden, token_ids, positions, attend)), *then.inputs)

    def first(self, then: Then, output: Tensor, log_probs: Tensor) -> Outputs:
        """See ``TreeSlots``."""
        return then.after(output, log_probs, *then.inputs)


def scored(head: DraftHead, output: Tensor) -> tuple[Tensor, Tensor]:
    """A head's outputs [..., hidden] and the log-probabilities of what follows [..., draft vocabulary] float32."""
    return output, head.logits(output).float().log_softmax(dim=-1)
