"""How many positions' trees may grow together: what memory allows, and no more than makes collecting faster."""

from typing import Any

import psutil
import torch

from radar_rl.speculative.pair import Pair

MOST = {"cpu": 64}
"""Positions past which a device only takes more memory: on two CPU cores ``pocket`` is traced fastest with 64
(``radar-rl bench collect positions_per_batch=N``)."""

MOST_ELSEWHERE = 1024

SHARE = 0.25
"""Of the free memory; the rest is for the models' own passes and for whoever else is there."""


def positions_that_fit(pair: Pair, longest: int, *, max_depth: int, top_k: int) -> int:
    """Positions per batch, a power of two, so that small changes of free memory change nothing.

    Args:
        pair: whose head grows the trees.
        longest: tokens of the longest text, prompt included.
        max_depth, top_k: of the trees.
    """
    device = pair.target.device
    room = SHARE * _free_bytes(device)
    fitting = int(room // bytes_per_position(pair, longest, max_depth=max_depth, top_k=top_k))
    most = min(max(fitting, 1), MOST.get(device.type, MOST_ELSEWHERE))
    return 1 << (most.bit_length() - 1)


def bytes_per_position(pair: Pair, longest: int, *, max_depth: int, top_k: int) -> int:
    """What one position's tree takes at most while it grows: the largest tensors, counted generously."""
    head = pair.head
    config: Any = head.config
    wide = pair.target.model.dtype.itemsize
    slots = (max_depth - 1) * top_k
    heads = int(config.num_attention_heads)
    kv_heads = int(config.num_key_value_heads or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    cache = 2 * kv_heads * slots * width * wide
    candidates = (top_k + (max_depth - 1) * top_k**2) * 64  # token, parent, score, and comparisons of all of them
    distribution = top_k * len(head.draft_to_target) * (2 * wide + 8)  # logits and log-probabilities
    attention = heads * top_k * (longest + slots) * (2 * wide + 8)  # scores, mask and weights
    layer = top_k * (3 * int(config.intermediate_size) + 8 * int(config.hidden_size)) * wide
    return int(cache + candidates + distribution + attention + layer)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
