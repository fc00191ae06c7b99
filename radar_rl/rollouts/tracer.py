"""The exact trace of a text: what every stopping depth would have brought, from one teacher-forced pass (DESIGN §3.2).

For each position the draft tree that a round starting there would build depends only on the prefix. One target pass
gives all features, the head grows the trees of many positions in one batch, and the text that follows says which path
each tree would have had accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import InputError, ModelOutputError
from radar_rl.rollouts.trace import NO_RANK
from radar_rl.speculative.draft_call import SharedSlots
from radar_rl.speculative.features import FEATURES, Features, check_columns, match_length
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.ngram import NgramIndex
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.target import Target, TargetCache
from radar_rl.speculative.tree import TreeGrowth

IMPROBABLE = 1e-6
"""A token of less probability is one that the target would not have produced."""


@dataclass(frozen=True)
class TracedPositions:
    """The trace of one text's P roots, ``prompt_length`` … the last token but one.

    Attributes:
        confidences: [P, max_depth, top_k] float16, as ``Trace`` describes them.
        ranks: [P, max_depth, max_depth] uint16, likewise.
        features: by name, [P, …] of the shapes and types of ``FEATURES``.
        greedy: completion tokens that are the target's greedy choice; 0 unless judged.
        improbable: completion tokens of which the target's probability (temperature 1) is under ``IMPROBABLE``; 0
            unless judged.
    """

    confidences: NDArray[np.float16]
    ranks: NDArray[np.uint16]
    features: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    greedy: int = 0
    improbable: int = 0


def trace_sequence(
    pair: Pair,
    token_ids: Sequence[int],
    prompt_length: int,
    *,
    max_depth: int,
    top_k: int,
    tree_size: int,
    positions_per_batch: int = 256,
    features: Sequence[str] = (),
    feature_dim: int = 0,
    feature_seed: int = 0,
    judge: bool = False,
) -> TracedPositions:
    """Trace one text.

    Args:
        pair: target and draft head.
        token_ids: prompt and completion.
        prompt_length: tokens of the prompt; the first root is the token at this index.
        positions_per_batch: positions whose trees grow together; bounds memory.
        features: names of feature columns to compute, see ``FEATURES``.
        feature_dim, feature_seed: of the features that are projected.
        judge: count the completion's tokens that are, and that could hardly be, the target's own.

    Raises:
        InputError: the prompt is empty or longer than the text.
        ConfigError: a feature is unknown or no column of a trace, or its dimension none.
        ModelOutputError: the head returned NaN.
    """
    if not 1 <= prompt_length <= len(token_ids):
        raise InputError(f"prompt_length: expected 1 … {len(token_ids)}, got {prompt_length}")
    pair.check_shape(max_depth, top_k, tree_size, True)
    check_columns(features)
    asked = Features(pair.head, features, tree_size=tree_size, feature_dim=feature_dim, feature_seed=feature_seed)
    device, length = pair.target.device, len(token_ids)
    text = torch.tensor([*token_ids, *([-1] * max_depth)], device=device)  # no token follows the end
    sizes = {"max_depth": max_depth, "top_k": top_k, "feature_dim": feature_dim}
    parts: dict[str, list[NDArray[np.generic]]] = {
        "confidences": [np.empty((0, max_depth, top_k), np.float16)],
        "ranks": [np.empty((0, max_depth, max_depth), np.uint16)],
        **{name: [np.empty((0, *FEATURES[name].shape(**sizes)), FEATURES[name].dtype)] for name in asked.names},
    }
    with torch.inference_mode():
        last, read = pair.target.extend(text[:length], TargetCache(pair.target.model, length))
        greedy, improbable = (
            judged(pair.target, last[prompt_length - 1 : -1], text[prompt_length:length], positions_per_batch)
            if judge
            else (0, 0)
        )
        del last
        cache = DraftCache(pair.head, length + max_depth)
        hidden = cache.extend(pair.head, read[None, :-1], text[None, 1:length], [length - 1])[0]
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
                keep_newest=asked.per_call,
            )
            columns = grown(growth, asked) | asked.of_root(read[positions - 1])
            following = text[positions[:, None] + 1 + torch.arange(max_depth, device=device)]  # [B, max_depth]
            columns["ranks"] = path_ranks(growth, following)
            for name, values in columns.items():
                parts[name].append(values.cpu().numpy().astype(parts[name][0].dtype))
    if "ngram" in parts:
        parts["ngram"].append(match_lengths(token_ids, prompt_length))
    table: dict[str, NDArray[np.generic]] = {name: np.concatenate(rows) for name, rows in parts.items()}
    for name, column in table.items():
        if np.isnan(column).any():
            row = int(np.argwhere(np.isnan(column))[0, 0])
            whose = "the target's features" if name == "target" else "the head's logits"
            raise ModelOutputError(f"{whose} hold NaN at position {prompt_length + row}")
    confidences: Any = table.pop("confidences")
    ranks: Any = table.pop("ranks")
    return TracedPositions(confidences, ranks, table, greedy, improbable)


def grown(growth: TreeGrowth, asked: Features) -> dict[str, Tensor]:
    """Make all draft calls of B trees: ``confidences`` [B, max_depth, top_k], and each call's features likewise."""
    beams, calls = [growth.beam_scores], [asked.of_call(growth)]
    while growth.depth < growth.max_depth:
        growth.grow()
        beams.append(growth.beam_scores)
        calls.append(asked.of_call(growth))
    features = {name: torch.stack([call[name] for call in calls], dim=1) for name in calls[0]}
    return {"confidences": torch.stack(beams, dim=1), **features}


def judged(target: Target, hidden: Tensor, token_ids: Tensor, chunk: int) -> tuple[int, int]:
    """How many tokens are the target's greedy choice (or tie with it), and how many have almost no probability.

    Args:
        hidden: [n, hidden], the target's last hidden states at the tokens before.
        token_ids: [n] int64.
        chunk: tokens whose logits are held at once.
    """
    greedy = improbable = torch.zeros((), dtype=torch.int64, device=token_ids.device)
    for states, tokens in zip(hidden.split(chunk), token_ids.split(chunk), strict=True):
        logits = target.logits(states)  # [chunk, vocabulary]
        chosen = logits.gather(1, tokens[:, None])[:, 0]
        greedy = greedy + (chosen >= logits.amax(dim=1)).sum()
        improbable = improbable + (chosen - logits.logsumexp(dim=1) < log(IMPROBABLE)).sum()
    return int(greedy), int(improbable)


def match_lengths(token_ids: Sequence[int], prompt_length: int) -> NDArray[np.uint8]:
    """The feature ``ngram`` at every root of a text: [P] uint8."""
    index = NgramIndex(max_occurrences=1)
    index.extend(token_ids[:prompt_length])
    lengths = []
    for root in token_ids[prompt_length:-1]:
        index.extend((root,))
        lengths.append(match_length(index))
    return np.array(lengths, dtype=np.uint8)


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
