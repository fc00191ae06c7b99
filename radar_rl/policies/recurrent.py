"""RADAR's policy (arXiv 2512.14069): an LSTM over the levels drafted so far and a small perceptron, in NumPy.

As published (github.com/minaduki-sora/RADAR): the state after draft call ℓ is the beam's cumulative log-probabilities,
raw and sorted descending; an LSTM reads the states of levels 1 … ℓ; a perceptron over [LSTM output, state] has the
logits [stop, continue]. Their runtime stops where a uniform random number falls below the stop probability
(``SampledRadar``); ``RadarPolicy`` stops where it is at least one half, so that a decision is a function of the
confidences.

RADAR asks after calls 1 … 7 and makes 8 at most (their ``depth`` 7); the network itself has no longest round. Where it
stops after call 1, its tree is level 1 alone, widened to ``tree_size − 1`` children: that is how a round is drafted,
not how it is decided, so it is the decoder's and the trace's ``widen_first_level``; the policy sees ``top_k`` children
in any case.
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ArtifactError, InputError, in_words
from radar_rl.policies.observation import NAN_MADE, NAN_SEEN
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, States
from radar_rl.policies.random import coin
from radar_rl.speculative.state import Confidences, DraftState, FeatureValues, Look

Array = NDArray[np.float32]

# Rows that go through the network together: its temporaries stay within some tens of MiB.
CHUNK = 4096

# float16's range: a log-probability of −inf would make NaN in the network.
LOWEST = np.float32(-65504.0)


class Memory(NamedTuple):
    """What the LSTM carries from one level to the next, each [N, hidden] float32."""

    hidden: Array
    cell: Array


class RadarPolicy(MemorylessPolicy):
    """Stop where the network's stop probability is at least one half.

    Args:
        name: how tables call it.
        weights: float32 tensors by the names of the published files, see ``weight_shapes``.

    Attributes:
        weights: as given.
        top_k: the beam width that it reads.

    Raises:
        ArtifactError: tensors are missing or unexpected, do not fit each other, or hold values that are not finite.
    """

    pays_decisions = True

    def __init__(self, name: str, weights: Mapping[str, Array]) -> None:
        check_weights(weights)
        self.name, self.weights = name, dict(weights)
        self.top_k = weights["lstm.weight_ih_l0"].shape[1]
        self._width = weights["lstm.weight_hh_l0"].shape[1]
        gates = np.vstack((weights["lstm.weight_hh_l0"].T, weights["lstm.weight_ih_l0"].T))
        gate_bias = weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
        # All gates by one tanh: the logistic function of x is (1 + tanh(x / 2)) / 2. Halving is exact.
        halved = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), self._width)  # input, forget, cell, output
        stop, go = weights["mlp.3.weight"]
        outer_bias = weights["mlp.3.bias"][0] - weights["mlp.3.bias"][1]
        # The last row of each is its bias: multiplied with a 1 behind the inputs where one state is decided.
        self._layers = (
            np.vstack((gates, gate_bias)) * halved,
            np.vstack((weights["mlp.0.weight"].T, weights["mlp.0.bias"])),
            np.append(stop - go, outer_bias)[:, None],
        )
        self._levels: _Levels | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "RadarPolicy":
        """A copy for another text: it shares the weights, which nobody changes."""
        other = copy.copy(self)
        other._levels = None
        return other

    def stop_probability(self, states: NDArray[np.floating]) -> Array:
        """The probability of stopping after each call.

        Args:
            states: [B, L, top_k], cumulative draft log-probabilities of levels 1 … L, sorted descending in a level.

        Returns:
            [B, L] float32: element ℓ − 1 for stopping after call ℓ, a function of levels 1 … ℓ.

        Raises:
            InputError: another shape, or NaN.
        """
        if states.ndim != 3:
            raise InputError(f"states: expected [B, L, {self.top_k}], got {list(states.shape)}")
        margins = np.empty(states.shape[:2], dtype=np.float32)
        for start in range(0, len(states), CHUNK):
            rows = slice(start, start + CHUNK)
            memory = self._blank(len(states[rows]))
            for level in range(states.shape[1]):
                margins[rows, level], memory = self._step(self._state(states[rows, level]), memory)
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * margins), dtype=np.float32)

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether the stop probability after call ``depth`` is below one half.

        Raises:
            InputError: another beam width, or NaN.
            ArtifactError: weights so large that float32 does not tell.
        """
        going = np.empty(len(states), dtype=np.bool_)
        for start in range(0, len(states), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(states)))
            memory, depth = self._blank(len(rows)), states.depth[rows]
            for level in range(int(depth.max(initial=0))):
                margin, memory = self._step(self._state(states.confidences[rows, level]), memory)
                asked, later = depth == level + 1, depth > level + 1
                going[rows[asked]] = margin[asked] < 0.0
                rows, depth, memory = rows[later], depth[later], Memory(memory.hidden[later], memory.cell[later])
        return going

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE for one state; a round asked about call by call is read once."""
        return CONTINUE if self._margin(state) < 0.0 else STOP

    def stop_depths(self, confidences: Confidences, features: FeatureValues | None = None) -> NDArray[np.int64]:
        """See ``MemorylessPolicy``: one pass over the levels, of rows that have not stopped yet."""
        count, max_depth = confidences.shape[:2]
        depths = np.full(count, max_depth, dtype=np.int64)
        for start in range(0, count, CHUNK):
            rows = np.arange(start, min(start + CHUNK, count))
            memory = self._blank(len(rows))
            for level in range(max_depth - 1):
                margin, memory = self._step(self._state(confidences[rows, level]), memory)
                going = margin < 0.0
                depths[rows[~going]] = level + 1
                rows, memory = rows[going], Memory(memory.hidden[going], memory.cell[going])
        return depths

    def stop_probability_of(self, state: DraftState) -> float:
        """The probability of stopping at one state."""
        return float(0.5 + 0.5 * np.tanh(0.5 * self._margin(state)))

    def _margin(self, state: DraftState) -> float:
        """Logit of stopping minus logit of continuing at one state."""
        if self._levels is None or len(self._levels.states) < state.depth:
            self._levels = _Levels(self._layers, max(state.depth, state.max_depth))
        seen = state.look(check=False)
        if seen[0].shape[-1] == self.top_k:
            margin = self._levels.margin(seen, state.depth)
            if margin == margin:
                return margin
        self._state(state.look()[0][: state.depth])  # tells what is wrong
        raise ArtifactError(f"policy {self.name}: {NAN_MADE}")

    def _state(self, confidences: NDArray[np.floating]) -> Array:
        """What the network reads of confidences [N, top_k].

        Raises:
            InputError: another beam width, or NaN.
        """
        if confidences.shape[-1] != self.top_k:
            raise InputError(
                f"policy {self.name} reads {self.top_k} confidences a level, got {confidences.shape[-1]}; use "
                f"top_k={self.top_k}"
            )
        values: Array = np.maximum(confidences, LOWEST, dtype=np.float32)  # lets NaN through
        if np.isnan(values).any():
            raise InputError(NAN_SEEN)
        return values

    def _blank(self, count: int) -> Memory:
        return Memory(np.zeros((count, self._width), np.float32), np.zeros((count, self._width), np.float32))

    @np.errstate(over="ignore", invalid="ignore")
    def _step(self, state: Array, memory: Memory) -> tuple[Array, Memory]:
        """One level more: [N, top_k] → logit of stopping minus logit of continuing [N], and the memory after it.

        Raises:
            ArtifactError: weights so large that float32 does not tell.
        """
        n, (to_gates, to_inner, to_margin) = self._width, self._layers
        gates = np.concatenate((memory.hidden, state), axis=1) @ to_gates[:-1]
        gates += to_gates[-1]
        np.tanh(gates, out=gates)
        cell_input = gates[:, 2 * n : 3 * n].copy()
        gates += 1.0
        gates *= 0.5
        cell = gates[:, n : 2 * n] * memory.cell + gates[:, :n] * cell_input
        hidden = gates[:, 3 * n :] * np.tanh(cell)
        inner = np.concatenate((hidden, state), axis=1) @ to_inner[:-1]
        inner += to_inner[-1]
        np.maximum(inner, 0.0, out=inner)
        margin = inner @ to_margin[:-1, 0] + to_margin[-1, 0]
        if np.isnan(margin).any():
            raise ArtifactError(f"policy {self.name}: {NAN_MADE}")
        return margin, Memory(hidden, cell)


class _Levels:
    """The levels of one text's round, read one after the other into arrays made once.

    Args:
        layers: [inputs + 1, outputs] each, the last row its bias: to the gates, to the perceptron, to the margin.
        count: most levels.

    Attributes:
        states: [count, top_k], those that were read.
    """

    def __init__(self, layers: tuple[Array, Array, Array], count: int) -> None:
        self._to_gates, self._to_inner, self._to_margin = layers
        n = self._to_gates.shape[1] // 4
        self._reads = np.zeros(len(self._to_gates), np.float32)  # hidden, state, 1
        self._reads[-1] = 1.0
        self._hidden, self._state = self._reads[:n], self._reads[n:-1]
        self._cell, self._gates = np.zeros(n, np.float32), np.zeros(4 * n, np.float32)
        self._parts = [self._gates[start : start + n] for start in range(0, 4 * n, n)]
        # Of tanh of halves to the logistic function: input, forget and output gate.
        self._shift = np.repeat(np.array([1.0, 1.0, 0.0, 1.0], np.float32), n)
        self._scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), n)
        self._inner, self._margin = np.ones(len(self._to_margin), np.float32), np.zeros(1, np.float32)
        self.states: Array = np.zeros((count, len(self._state)), np.float32)
        self._seen: Look | None = None
        self._known = 0

    def margin(self, seen: Look, depth: int) -> float:
        """Logit of stopping minus logit of continuing after ``depth`` levels; NaN where one of them holds NaN.

        What was read of them before, in this round or in equal numbers, is not read again.
        """
        known = self._known
        if known > depth or (seen is not self._seen and not self._same(seen[0], known)):
            known = 0
            self._hidden.fill(0.0)
            self._cell.fill(0.0)
        for level in range(known, depth):
            np.maximum(seen[0][level], LOWEST, out=self.states[level])  # lets NaN through
            self._step(self.states[level])
        self._seen, self._known = seen, depth
        return self._margin.item()

    def _same(self, confidences: NDArray[np.floating], known: int) -> bool:
        return np.array_equal(np.maximum(confidences[:known], LOWEST), self.states[:known])

    def _step(self, state: Array) -> None:
        """``RadarPolicy._step`` of one row."""
        insert, forget, cell, output = self._parts
        self._state[:] = state
        self._reads.dot(self._to_gates, self._gates)
        np.tanh(self._gates, out=self._gates)
        np.add(self._gates, self._shift, out=self._gates)
        np.multiply(self._gates, self._scale, out=self._gates)
        np.multiply(forget, self._cell, out=self._cell)
        np.multiply(insert, cell, out=insert)
        np.add(self._cell, insert, out=self._cell)
        np.tanh(self._cell, out=cell)
        np.multiply(output, cell, out=self._hidden)
        self._reads.dot(self._to_inner, self._inner[:-1])
        np.maximum(self._inner, 0.0, out=self._inner)
        self._inner.dot(self._to_margin, self._margin)


class SampledRadar:
    """RADAR's decision as published: stop where a uniform random number falls below the stop probability.

    The number is a function of ``seed``, the text's name, the position and the depth, as ``RandomStop``'s: the same
    live and in a replay.

    Args:
        policy: whose probabilities.
        seed: of the numbers.
    """

    pays_decisions = True
    asks_from = 1

    def __init__(self, policy: RadarPolicy, seed: int = 0) -> None:
        self.policy, self.seed, self.top_k = policy, seed, policy.top_k
        self.name = f"{policy.name}, sampled"
        self._begun, self._text = 0, ""

    def begin_sequence(self, text: str | None = None) -> None:
        """The numbers of this text begin."""
        self._begun += 1
        self._text = str(self._begun) if text is None else text

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE, drawn."""
        return STOP if coin(self.seed, self._text, state) < self.policy.stop_probability_of(state) else CONTINUE

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Nothing is remembered."""


def weight_shapes(top_k: int, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a policy, named as in the published files (there 10, 128 and 128).

    Args:
        top_k: numbers in a state.
        hidden: width of the LSTM.
        inner: width of the perceptron.
    """
    return {
        "lstm.weight_ih_l0": (4 * hidden, top_k),
        "lstm.weight_hh_l0": (4 * hidden, hidden),
        "lstm.bias_ih_l0": (4 * hidden,),
        "lstm.bias_hh_l0": (4 * hidden,),
        "mlp.0.weight": (inner, hidden + top_k),
        "mlp.0.bias": (inner,),
        "mlp.3.weight": (2, inner),
        "mlp.3.bias": (2,),
    }


def check_weights(weights: Mapping[str, Array]) -> None:
    """Refuse tensors that are no policy of RADAR's.

    Raises:
        ArtifactError: naming what is missing, unexpected, or of another shape than the others imply.
    """
    names = set(weight_shapes(0, 0, 0))
    missing, unexpected = sorted(names - set(weights)), sorted(set(weights) - names)
    if missing or unexpected:
        raise ArtifactError(f"not a policy of RADAR's: {in_words(missing=missing, unexpected=unexpected)}")
    into, between = weights["lstm.weight_ih_l0"].shape, weights["lstm.weight_hh_l0"].shape
    inner = weights["mlp.0.bias"].shape
    sizes = (into[1] if len(into) == 2 else 0, between[1] if len(between) == 2 else 0, inner[0] if inner else 0)
    for name, shape in weight_shapes(*sizes).items():
        if weights[name].shape != shape or 0 in shape:
            raise ArtifactError(f"RADAR's {name}: expected {list(shape)}, got {list(weights[name].shape)}")
    broken = [name for name, values in weights.items() if not np.isfinite(values).all()]
    if broken:
        raise ArtifactError(f"RADAR's weights are not finite: {', '.join(broken)}")
