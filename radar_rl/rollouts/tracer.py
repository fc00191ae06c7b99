"""The exact trace of a text: what every stopping depth would have brought, from one teacher-forced pass (DESIGN §3.2).

For each position the draft tree that a round starting there would build depends only on the prefix. One target pass
gives all features, the head grows the trees of many positions in one batch, and the text that follows says which path
each tree would have had accepted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import InputError, ModelOutputError
from radar_rl.rollouts.trace import NO_RANK
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import SharedSlots, TreeGrowth


def trace_sequence(
    pair: Pair,
    token_ids: Sequence[int],
    prompt_length: int,
    *,
    max_depth: int,
    top_k: int,
    tree_size: int,
    positions_per_batch: int = 256,
) -> tuple[NDArray[np.float16], NDArray[np.uint16]]:
    """Trace one text.

    Args:
        pair: target and draft head.
        token_ids: prompt and completion.
        prompt_length: tokens of the prompt; the first root is the token at this index.
        positions_per_batch: positions whose trees grow together; bounds memory.

    Returns:
        Of the P = len(token_ids) − 1 − prompt_length roots: confidences [P, max_depth, top_k] float16 and ranks
        [P, max_depth, max_depth] uint16, as ``Trace`` describes them.

    Raises:
        InputError: the prompt is empty or longer than the text.
        ModelOutputError: the head returned NaN.
    """
    if not 1 <= prompt_length <= len(token_ids):
        raise InputError(f"prompt_length: expected 1 … {len(token_ids)}, got {prompt_length}")
    pair.check_shape(max_depth, top_k, tree_size, True)
    device, length = pair.target.device, len(token_ids)
    text = torch.tensor([*token_ids, *([-1] * max_depth)], device=device)  # no token follows the end
    confidences, ranks = [], []
    with torch.inference_mode():
        _, features = pair.target.extend(text[:length], TargetCache(pair.target.model, length))
        cache = DraftCache(pair.head, length + max_depth)
        hidden = cache.extend(pair.head, features[None, :-1], text[None, 1:length], [length - 1])[0]
        for first in range(prompt_length, length - 1, positions_per_batch):
            stop = min(first + positions_per_batch, length - 1)
            positions = torch.arange(first, stop, device=device)
            growth = TreeGrowth(
                pair.head,
                SharedSlots(cache, positions, stop - 1, (max_depth - 1) * top_k),
                positions,
                hidden[positions - 1],
                top_k=top_k,
                max_depth=max_depth,
                first_width=tree_size - 1,
            )
            beams = [growth.beam_scores]
            while growth.depth < max_depth:
                growth.grow()
                beams.append(growth.beam_scores)
            following = text[positions[:, None] + 1 + torch.arange(max_depth, device=device)]  # [B, max_depth]
            confidences.append(torch.stack(beams, dim=1).cpu().numpy().astype(np.float16))
            ranks.append(path_ranks(growth, following).cpu().numpy().astype(np.uint16))
    if not confidences:
        return np.empty((0, max_depth, top_k), np.float16), np.empty((0, max_depth, max_depth), np.uint16)
    table = np.concatenate(confidences)
    if np.isnan(table).any():
        row = int(np.argwhere(np.isnan(table))[0, 0])
        raise ModelOutputError(f"the head's logits hold NaN at position {prompt_length + row}")
    return table, np.concatenate(ranks)


def path_ranks(growth: TreeGrowth, following: Tensor) -> Tensor:
    """Rank, in the score order of each depth's candidates, of the nodes along the text's path.

    Args:
        growth: fully grown trees of B positions.
        following: [B, max_depth] int64, the tokens after each root; −1 past the end of the text.

    Returns:
        [B, max_depth (stopping depth), max_depth (path depth)] int64; 65535 where the text has left the candidates.
    """
    batch, max_depth = following.shape
    k, device = growth.top_k, following.device
    none = int(NO_RANK)
    ranks = torch.full((batch, max_depth, max_depth), none, dtype=torch.int64, device=device)

    wide = growth.wide_tokens == following[:, :1]  # [B, first_width], best first
    found, rank = wide.any(dim=1), wide.int().argmax(dim=1)
    ranks[:, 0, 0] = torch.where(found, rank, none)

    candidates = torch.arange(growth.tokens.shape[1], device=device)
    widths = k + k**2 * torch.arange(max_depth, device=device)  # candidates after call ℓ
    node = torch.where(found & (rank < k), rank, -1)  # [B] candidate index of the path's node at this depth
    for depth in range(1, max_depth + 1):
        if depth > 1:
            child = (growth.parents == node[:, None]) & (growth.tokens == following[:, depth - 1 : depth])
            child &= (node >= 0)[:, None]  # the root's children have parent −1 too
            node = torch.where(child.any(dim=1), child.int().argmax(dim=1), -1)
        score = growth.scores.gather(1, node.clamp(min=0)[:, None])
        ahead = (growth.scores > score) | ((growth.scores == score) & (candidates < node[:, None]))
        # Stopping after call ℓ, only the candidates of levels 1 … ℓ compete.
        by_depth = ahead.cumsum(dim=1)[:, widths - 1]  # [B, max_depth]
        stops = slice(max(depth, 2) - 1, None)  # call 1 was ranked among the wide children
        ranks[:, stops, depth - 1] = torch.where((node >= 0)[:, None], by_depth, none)[:, stops]
    return ranks
