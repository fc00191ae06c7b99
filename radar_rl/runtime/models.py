"""A pair from the command line's ``model`` group."""

from collections.abc import Mapping
from typing import Any

import torch

from radar_rl.errors import ConfigError
from radar_rl.speculative.pair import Pair, load_pair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pair_from_config(model: Mapping[str, Any]) -> Pair:
    """Load the pair that a ``model`` mapping (target, draft, dtype, device) names.

    Raises:
        ConfigError: an unknown dtype or a device that is not here.
        InputError, CheckpointError: see ``load_pair``.
    """
    if model["dtype"] not in DTYPES:
        raise ConfigError(f"model.dtype: expected one of {', '.join(DTYPES)}, got {model['dtype']!r}")
    device = str(model["device"])
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device={device}: no CUDA device here; use model.device=cpu")
    return load_pair(model["target"], model["draft"], dtype=DTYPES[model["dtype"]], device=device)
