"""A learned policy: a small multilayer perceptron over the observation, evaluated in NumPy (no framework overhead)."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ArtifactError
from radar_rl.policies.at_once import Decision, written_out
from radar_rl.policies.observation import NAN_MADE, ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, States
from radar_rl.policies.stepwise import Stepwise, difference
from radar_rl.speculative.judging import UNSURE
from radar_rl.speculative.state import DraftState

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


class LearnedPolicy(MemorylessPolicy):
    """Continue when the network's second output (continue) exceeds its first (stop).

    What the outputs are is up to the algorithm: action values (CQL, double DQN), action logits (BC, IQL, PPO), zero and
    a margin (BCQ, fitted, direct), or a bound and what is held against it (acceptance). Hidden layers are ReLU.

    Args:
        name: how tables call it.
        spec: the observation the network was trained on.
        layers: (weight [out, in], bias [out]) float32 of each layer, the last with 2 outputs [stop, continue].
        asks_from: the first draft call after which it decides, 1 … max_depth.

    Raises:
        ArtifactError: the layers do not fit each other or the observation, or hold values that are not finite, or there
            is no such draft call.
    """

    pays_decisions = True

    def __init__(self, name: str, spec: ObservationSpec, layers: Sequence[Layer], asks_from: int = 1) -> None:
        if not 1 <= asks_from <= spec.max_depth:
            raise ArtifactError(f"policy network: asks_from: expected 1 … {spec.max_depth}, got {asks_from}")
        sizes = [spec.size, *(len(bias) for _, bias in layers)]
        shapes = [weight.shape for weight, _ in layers]
        if shapes != [(out, into) for into, out in pairwise(sizes)] or sizes[-1] != 2:
            raise ArtifactError(f"policy network: layers {shapes} do not lead from {spec.size} numbers to 2 actions")
        if not all(np.isfinite(array).all() for layer in layers for array in layer):
            raise ArtifactError("policy network: weights are not finite")
        self.name, self.spec, self.features, self.asks_from = name, spec, spec.looks_at, asks_from
        self.layers = [(np.ascontiguousarray(weight.T), bias) for weight, bias in layers]
        self._margin = difference(*self.layers[-1])  # its rounding error is not that of two large outputs
        self._stepwise: Stepwise | None = None
        self._written: list[Decision] | None = None

    def __getstate__(self) -> dict[str, object]:
        """What a copy takes along: not what was written out, nor the text's arrays, which are parts of one another."""
        return self.__dict__ | {"_stepwise": None, "_written": None}

    def __deepcopy__(self, memo: dict[int, object]) -> "LearnedPolicy":
        """A copy for another text: it shares the weights, which nobody changes, and what was written out of them."""
        made = copy.copy(self)
        made._written = self._written
        return made

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE for one state.

        Of a small network from the beams as they lie there, if that is enough; else a round asked about call by call is
        read once, into arrays that are there.

        What ``continues`` decides, up to outputs that are equal within floating-point error.

        Raises:
            InputError, ModelOutputError, ArtifactError: see ``continues`` and ``DraftState``.
        """
        beams, depth = state.beams, state.depth
        if beams is not None:
            if self._written is None:
                self._written = written_out(self.spec, self.layers, self.asks_from)
            if depth < len(self._written):
                act = self._written[depth](beams, depth)
                if act is not None:
                    return act
        if depth < self.asks_from:
            return CONTINUE  # without a look: on a GPU, without a read from the device
        verdict = state.verdict(self.layers)
        if verdict is not None:
            return super().act(state) if verdict == UNSURE else verdict
        if self._stepwise is None:
            self._stepwise = Stepwise(self.spec, self.layers)
        margin = self._stepwise.margin(state)
        if margin is None or margin != margin:
            return super().act(state)  # tells what is wrong, or the outputs overflow
        return CONTINUE if margin > 0.0 else STOP

    def asking_from(self, draft_call: int) -> "LearnedPolicy":
        """The same network, asked from another draft call on."""
        return LearnedPolicy(self.name, self.spec, [(weight.T, bias) for weight, bias in self.layers], draft_call)

    def outputs(self, states: States) -> NDArray[np.float32]:
        """Action values or logits, [N, 2] float32 in the order stop, continue."""
        return self.network(self.spec.build(states.confidences, states.depth, states.features))

    def network(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network alone: [N, size] → [N, 2] float32, as ``outputs``."""
        return self._through(self.layers[-1], observations)

    def _through(self, last: Layer, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        x = observations
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        return np.asarray(x @ last[0] + last[1])

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether continuing is worth strictly more than stopping.

        Raises:
            InputError: see ``ObservationSpec.build``.
            ArtifactError: weights so large that float32 does not tell.
        """
        observed = self.spec.build(states.confidences, states.depth, states.features)
        with np.errstate(over="ignore", invalid="ignore"):
            margins = self._through(self._margin, observed)[:, 0]
        if np.isnan(margins).any():
            raise ArtifactError(f"policy {self.name}: {NAN_MADE}")
        return np.asarray(margins > 0.0)
