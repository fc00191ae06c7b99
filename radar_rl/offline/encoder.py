"""The network body: standardise, then a plain ReLU perceptron; a d3rlpy encoder, so every algorithm can use it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radar_rl.offline.backend import d3rlpy

Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]


class StandardisedEncoder(d3rlpy.models.torch.Encoder):  # type: ignore[misc]  # d3rlpy ships no types
    """(x − mean) / std, then linear layers with ReLU.

    Args:
        mean: [size], of the training observations.
        std: [size], of the training observations; positive.
        hidden_units: width of each layer.
    """

    def __init__(self, mean: list[float], std: list[float], hidden_units: list[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        sizes = [len(mean), *hidden_units]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, size] → [B, hidden_units[-1]]."""
        x = (x - self.mean) / self.std
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x

    def folded(self) -> list[Arrays]:
        """(weight [out, in], bias [out]) of each layer, the standardisation folded into the first.

        Computed in float64: the fold multiplies small differences of large numbers.
        """
        weights = [(_array(layer.weight), _array(layer.bias)) for layer in self.layers]
        first, bias = weights[0]
        scaled = first / _array(self.std)
        weights[0] = (scaled, bias - scaled @ _array(self.mean))
        return [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in weights]


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


@dataclass()
class StandardisedEncoderFactory(d3rlpy.models.EncoderFactory):  # type: ignore[misc]  # d3rlpy ships no types
    """Makes ``StandardisedEncoder``; registered with d3rlpy, so saved configurations read back.

    Attributes:
        mean: mean of each number of the observation over the training states.
        std: standard deviation of each, positive.
        hidden_units: width of each layer.
    """

    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    hidden_units: list[int] = field(default_factory=lambda: [64, 64])

    def create(self, observation_shape: Any) -> StandardisedEncoder:
        """An encoder for observations of shape [size]."""
        if tuple(observation_shape) != (len(self.mean),):
            raise ValueError(f"encoder standardises {len(self.mean)} numbers, observations are {observation_shape}")
        return StandardisedEncoder(self.mean, self.std, self.hidden_units)

    def create_with_action(
        self, observation_shape: Any, action_size: int, discrete_action: bool = False
    ) -> StandardisedEncoder:
        """Not for algorithms that feed actions into the network: ours have two discrete actions, one output each."""
        raise NotImplementedError("StandardisedEncoder takes observations only")

    @staticmethod
    def get_type() -> str:
        """Name in d3rlpy's registry."""
        return "radar_standardised"


d3rlpy.models.encoders.register_encoder_factory(StandardisedEncoderFactory)


def encoder_factory(observations: NDArray[np.float32], hidden_units: list[int]) -> StandardisedEncoderFactory:
    """A factory that standardises with the statistics of ``observations`` [N, size]."""
    values = observations.astype(np.float64)
    # A number that never varies carries nothing: leave its scale alone instead of dividing by zero.
    std = np.where(values.std(axis=0) > 1e-6, values.std(axis=0), 1.0)
    return StandardisedEncoderFactory(values.mean(axis=0).tolist(), std.tolist(), list(hidden_units))
