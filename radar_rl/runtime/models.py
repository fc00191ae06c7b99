"""A pair from the command line's ``model`` group."""

from collections.abc import Mapping
from typing import Any

import torch

from radar_rl.errors import ConfigError
from radar_rl.speculative.inflate import InflatedShape, inflate_pair
from radar_rl.speculative.pair import Pair, load_pair
from radar_rl.speculative.qwen2 import AS_QWEN2, qwen2_pair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pair_from_config(model: Mapping[str, Any]) -> Pair:
    """Load the pair that a ``model`` mapping names: target, draft, dtype, device.

    Optionally also cuda_graphs, inflate (a shape) and architecture (``qwen2``: a Llama target is written as Qwen2).

    Raises:
        ConfigError: an unknown dtype or architecture, a device that is not here, a shape that the pair cannot be
            inflated to, or a target that cannot be written in the architecture.
        InputError, CheckpointError: see ``load_pair``.
    """
    if model["dtype"] not in DTYPES:
        raise ConfigError(f"model.dtype: expected one of {', '.join(DTYPES)}, got {model['dtype']!r}")
    device = str(model["device"])
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device={device}: no CUDA device here; use model.device=cpu")
    shape, written = inflated_shape(model), architecture(model)
    pair = load_pair(model["target"], model["draft"], dtype=DTYPES[model["dtype"]], device=device)
    if shape is not None:
        pair = inflate_pair(pair, shape)
    if written:
        pair = qwen2_pair(pair)
    return pair.with_graphs() if model.get("cuda_graphs") else pair


def label_from_config(model: Mapping[str, Any]) -> str:
    """What ``Pair.label`` will add to the target's identity, without loading the pair.

    Raises:
        ConfigError: an unknown architecture, or a shape that cannot be.
    """
    shape = inflated_shape(model)
    return architecture(model) + (shape.label if shape else "")


def architecture(model: Mapping[str, Any]) -> str:
    """What a pair is called whose target is written in another family's architecture; empty for its own.

    Raises:
        ConfigError: there is no such architecture here.
    """
    name = model.get("architecture")
    if name is None:
        return ""
    if name != "qwen2":
        raise ConfigError(f"model.architecture: expected qwen2, or null for the target's own, got {name!r}")
    return AS_QWEN2


def inflated_shape(model: Mapping[str, Any]) -> InflatedShape | None:
    """The shape that a ``model`` mapping inflates its pair to; None if it has no ``inflate``.

    Raises:
        ConfigError: a size is missing, unknown or out of range.
    """
    if "inflate" not in model:
        return None
    try:
        return InflatedShape(**model["inflate"])
    except TypeError as error:
        sizes = ", ".join(InflatedShape.__dataclass_fields__)
        raise ConfigError(f"model.inflate: expected whole numbers for {sizes}; got {model['inflate']}") from error
