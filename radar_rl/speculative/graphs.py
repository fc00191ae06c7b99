"""Forward passes captured once and replayed (CUDA graphs), for shapes that stay the same from round to round.

A replay costs one launch where the pass would take one for every operation. What it needs: trees padded to their size,
new keys and values written at multiples of ``BUCKET`` positions, so that shapes change seldom, and memory that stays
where it is, so caches are used again by the next text.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

BUCKET = 256
"""Positions of a text after which its passes take another shape."""

Outputs = tuple[Tensor, ...]
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], object], Outputs]]
"""Takes a function of nothing; returns what runs it again, and the tensors that then hold its outputs."""

T = TypeVar("T")


def cuda_capture(function: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
    """A function as a CUDA graph; it may not read from the device. See ``Capture``."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):  # libraries allocate their workspaces and choose their kernels
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


class Replays:
    """Functions of tensors, captured at their first call for each key and each shape of their inputs.

    Args:
        capture: how, ``cuda_capture`` or a test's.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.captured: dict[Hashable, tuple[list[Tensor], Callable[[], object], Outputs, object]] = {}

    def __call__(self, key: Hashable, function: Callable[..., Outputs], *inputs: Tensor) -> Outputs:
        """``function(*inputs)``; the outputs hold until the same key is called again.

        Args:
            key: stands for all that the function reads beside its inputs.
        """
        key = (key, *((tensor.shape, tensor.dtype) for tensor in inputs))
        if key not in self.captured:
            held = [tensor.clone() for tensor in inputs]
            replay, outputs = self.capture(lambda: function(*held))
            self.captured[key] = held, replay, outputs, function  # kept alive: so is the memory that it reads
        held, replay, outputs, _ = self.captured[key]
        for into, tensor in zip(held, inputs, strict=True):
            into.copy_(tensor)
        replay()
        return outputs


class Arena:
    """Lends caches to one batch of texts after the other: a captured pass knows its memory by address.

    Args:
        capture: see ``Replays``; None: nothing is captured, and all caches are new.
        most: free caches that are kept, those given back last.
    """

    def __init__(self, capture: Capture | None = None, most: int = 4) -> None:
        self.capture, self.most = capture, most
        self._free: list[tuple[Hashable, object]] = []

    @property
    def bucket(self) -> int:
        """Passes keep their shape over this many positions."""
        return BUCKET if self.capture else 1

    def lend(self, key: Hashable, make: Callable[[Callable[[], Replays | None]], T]) -> tuple[T, Callable[[], None]]:
        """Caches that were given back under this key, or new ones.

        Args:
            key: stands for all that ``make`` reads.
            make: makes them; it is given what makes each cache's ``replays``.

        Returns:
            The caches, and what gives them back.
        """
        capture = self.capture
        if capture is None:
            return make(lambda: None), lambda: None
        found = next((i for i, (of, _) in enumerate(self._free) if of == key), None)
        caches: Any = make(lambda: Replays(capture)) if found is None else self._free.pop(found)[1]

        def give_back() -> None:
            self._free.append((key, caches))
            del self._free[: -self.most]

        return caches, give_back


def rounded(positions: int, bucket: int) -> int:
    """The next multiple of ``bucket``."""
    return -(-positions // bucket) * bucket
