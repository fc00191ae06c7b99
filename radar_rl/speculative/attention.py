"""Attention over a text's prefix and the slots of a draft tree, and the additive masks it reads."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the Llama layout.

    Args:
        x: [..., heads, m, D].
        cos, sin: broadcastable to [..., 1, m, D]; the first half of ``sin`` carries a minus sign.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where ``visible`` (bool), −∞ elsewhere; same shape."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, NEGATIVE_INFINITY)


def fold(bias: Tensor, group: int) -> Tensor:
    """A mask for ``folded_attention``: [B, m, S] → [B, 1, group · m, S]."""
    batch, m, width = bias.shape
    if group == 1 or m == 1:
        return bias[:, None].expand(-1, -1, group * m, -1)
    return bias[:, None].expand(-1, group, -1, -1).reshape(batch, 1, group * m, width)


def folded_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float | None = None) -> Tensor:
    """Softmax attention of H query heads over K key/value heads, without a copy of the keys for every query head.

    The H // K query heads of a group are folded into the rows of their key/value head.

    Args:
        query: [B, H, m, D].
        keys, values: [B, K, S, D].
        bias: [B, 1, (H // K) · m, S], see ``fold``.
        scale: of the scores, by default 1/√D.

    Returns:
        [B, H, m, D].
    """
    rows = query.reshape(query.shape[0], keys.shape[1], -1, query.shape[3])
    return F.scaled_dot_product_attention(rows, keys, values, attn_mask=bias, scale=scale).view(query.shape)


def shared_prefix_attention(
    query: Tensor,  # [B, H, m, D]
    prefix_keys: Tensor,  # [K, S, D], shared by the batch
    prefix_values: Tensor,  # [K, S, D]
    prefix_mask: Tensor,  # [B, S] bool
    tree_keys: Tensor,  # [B, K, T, D]
    tree_values: Tensor,  # [B, K, T, D]
    tree_bias: Tensor,  # [B, m, T] additive
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
    to_prefix = to_prefix.masked_fill(~prefix_mask[:, None, None, :], NEGATIVE_INFINITY)
    to_tree = (grouped @ tree_keys.transpose(2, 3)).view(batch, kv, -1, m, tree_keys.shape[2])
    to_tree = (to_tree + tree_bias[:, None, None]).flatten(2, 3)  # [B, K, G·m, T]
    weights = torch.cat((to_prefix, to_tree), dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix, on_tree = weights.split((prefix_keys.shape[1], tree_keys.shape[2]), dim=-1)
    from_prefix = on_prefix.transpose(0, 1).reshape(kv, -1, prefix_keys.shape[1]) @ prefix_values
    mixed = from_prefix.view(kv, batch, -1, width).transpose(0, 1) + on_tree @ tree_values
    output: Tensor = mixed.reshape(batch, heads, m, width)
    return output
