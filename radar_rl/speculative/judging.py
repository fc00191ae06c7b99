"""Decisions on the device: made in the pass of the draft call that they are about, and one small tensor to read."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from radar_rl.speculative.draft_call import NewestCall, Rows
from radar_rl.speculative.features import FEATURES, Features
from radar_rl.speculative.graphs import Outputs
from radar_rl.speculative.reading import packed

UNSURE = 2
"""A flag beside stop (0) and continue (1): what was seen or came out is NaN; the host looks, and says whose it is."""


class Judge(Protocol):
    """A network that says stop or continue of the numbers of a round, on the device.

    Attributes:
        key: of what it looks at, from when on and how; judges of one key differ in their weights alone.
        decides_for: the object whose decisions these are.
        asks_from: the first draft call after which it is asked.
    """

    @property
    def key(self) -> Hashable:
        """See the class."""

    decides_for: object
    asks_from: int

    def __call__(self, told: Tensor, root: Tensor) -> Tensor:
        """Flags after ℓ calls, [R] int8, without a read from the device.

        Args:
            told: [R, ℓ, numbers] float16, what each call told, ``packed``.
            root: [R, numbers] float32, features of where the round starts, in the order of ``FEATURES``.
        """

    def renewed(self, other: "Judge") -> "Judge":
        """This judge, in the same memory, with the weights of another of its key."""


class Judging:
    """A round's decisions: a ``Further`` of its trees.

    Args:
        judge: who decides.
        features: that it looks at.
        root: [B, numbers] float32, see ``Judge``.
        max_depth: most draft calls in the round.

    Attributes:
        told: [B, ℓ, numbers] float16, what the calls so far told; of trees that no longer grow, zeros from there on.
        flags: [B] int8, after the newest call of each tree.
    """

    def __init__(self, judge: Judge, features: Features, root: Tensor, max_depth: int) -> None:
        self.judge, self.root, self.max_depth = judge, root, max_depth
        self._features = features
        self.told = torch.empty(len(root), 0, 0, dtype=torch.float16, device=root.device)
        self.flags = torch.zeros(len(root), dtype=torch.int8, device=root.device)

    @property
    def key(self) -> Hashable:
        """See ``Further``."""
        return self.judge.key, self._features.names, self._features.tree_size, self.max_depth

    def inputs(self, rows: Rows) -> tuple[Tensor, ...]:
        """See ``Further``."""
        return (self.told, self.root) if rows is None else (self.told[rows], self.root[rows])

    def __call__(self, newest: NewestCall, *inputs: Tensor) -> Outputs:
        """See ``Further``: what was told with this call, and the flags."""
        told, root = inputs
        numbers = packed([newest.scores, *self._features.of_newest(newest, self.max_depth).values()])[:, None]
        told = torch.cat((told, numbers), dim=1) if told.shape[1] else numbers
        if told.shape[1] < self.judge.asks_from:
            return told, torch.ones(len(told), dtype=torch.int8, device=told.device)
        return told, self.judge(told, root)

    def keep(self, outputs: Outputs, rows: Rows) -> None:
        """See ``Further``."""
        told, flags = outputs
        if rows is None:
            self.told, self.flags = told, flags
        else:
            wider = told.new_zeros(len(self.flags), *told.shape[1:])
            self.told, self.flags = wider.index_copy(0, rows, told), self.flags.index_copy(0, rows, flags)


def root_numbers(names: Sequence[str], known: Mapping[str, Tensor], texts: int, device: torch.device) -> Tensor:
    """Features of where rounds start side by side, on the device: by name, [B] or [B, n] → [B, numbers] float32."""
    columns = [known[name].to(device).float() for name in names if not FEATURES[name].per_call]
    if not columns:
        return torch.empty(texts, 0, device=device)
    return torch.cat([column if column.ndim == 2 else column[:, None] for column in columns], dim=1)
