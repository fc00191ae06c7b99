"""Attention of draft queries over a shared prefix and each position's own tree."""

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the Llama layout.

    Args:
        x: [..., heads, m, D]; cos, sin: broadcastable to [..., 1, m, D].
    """
    left, right = x.chunk(2, dim=-1)
    turned: Tensor = x * cos + torch.cat((-right, left), dim=-1) * sin
    return turned


def tree_attention(
    query: Tensor,  # [B, H, m, D]
    prefix_keys: Tensor,  # [K, S, D], shared by the batch
    prefix_values: Tensor,  # [K, S, D]
    prefix_mask: Tensor | None,  # [B, S] bool, None: all of it
    tree_keys: Tensor,  # [B, K, T, D]
    tree_values: Tensor,  # [B, K, T, D]
    tree_mask: Tensor,  # [B, m, T] bool
) -> Tensor:
    """Softmax attention over [prefix, tree] without copying the prefix for every member of the batch.

    H query heads share K key/value heads in groups of H // K. Softmax runs in float32.

    Returns:
        [B, H, m, D].
    """
    batch, heads, m, width = query.shape
    kv = prefix_keys.shape[0]
    grouped = query.reshape(batch, kv, -1, width) * width**-0.5  # [B, K, G·m, D]
    by_head = grouped.transpose(0, 1).reshape(kv, -1, width)  # [K, B·G·m, D]
    to_prefix = (by_head @ prefix_keys.transpose(1, 2)).view(kv, batch, -1, prefix_keys.shape[1]).transpose(0, 1)
    if prefix_mask is not None:
        to_prefix = to_prefix.masked_fill(~prefix_mask[:, None, None, :], NEGATIVE_INFINITY)
    to_tree = (grouped @ tree_keys.transpose(2, 3)).view(batch, kv, -1, m, tree_keys.shape[2])
    to_tree = to_tree.masked_fill(~tree_mask[:, None, None], NEGATIVE_INFINITY).flatten(2, 3)  # [B, K, G·m, T]
    weights = torch.cat((to_prefix, to_tree), dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix, on_tree = weights.split((prefix_keys.shape[1], tree_keys.shape[2]), dim=-1)
    from_prefix = on_prefix.transpose(0, 1).reshape(kv, -1, prefix_keys.shape[1]) @ prefix_values
    mixed = from_prefix.view(kv, batch, -1, width).transpose(0, 1) + on_tree @ tree_values
    output: Tensor = mixed.reshape(batch, heads, m, width)
    return output
