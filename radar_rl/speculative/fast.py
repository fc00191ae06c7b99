"""The same functions, faster on a CPU: matrix products with weights that oneDNN packed, fewer and fused operations.

A module keeps its weights, its name and its class; only what its call computes with is replaced, and only where the
replacement gives the same output on a random input. Packed weights are a copy: the models' memory doubles.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 60  # oneDNN chooses a weight's layout for a number of rows: those of a verification at EAGLE's tree size
CLOSE = 1e-4

Function = Callable[[Tensor], Tensor]


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN packs this weight: float32, on a CPU, in a torch that was built with it."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def linear(weight: Tensor, bias: Tensor | None) -> Function:
    """``F.linear`` with a weight [out, in] that stays as it is: [..., in] → [..., out].

    Where oneDNN packs it, products with several rows read a packed copy.
    """
    if not can_pack(weight):
        return lambda x: F.linear(x, weight, bias)
    packed = _pack(weight)

    def several(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return product

    return lambda x: F.linear(x, weight, bias) if x.numel() <= x.shape[-1] else _padded(several, x)


def padded_rows(rows: int) -> int:
    """Rows that a product of so many is computed with: as many up to ``ROWS``, beyond one of eight in an octave.

    For every number of rows oneDNN compiles a kernel that it never gives back: prompts of all lengths would fill the
    memory.
    """
    step = 1 << max(0, rows.bit_length() - 4)
    return rows if rows <= ROWS else -(-rows // step) * step


def _padded(function: Function, x: Tensor) -> Tensor:
    """A function of each row, of ``padded_rows``."""
    rows = x.numel() // x.shape[-1]
    missing = padded_rows(rows) - rows
    if not missing:
        return function(x)
    return function(F.pad(x.reshape(rows, -1), (0, 0, 0, missing)))[:rows].view(*x.shape[:-1], -1)


def join(layers: Sequence[nn.Linear]) -> Function:
    """Several linear layers of one input as one matrix product; their weights become views of the joined one.

    Returns:
        [..., input] → [..., sum of the outputs].
    """
    weight = torch.cat([layer.weight.data for layer in layers])
    biases: list[Any] = [layer.bias for layer in layers]
    for layer, part in zip(layers, weight.split([layer.out_features for layer in layers]), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return linear(weight, None if biases[0] is None else torch.cat(biases))


def speed_up(model: nn.Module) -> None:
    """Replace what linear layers, RMS norms and gated blocks of a model compute with, where only the time changes.

    Gradients do not pass through the replacements.
    """
    done: set[nn.Module] = set()
    for module in model.modules():
        gated = _packable(module, "gate_proj", "up_proj", "down_proj")
        if gated and _replace(module, _gated(*gated), gated[0].in_features):
            done.update(gated)
        together = _packable(module, "q_proj", "k_proj", "v_proj")
        if together and getattr(module, "joined", None) is None:
            _read_together(together)
            done.update(together)
        if type(module) is nn.Linear and module not in done and can_pack(module.weight):
            _replace(module, linear(module.weight, module.bias), module.in_features)
        elif type(module).__name__.endswith("RMSNorm"):
            norm: Any = module
            eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
            if eps is not None:
                _replace(norm, _norm(norm.weight, eps), len(norm.weight))


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
    return packed


def _packable(module: nn.Module, *names: str) -> list[nn.Linear]:
    """A module's children of these names if all are linear layers, biased alike, that oneDNN packs; else none."""
    children = [getattr(module, name, None) for name in names]
    layers = [child for child in children if type(child) is nn.Linear and can_pack(child.weight)]
    alike = len({layer.bias is None for layer in layers}) == 1
    return layers if len(layers) == len(names) and alike else []


def _gated(gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> Function:
    """Llama's gated block as three operations: down(silu(gate(x)) · up(x))."""
    packed_gate, packed_up, narrow = _pack(gate.weight), _pack(up.weight), linear(down.weight, down.bias)

    def forward(x: Tensor) -> Tensor:
        if x.numel() <= x.shape[-1]:
            return narrow(F.silu(F.linear(x, gate.weight, gate.bias)) * F.linear(x, up.weight, up.bias))
        return _padded(several, x)

    def several(x: Tensor) -> Tensor:
        gated = torch.ops.mkldnn._linear_pointwise(x, packed_gate, gate.bias, "swish", [], "")
        product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, gated, packed_up, up.bias, "mul")
        return narrow(product)

    return forward


def _read_together(layers: Sequence[nn.Linear]) -> None:
    """Layers that are called one after the other with the same tensor: the first computes for all of them."""
    product, sizes = join(layers), [layer.out_features for layer in layers]
    source: list[Tensor] = []
    ready: dict[nn.Module, Tensor] = {}  # of ``source``, not asked for yet

    def first(x: Tensor) -> Tensor:
        parts: list[Tensor] = list(product(x).split(sizes, dim=-1))
        source[:] = [x]
        ready.update(zip(layers[1:], parts[1:], strict=True))
        return parts[0]

    def later(layer: nn.Linear) -> Function:
        def forward(x: Tensor) -> Tensor:
            output = ready.pop(layer, None) if source and x is source[0] else None
            if not ready:
                source.clear()
            return F.linear(x, layer.weight, layer.bias) if output is None else output

        return forward

    if _replace(layers[0], first, layers[0].in_features):
        source.clear()
        ready.clear()
        for layer in layers[1:]:
            object.__setattr__(layer, "forward", later(layer))


def _norm(weight: Tensor, eps: float) -> Function:
    """A root-mean-square norm: on a CPU in float32 by the vector's length, which takes the fewest operations."""
    shape, size = weight.shape, len(weight)
    if not can_pack(weight):
        return lambda x: F.rms_norm(x, shape, weight, eps)
    scaled, shift = weight * size**0.5, torch.tensor(size * eps)

    def forward(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        normed: Tensor = (x * torch.addcmul(shift, length, length).rsqrt_()).mul_(scaled)
        return normed

    return forward


def _replace(module: nn.Module, forward: Function, width: int) -> bool:
    """Let a module compute with ``forward`` if that gives the same on a random input [2, width]."""
    weight = next(module.parameters())
    probe = torch.rand(2, width, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.inference_mode():
        same = torch.allclose(forward(probe), module(probe), rtol=CLOSE, atol=CLOSE)
    if same:
        object.__setattr__(module, "forward", forward)
    return same
