"""A policy network asked call by call: what a decision costs in the decode loop is all here.

Every array is made once; a decision writes the numbers of the newest call and runs the layers into what is there. What
calls not made yet, the depth and the biases add to the first layer is a function of the depth and summed beforehand;
what the round's own numbers add to it is computed when the round begins.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.observation import ObservationSpec, Part
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.state import DraftState, FeatureValues, Look

Array = NDArray[np.float32]
Layer = tuple[Array, Array]

ZERO = np.zeros((), dtype=np.float32)


class Stepwise:
    """Outputs of a network with ReLU layers at the states of one text, one after the other.

    Args:
        spec: the observation.
        layers: (weight [in, out], bias [out]) float32 of each layer, the last with 2 outputs [stop, continue].
    """

    def __init__(self, spec: ObservationSpec, layers: Sequence[Layer]) -> None:
        called = [part for part in spec.parts if part.per_call]
        rooted = [part for part in spec.parts if not part.per_call and part.name != "depth"]
        weight, bias = layers[0]
        self._max_depth, self._shapes = spec.max_depth, _shapes(spec)
        self._after = _after(spec, called, weight, bias)
        # Numbers of a call lie together, and calls so that those shown are neighbours, in the order of their weights.
        rows = [
            part.start + shown * part.width + np.arange(part.width) for shown in range(spec.calls) for part in called
        ]
        shown_weight = _rows(weight, rows)
        width = sum(part.width for part in called)
        numbers = np.zeros(spec.max_depth * width, dtype=np.float32)
        # Where every call has its own place, what the calls so far add up to is kept: each is multiplied once. Where
        # the newest stands first, weights change with every call, and all that are shown are multiplied together.
        self._sums = np.zeros((spec.max_depth + 1, len(bias)), np.float32) if spec.newest is None else None
        self._calls, self._windows = [], [(numbers[:0], shown_weight[:0])]
        for call in range(1, spec.max_depth + 1):
            own = call - 1 if spec.newest is None else spec.max_depth - call
            block = numbers[own * width : (own + 1) * width]
            self._calls.append(_Block(called, block))
            if spec.newest is None:
                self._windows.append((block, shown_weight[own * width : (own + 1) * width]))
            else:
                shown = min(call, spec.calls) * width
                self._windows.append((numbers[own * width : own * width + shown], shown_weight[:shown]))
        root = np.zeros(sum(part.width for part in rooted), dtype=np.float32)
        self._root, self._root_weight = _Block(rooted, root), _rows(weight, [_places(part) for part in rooted])
        self._of_root = np.zeros_like(bias)
        # Each layer's outputs, and a 1 behind them that the next layer's bias is multiplied with.
        values = [np.ones(len(bias) + 1, dtype=np.float32) for _, bias in layers]
        self._first, self._last = values[0][:-1], values[-1][:-1]
        self._steps = [
            (before, np.vstack((weight, bias)), after[:-1])
            for (before, after), (weight, bias) in zip(pairwise(values), layers[1:], strict=True)
        ]
        self._seen: Look | None = None
        self._known = 0

    def outputs(self, state: DraftState) -> Array | None:
        """Action values or logits at a state: [2], stop and continue; valid until the next state.

        NaN in what is seen makes NaN of both.

        Returns:
            None where the state does not hold what the observation needs, in the shapes that it needs.
        """
        seen, depth = state.look(check=False), state.depth
        if seen is not self._seen and not self._begin(seen):
            return None
        if depth > self._known:
            self._read(depth, seen)
        first = self._first
        if self._sums is not None:
            np.add(self._sums[depth], self._after[depth], out=first)
        else:
            numbers, weight = self._windows[depth]
            np.dot(numbers, weight, out=first)
            np.add(first, self._after[depth], out=first)
        if len(self._root_weight):
            np.add(first, self._of_root, out=first)
        for before, weight, after in self._steps:
            np.maximum(before, ZERO, out=before)  # lets NaN through
            np.dot(before, weight, out=after)
        return self._last

    def _read(self, depth: int, seen: Look) -> None:
        """Take in the calls up to ``depth`` that were not seen yet."""
        confidences, features = seen
        for call in range(self._known, depth):
            self._calls[call].fill_call(call, confidences, features)
            if self._sums is not None:
                numbers, weight = self._windows[call + 1]
                np.dot(numbers, weight, out=self._sums[call + 1])
                np.add(self._sums[call + 1], self._sums[call], out=self._sums[call + 1])
        self._known = depth

    def _begin(self, seen: Look) -> bool:
        """Another round, or a state from elsewhere: whether it holds what the observation needs."""
        confidences, features = seen
        self._seen, self._known = None, 0
        for name, shape in self._shapes:
            values = confidences if name == "confidences" else features.get(name)
            if values is None or np.shape(values) != shape:
                return False
        if len(self._root_weight):
            self._root.fill(features)
            np.dot(self._root.numbers, self._root_weight, out=self._of_root)
        self._seen = seen
        return True


class _Block:
    """Numbers of an observation that are written together.

    Args:
        parts: of the observation, side by side.
        numbers: [sum of their widths] where they go.
    """

    def __init__(self, parts: Sequence[Part], numbers: Array) -> None:
        self.numbers = numbers
        widths = [part.width for part in parts]
        self._low, self._high = (
            np.repeat(np.array([getattr(part, of) for part in parts], np.float32), widths) for of in ("low", "high")
        )
        self._confidences, self._named = None, list[tuple[str, Array, Array]]()
        for part, end in zip(parts, np.cumsum(widths).tolist(), strict=True):
            into, low = (array[end - part.width : end] for array in (numbers, self._low))
            if part.name == "confidences":
                self._confidences = into, low
            else:
                self._named.append((part.name, into, low))

    def fill_call(self, call: int, confidences: NDArray[np.floating], features: FeatureValues) -> None:
        """Write what a call, counted from 0, told: cut as an observation holds it."""
        if self._confidences is not None:
            into, low = self._confidences
            np.maximum(confidences[call], low, out=into)  # lets NaN through, as ``minimum`` does
        for name, into, low in self._named:
            np.maximum(features[name][call], low, out=into)
        np.minimum(self.numbers, self._high, out=self.numbers)

    def fill(self, features: FeatureValues) -> None:
        """Write what is known of the round."""
        for name, into, low in self._named:
            np.maximum(features[name], low, out=into)
        np.minimum(self.numbers, self._high, out=self.numbers)


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
