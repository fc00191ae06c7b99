"""The heart: one text being decoded, round by round. Everything that runs rounds runs them through here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from radar_rl.errors import ModelOutputError
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import DraftTree, Nodes, TreeGrowth


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        position: index of the root token in prompt + completion.
        draft_calls: levels drafted.
        accepted: draft tokens accepted, cut where the text ends.
        emitted: the tokens the round added to the text: the accepted ones and the bonus token, cut where it ends.
        nodes: nodes verified, root included.
    """

    position: int
    draft_calls: int
    accepted: int
    emitted: tuple[int, ...]
    arrays: NDArray[np.float64]  # [4, nodes]: token, parent, depth, cumulative log-probability

    @property
    def nodes(self) -> int:
        """Nodes verified, root included."""
        return int(self.arrays.shape[1])

    @cached_property
    def tree(self) -> DraftTree:
        """The verified tree, root first, root's parent −1."""
        tokens, parents, depths = self.arrays[:3].astype(np.int64)
        parents[0] = -1
        return DraftTree(tokens, parents, depths, self.arrays[3].astype(np.float32))


class SpeculativeSession:
    """Decodes one text: ``begin()`` a round, ``draft()`` more levels, ``verify()``, until ``finished``.

    Construction prefills the prompt and emits the first token, which is the first round's root.

    Args:
        pair: target and draft head.
        prompt_ids: the prompt's token ids, not empty.
        max_new_tokens: length at which the text is cut, in tokens.
        max_depth: most draft calls in a round.
        top_k: beam width.
        tree_size: nodes verified, root included.
        temperature, sample_top_k, sample_top_p, seed: see ``Sampling``.
        widen_first_level: verify ``tree_size - 1`` children of the root when a round stops after call 1 (RADAR).

    Raises:
        InputError: the prompt is empty, holds ids outside the vocabulary, or does not fit the context.
        ModelOutputError: a model returned NaN or infinite logits.
    """

    def __init__(
        self,
        pair: Pair,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int = 96,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        temperature: float = 0.0,
        sample_top_k: int = 0,
        sample_top_p: float = 1.0,
        seed: int = 0,
        widen_first_level: bool = False,
    ) -> None:
        pair.check_prompt(prompt_ids, max_new_tokens)
        pair.check_shape(max_depth, top_k, tree_size)
        self.pair, self.max_depth, self.top_k, self.tree_size = pair, max_depth, top_k, tree_size
        self.max_new_tokens, self.widen_first_level = max_new_tokens, widen_first_level
        self.sampling = Sampling(temperature, sample_top_k, sample_top_p, seed)
        self.noise = PositionNoise(seed, pair.target.vocab_size, pair.target.device)
        self.prompt_length = len(prompt_ids)
        self.token_ids: list[int] = []
        self.finished = False
        self._growth: TreeGrowth | None = None
        self._confidences = np.full((max_depth, top_k), -np.inf, dtype=np.float16)

        capacity = self.prompt_length + max_new_tokens + tree_size
        self._target_cache = TargetCache(pair.target.model, capacity)
        self._draft_cache = DraftCache(pair.head, capacity)
        with torch.inference_mode():
            prompt = torch.tensor(list(prompt_ids), device=pair.target.device)
            hidden, self._features = pair.target.extend(prompt, self._target_cache)
            logits = pair.target.logits(hidden[-1:])
            if not bool(logits.isfinite().all()):
                raise ModelOutputError("the target's logits after the prompt are not finite; no token can be chosen")
            zero = torch.zeros(1, dtype=torch.int64, device=logits.device)
            first = int(choose(logits, [self.prompt_length], zero, self.sampling, self.noise))
        self._following = prompt[1:]  # the tokens that follow those whose features the head has not read yet
        self._emit([first])

    @property
    def position(self) -> int:
        """Index of the root token, the last one emitted, in prompt + completion."""
        return self.prompt_length + len(self.token_ids) - 1

    def begin(self) -> DraftState:
        """Start a round: let the head read the text emitted since the last one, and make draft call 1."""
        self._require(self._growth is None and not self.finished, "begin() needs a text that is between two rounds")
        with torch.inference_mode():
            root = torch.tensor([self.token_ids[-1]], device=self.pair.target.device)
            following = torch.cat((self._following, root))
            hidden = self._draft_cache.extend(self.pair.head, self._features, following)
            self._growth = TreeGrowth(
                self.pair.head,
                self._draft_cache,
                torch.tensor([self.position], device=root.device),
                hidden[-1:],
                top_k=self.top_k,
                max_depth=self.max_depth,
                prefix=self._draft_cache.length,
                first_width=self.tree_size - 1 if self.widen_first_level else None,
            )
        self._confidences = np.full((self.max_depth, self.top_k), -np.inf, dtype=np.float16)
        return self._state(self._growth)

    def draft(self) -> DraftState:
        """Make one more draft call: the tree grows by a level."""
        growth = self._growth
        if growth is None or growth.depth >= self.max_depth:
            raise RuntimeError(f"draft() needs a round in progress with fewer than max_depth = {self.max_depth} calls")
        with torch.inference_mode():
            growth.grow()
        return self._state(growth)

    def verify(self) -> Round:
        """End the round: one target forward over the tree, accept a path, emit it and the bonus token."""
        growth = self._growth
        if growth is None:
            raise RuntimeError("verify() needs a round in progress: call begin() first")
        target, start = self.pair.target, self.position
        with torch.inference_mode():
            root = torch.tensor([self.token_ids[-1]], device=target.device)
            nodes = growth.select(root, self.tree_size, self.widen_first_level)
            tokens, depths, ancestors = nodes.tokens[0], nodes.depths[0], nodes.ancestors[0]
            mask = torch.cat((ancestors.new_ones(len(tokens), start), ancestors), dim=1)
            hidden, features = target.forward(tokens, start + depths, mask, self._target_cache)
            logits = target.logits(hidden)
            choices = choose(
                logits,
                list(range(start + 1, start + growth.depth + 2)),
                depths,
                self.sampling,
                self.noise,
            )
            read = _read_back(nodes, choices, logits)  # the verification's one device → host read
        arrays, choice, on_path = read[:4], read[4].astype(np.int64), read[5].astype(bool)
        path = np.flatnonzero(on_path)  # root first
        drafted = arrays[0].astype(np.int64)[path[1:]]
        emitted = self._emit([*drafted.tolist(), int(choice[path[-1]])])
        accepted = min(len(drafted), len(emitted))
        kept = torch.from_numpy(path).to(target.device)
        with torch.inference_mode():
            self._target_cache.commit(kept)
            self._features = features[kept]
            self._following = tokens[kept[1:]]
        self._growth = None
        self.noise.forget_before(self.position)
        return Round(start, growth.depth, accepted, tuple(emitted), arrays)

    def _state(self, growth: TreeGrowth) -> DraftState:
        scores = growth.beam_scores[0].cpu().numpy()  # the decision's one device → host read
        if np.isnan(scores).any():
            raise ModelOutputError(f"draft call {growth.depth}: the head's logits hold NaN at position {self.position}")
        self._confidences[growth.depth - 1] = scores.astype(np.float16)
        return DraftState(self.position, growth.depth, self.max_depth, self._confidences)

    def _emit(self, tokens: list[int]) -> list[int]:
        """Add tokens to the text, cut at its end; returns those added."""
        tokens = tokens[: self.max_new_tokens - len(self.token_ids)]
        ends = [i for i, token in enumerate(tokens) if token in self.pair.eos_token_ids]
        if ends:
            tokens = tokens[: ends[0] + 1]
        self.token_ids.extend(tokens)
        self.finished = bool(ends) or len(self.token_ids) >= self.max_new_tokens
        return tokens

    @staticmethod
    def _require(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(message)


def _read_back(nodes: Nodes, choices: torch.Tensor, logits: torch.Tensor) -> NDArray[np.float64]:
    """Which nodes the target's choices reach, read to the host in one piece.

    A node is on the path if it and all its ancestors are the target's choice at their parents.

    Returns:
        [6, n] float64: token, parent, depth, log-probability, the target's choice after the node, on the path.

    Raises:
        ModelOutputError: logits at some node are not finite.
    """
    tokens, parents = nodes.tokens[0], nodes.parents[0]
    agrees = choices[parents] == tokens
    agrees[0] = True
    on_path = (agrees | ~nodes.ancestors[0]).all(dim=1)
    finite = logits.isfinite().all(dim=1)
    columns = (tokens, parents, nodes.depths[0], nodes.log_probs[0], choices, on_path, finite)
    read: NDArray[np.float64] = torch.stack([column.double() for column in columns]).cpu().numpy()
    if not read[6].all():
        raise ModelOutputError("the target's logits over the draft tree are not finite; no token can be chosen")
    return read[:6]
