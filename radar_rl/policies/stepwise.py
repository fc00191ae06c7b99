"""A policy network asked call by call: what a decision costs in the decode loop is all here.

After a draft call little of this is in the processor's caches: what counts is how many different functions are called,
much less how many numbers they compute. So there are three kinds, all on arrays made once: ``maximum`` (with its like,
``minimum`` and ``add``), a matrix product and a read. What calls not made yet, the depth, the bias and the round's own
numbers add to the first layer is summed beforehand; only the difference of the two outputs is computed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.observation import ObservationSpec, Part
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.state import DraftState, FeatureValues, Look

Array = NDArray[np.float32]
Layer = tuple[Array, Array]

ZERO = np.zeros((), dtype=np.float32)


class Stepwise:
    """What continuing is worth over stopping, at the states of one text, one after the other.

    Args:
        spec: the observation.
        layers: (weight [in, out], bias [out]) float32 of each layer of a network with ReLU between them, the last with
            2 outputs [stop, continue].
    """

    def __init__(self, spec: ObservationSpec, layers: Sequence[Layer]) -> None:
        called = [part for part in spec.parts if part.per_call]
        rooted = [part for part in spec.parts if not part.per_call and part.name != "depth"]
        layers = [*layers[:-1], difference(*layers[-1])]
        weight, bias = layers[0]
        self._shapes = _shapes(spec)
        # Numbers of a call lie together, and calls so that those shown are neighbours, in the order of their weights.
        rows = [_places(part) + shown * part.width for shown in range(spec.calls) for part in called]
        shown_weight = _rows(weight, rows)
        width = sum(part.width for part in called)
        numbers = np.zeros(spec.max_depth * width, dtype=np.float32)
        self._calls, self._windows = list[_Block](), [(numbers[:0], shown_weight[:0])]
        for call in range(1, spec.max_depth + 1):
            own, first = (call - 1, 0) if spec.newest is None else (spec.max_depth - call,) * 2
            shown = min(call, spec.calls) * width
            self._calls.append(_Block(called, numbers[own * width : (own + 1) * width], call - 1))
            self._windows.append((numbers[first * width : first * width + shown], shown_weight[:shown]))
        root = np.zeros(sum(part.width for part in rooted), dtype=np.float32)
        self._root, self._root_weight = _Block(rooted, root), _rows(weight, [_places(part) for part in rooted])
        self._of_root = np.zeros_like(bias)
        self._after = _after(spec, called, weight, bias)
        # Each layer's outputs, and a 1 behind them that the next layer's bias is multiplied with.
        values = [np.ones(len(bias) + 1, dtype=np.float32) for _, bias in layers]
        self._first, self._last = values[0][:-1], values[-1][:-1]
        self._steps = [
            (before, np.vstack((weight, bias)), after[:-1])
            for (before, after), (weight, bias) in zip(pairwise(values), layers[1:], strict=True)
        ]
        self._seen: Look | None = None
        self._known = 0

    def margin(self, state: DraftState) -> float | None:
        """The network's second output (continue) minus its first (stop) at a state.

        Returns:
            NaN where there is NaN in what is seen; None where the state does not hold what the observation needs, in
            the shapes that it needs.
        """
        seen, depth = state.look(check=False), state.depth
        if seen is not self._seen and not self._begin(seen):
            return None
        while self._known < depth:
            self._calls[self._known].fill()
            self._known += 1
        numbers, weight = self._windows[depth]
        numbers.dot(weight, self._first)
        np.add(self._first, self._after[depth], out=self._first)
        if len(self._root_weight):
            np.add(self._first, self._of_root, out=self._first)
        for before, weight, after in self._steps:
            np.maximum(before, ZERO, out=before)  # lets NaN through
            before.dot(weight, after)
        return self._last.item()

    def _begin(self, seen: Look) -> bool:
        """Another round, or a state from elsewhere: whether it holds what the observation needs."""
        before, self._seen, self._known = self._seen, None, 0
        if before is None or seen[0] is not before[0] or seen[1] is not before[1]:  # a text's rounds share arrays
            for name, shape in self._shapes:
                values = seen[0] if name == "confidences" else seen[1].get(name)
                if values is None or np.shape(values) != shape:
                    return False
            for block in (*self._calls, self._root):
                block.read_from(*seen)
        if len(self._root_weight):
            self._root.fill()
            self._root.numbers.dot(self._root_weight, self._of_root)
        self._seen = seen
        return True


class _Block:
    """Numbers of an observation that are written together.

    Args:
        parts: of the observation, side by side.
        numbers: [sum of their widths] where they go.
        call: which call's, from 0; None: the round's.
    """

    def __init__(self, parts: Sequence[Part], numbers: Array, call: int | None = None) -> None:
        self.numbers = numbers
        self._call = call
        widths = [part.width for part in parts]
        low, self._high = (
            np.repeat(np.array([getattr(part, of) for part in parts], np.float32), widths) for of in ("low", "high")
        )
        ends = np.cumsum(widths).tolist()
        self._parts = [
            (part.name, low[end - part.width : end], numbers[end - part.width : end])
            for part, end in zip(parts, ends, strict=True)
        ]
        self._read = list[tuple[NDArray[Any], Array, Array]]()

    def read_from(self, confidences: NDArray[np.floating], features: FeatureValues) -> None:
        """What is written from here on comes from these arrays."""
        self._read = []
        for name, low, into in self._parts:
            values = confidences if name == "confidences" else features[name]
            self._read.append((values if self._call is None else values[self._call, ...], low, into))

    def fill(self) -> None:
        """Write the numbers as they are now, cut as an observation holds them."""
        for values, low, into in self._read:
            np.maximum(values, low, out=into)  # lets NaN through, as ``minimum`` does
        np.minimum(self.numbers, self._high, out=self.numbers)


def difference(weight: Array, bias: Array) -> Layer:
    """The last layer with its second output minus its first as the only one."""
    wide = np.vstack((weight, bias)).astype(np.float64)
    difference = (wide[:, 1:] - wide[:, :1]).astype(np.float32)
    return difference[:-1], difference[-1]


def _shapes(spec: ObservationSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Shapes of one state's confidences and of the features that are looked at."""
    sizes = {"max_depth": spec.max_depth, "top_k": spec.top_k, "feature_dim": spec.feature_dim}
    shapes = [(name, FEATURES[name].shape(**sizes)) for name in spec.looks_at]
    return [("confidences", (spec.max_depth, spec.top_k)), *shapes]


def _places(part: Part) -> NDArray[np.int64]:
    return part.start + np.arange(part.width)


def _rows(weight: Array, rows: Sequence[NDArray[np.int64]]) -> Array:
    """Some rows of a matrix as one of their own."""
    return np.ascontiguousarray(weight[np.concatenate(rows)] if rows else weight[:0])


def _after(spec: ObservationSpec, called: Sequence[Part], weight: Array, bias: Array) -> list[Array]:
    """What the bias, the depth and the calls not made add to the first layer after 0 … max_depth calls: [out] each."""
    exact, sums = weight.astype(np.float64), []
    for depth in range(spec.max_depth + 1):
        added = bias.astype(np.float64)
        for part in spec.parts:
            if part.name == "depth":
                added = added + np.float32(depth / spec.max_depth) * exact[part.start]
        for part in called:
            missing = slice(part.start + min(depth, spec.calls) * part.width, part.start + spec.calls * part.width)
            added = added + np.float32(part.blank) * exact[missing].sum(axis=0)
        sums.append(added.astype(np.float32))
    return sums
