"""A learned policy as a PyTorch module over what draft calls leave on the device, without a read from it."""

from collections.abc import Hashable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec, Part
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.judging import UNSURE, Judge


class OnDevice(nn.Module):
    """Observation and network of a policy: a ``Judge``.

    Args:
        policy: whose decisions it makes.
        device: where.
    """

    def __init__(self, policy: LearnedPolicy, device: torch.device) -> None:
        super().__init__()
        self.spec, self.asks_from = policy.spec, policy.asks_from
        self.decides_for: object = policy.layers
        self._called = _columns(self.spec, ["confidences", *self.spec.looks_at], per_call=True)
        self._rooted = _columns(self.spec, self.spec.looks_at, per_call=False)
        layers = []
        for weight, bias in policy.layers:
            layer = nn.Linear(*weight.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight.T))
                layer.bias.copy_(torch.from_numpy(bias))
            layers.append(layer)
        self.layers = nn.ModuleList(layers)
        self.register_buffer("low", torch.from_numpy(self.spec.spread("low")))
        self.register_buffer("high", torch.from_numpy(self.spec.spread("high")))
        self.low: Tensor
        self.high: Tensor
        self.requires_grad_(False).eval().to(device)

    @property
    def key(self) -> Hashable:
        """See ``Judge``."""
        return self.spec.digest, self.asks_from, tuple(layer.out_features for layer in self.layers)

    def observe(self, told: Tensor, root: Tensor) -> Tensor:
        """What ``ObservationSpec.build`` makes of the same numbers: [R, size] float32. For arguments see ``Judge``."""
        calls, shown = told.shape[1], self.spec.calls
        newest = told[:, -shown:].flip(1) if self.spec.newest is not None else told
        pieces = [self._piece(part, newest, root, calls) for part in self.spec.parts]
        missing = torch.cat([of_part for _, of_part in pieces])
        observed = torch.cat([values for values, _ in pieces], dim=1)
        return torch.where(missing, observed, observed.clamp(self.low, self.high))

    def _piece(self, part: Part, newest: Tensor, root: Tensor, calls: int) -> tuple[Tensor, Tensor]:
        """A part's numbers [R, n] float32, and which of them are of calls not made: [n] bool."""
        made = torch.zeros(part.width, dtype=torch.bool, device=newest.device)
        if part.name == "depth":
            return newest.new_full((len(newest), 1), calls / self.spec.max_depth, dtype=torch.float32), made
        if not part.per_call:
            return root[:, self._rooted[part.name]], made
        values = newest[:, :, self._called[part.name]].float().flatten(1)
        blank = values.new_full((len(values), part.width * self.spec.calls - values.shape[1]), part.blank)
        missing = torch.arange(part.width * self.spec.calls, device=newest.device) >= values.shape[1]
        return torch.cat((values, blank), dim=1), missing

    def outputs(self, told: Tensor, root: Tensor) -> Tensor:
        """Action values or logits, [R, 2] float32 in the order stop, continue."""
        return self._network(self.observe(told, root))

    def _network(self, observed: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            observed = torch.relu(layer(observed))
        outputs: Tensor = self.layers[-1](observed)
        return outputs

    def forward(self, told: Tensor, root: Tensor) -> Tensor:
        """See ``Judge``."""
        stop, go = self.outputs(told, root).unbind(dim=1)
        flags = (go > stop).to(torch.int8)
        return flags.masked_fill((go - stop).isnan(), UNSURE)

    def renewed(self, other: Judge) -> "OnDevice":
        """See ``Judge``."""
        assert isinstance(other, OnDevice)
        self.load_state_dict(other.state_dict())
        self.decides_for = other.decides_for
        return self


def _columns(spec: ObservationSpec, names: Sequence[str], per_call: bool) -> dict[str, slice]:
    """Where the numbers of features lie that are told side by side, in the order of ``FEATURES``."""
    sizes = {"max_depth": spec.max_depth, "top_k": spec.top_k, "feature_dim": spec.feature_dim}
    columns: dict[str, slice] = {}
    end = 0
    ordered = [name for name in ("confidences", *FEATURES) if name in names]
    for name in ordered:
        shape = (spec.max_depth, spec.top_k) if name == "confidences" else FEATURES[name].shape(**sizes)
        if (name == "confidences" or FEATURES[name].per_call) is not per_call:
            continue
        width = prod(shape[1:] if per_call else shape)
        columns[name] = slice(end, end + width)
        end += width
    return columns
