"""A text being decoded: with what, how far it is, and what each round did to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypedDict, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.speculative.history import no_rounds
from radar_rl.speculative.judging import Judge
from radar_rl.speculative.ngram import NgramIndex
from radar_rl.speculative.sampling import PositionNoise, Processor
from radar_rl.speculative.tree import DraftTree, Nodes

DraftSource = Literal["head", "ngram", "hybrid"]
DRAFT_SOURCES: tuple[DraftSource, ...] = get_args(DraftSource)


class Options(TypedDict, total=False):
    """What a text is decoded with; with their defaults.

    Attributes:
        max_new_tokens: length at which the text is cut, in tokens (96).
        temperature: 0 for greedy (0).
        sample_top_k: keep the k most likely tokens; 0 keeps all (0).
        sample_top_p: keep the smallest set with at least this probability (1).
        seed: names the noise of sampling (0).
        prefill_chunk: prompt tokens that pass through the models at once (512).
        processor: what happens to the target's logits before all that (nothing).
    """

    max_new_tokens: int
    temperature: float
    sample_top_k: int
    sample_top_p: float
    seed: int
    prefill_chunk: int
    processor: Processor | None


class DraftOptions(Options, total=False):
    """What a text is decoded and drafted with, with their defaults.

    Attributes:
        max_depth: most draft calls in a round (8).
        top_k: beam width; 1 drafts chains (10).
        tree_size: nodes verified, root included (60).
        widen_first_level: verify ``tree_size - 1`` children of the root when a round stops after call 1, as RADAR does
            (False).
        draft_source: ``head``; ``ngram``, continuations of what stood in the text before (``NgramIndex``), without
            draft calls; or ``hybrid``, both in one tree of ``tree_size`` nodes (``head``).
        features: what a policy may look at beside the confidences, names of ``FEATURES`` (none).
        feature_dim, feature_seed: of the features that are projected (0).
        skip_nan: go on where the head returns NaN: such nodes are verified in vain, and the round says so
            (``Round.damaged``); False: ModelOutputError (False).
        judge: decides on the device (none).
    """

    max_depth: int
    top_k: int
    tree_size: int
    widen_first_level: bool
    draft_source: DraftSource
    features: Sequence[str]
    feature_dim: int
    feature_seed: int
    skip_nan: bool
    judge: Judge | None


@dataclass(frozen=True)
class Round:
    """What one round did to one text.

    Attributes:
        position: index of the root token in prompt + completion.
        draft_calls: levels drafted.
        accepted: draft tokens accepted, cut where the text ends.
        emitted: the tokens the round added to the text: the accepted ones and the bonus token, cut where it ends.
        arrays: [5, nodes] float64: token, parent, depth, cumulative log-probability and source of each node; what
            ``tree`` is read from.
        damaged: whether the head scored nodes NaN; none of them was accepted.
    """

    position: int
    draft_calls: int
    accepted: int
    emitted: tuple[int, ...]
    arrays: NDArray[np.float64] = field(repr=False)
    damaged: bool = False

    @property
    def nodes(self) -> int:
        """Nodes verified, root included."""
        return int(self.arrays.shape[1])

    @cached_property
    def tree(self) -> DraftTree:
        """The verified tree, root first, root's parent −1."""
        return DraftTree.of(self.arrays)


class Text:
    """One text of a batch.

    Attributes:
        prompt_length: tokens of the prompt.
        max_new_tokens: new tokens at which it is cut.
        eos: tokens that end it.
        token_ids: new tokens.
        finished: whether the text has ended.
        noise: of its sampling.
        index: where its n-grams occur, prompt included; stays empty where they are not drafted from.
        history: draft tokens accepted in its last rounds, as the feature ``history`` has them.
    """

    def __init__(self, prompt_length: int, max_new_tokens: int, eos: frozenset[int], noise: PositionNoise) -> None:
        self.prompt_length, self.max_new_tokens, self.eos, self.noise = prompt_length, max_new_tokens, eos, noise
        self.token_ids: list[int] = []
        self.index = NgramIndex()
        self.history = no_rounds()
        self.finished = False

    @property
    def position(self) -> int:
        """Index of the root token, the last one emitted, in prompt + completion."""
        return self.prompt_length + len(self.token_ids) - 1

    def cut(self, tokens: list[int]) -> list[int]:
        """Tokens to come, cut where the text ends."""
        tokens = tokens[: self.max_new_tokens - len(self.token_ids)]
        end = next((i for i, token in enumerate(tokens) if token in self.eos), len(tokens))
        return tokens[: end + 1]

    def emit(self, tokens: list[int]) -> list[int]:
        """Add tokens, cut where the text ends; returns those added."""
        tokens = self.cut(tokens)
        self.token_ids.extend(tokens)
        self.finished = tokens[-1] in self.eos or len(self.token_ids) >= self.max_new_tokens
        return tokens


def read_back(nodes: Nodes, choices: Tensor, logits: Tensor) -> NDArray[np.float64]:
    """Which nodes the target's choices reach, read to the host in one piece.

    A node is on the path if it and all its ancestors are the target's choice at their parents.

    Args:
        choices: [B, n] int64, the target's token after each node.
        logits: [B, n, vocabulary].

    Returns:
        [B, 8, n] float64: token, parent, depth, log-probability, source, the target's choice after the node, on the
        path, whether all logits are finite.
    """
    agrees = (choices.gather(1, nodes.parents) == nodes.tokens) & (nodes.log_probs > -torch.inf)
    agrees[:, 0] = True
    on_path = (agrees[:, None] | ~nodes.ancestors).all(dim=2)
    finite = logits.sum(dim=2).isfinite()
    columns = torch.stack([column.double() for column in (choices, on_path, finite)], dim=1)
    read: NDArray[np.float64] = torch.cat((nodes.arrays(), columns), dim=1).cpu().numpy()
    return read
