"""The same functions, faster on a CPU: matrix products with weights that oneDNN packed, norms as one operation.

A module keeps its weights, its name and its class; only what its call computes with is replaced, and only where the
replacement gives the same output on a random input. Packed weights are a copy: the models' memory doubles.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 60  # oneDNN chooses a weight's layout for a number of rows: those of a verification at EAGLE's tree size
CLOSE = 1e-4


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN packs this weight: float32, on a CPU, in a torch that was built with it."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """``F.linear`` with a weight [out, in] that stays as it is: [..., in] → [..., out].

    Where oneDNN packs it, products with several rows read a packed copy.
    """
    if not can_pack(weight):
        return lambda x: F.linear(x, weight, bias)
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)

    def product(x: Tensor) -> Tensor:
        if x.numel() <= x.shape[-1]:
            return F.linear(x, weight, bias)
        several: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return several

    return product


def speed_up(model: nn.Module) -> None:
    """Replace what linear layers and RMS norms of a model compute with, where that changes nothing but the time.

    Gradients do not pass through the replacements.
    """
    for module in model.modules():
        if type(module) is nn.Linear and can_pack(module.weight):
            _replace(module, linear(module.weight, module.bias), torch.rand(2, module.in_features))
        elif type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            norm: Any = module
            _replace(norm, _fused(norm.weight, norm.variance_epsilon), torch.rand(2, len(norm.weight)).to(norm.weight))


def _fused(weight: Tensor, eps: float) -> Any:
    shape = weight.shape

    def forward(hidden_states: Tensor) -> Tensor:
        return F.rms_norm(hidden_states, shape, weight, eps)

    return forward


def _replace(module: nn.Module, forward: Any, probe: Tensor) -> None:
    with torch.inference_mode():
        if torch.allclose(forward(probe), module(probe), rtol=CLOSE, atol=CLOSE):
            module.forward = forward
