"""A pair from the command line's ``model`` group."""

from collections.abc import Mapping
from typing import Any

import torch

from radar_rl.errors import ConfigError
from radar_rl.speculative.inflate import InflatedShape, inflate_pair
from radar_rl.speculative.pair import Pair, load_pair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pair_from_config(model: Mapping[str, Any]) -> Pair:
    """Load the pair that a ``model`` mapping names: target, draft, dtype, device, and optionally cuda_graphs, inflate.

    Raises:
        ConfigError: an unknown dtype, a device that is not here, or a shape that the pair cannot be inflated to.
        InputError, CheckpointError: see ``load_pair``.
    """
    if model["dtype"] not in DTYPES:
        raise ConfigError(f"model.dtype: expected one of {', '.join(DTYPES)}, got {model['dtype']!r}")
    device = str(model["device"])
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device={device}: no CUDA device here; use model.device=cpu")
    shape = inflated_shape(model)
    pair = load_pair(model["target"], model["draft"], dtype=DTYPES[model["dtype"]], device=device)
    if shape is not None:
        pair = inflate_pair(pair, shape)
    return pair.with_graphs() if model.get("cuda_graphs") else pair


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
