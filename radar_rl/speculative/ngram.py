"""N-gram drafting, and merging its candidates with a draft head's tree under one ``tree_size``.

Prompt lookup (apoorvumang/prompt-lookup-decoding) drafts what followed the last tokens where they stood before. Here
all the longest matches count, and their continuations form a trie. The hybrid of n-gram and EAGLE-3 drafting for RAG
(Gianni-Van-de-Velde/hybrid-speculative-decoding) sets nodes aside for such continuations; here both sources compete
for the same nodes, which takes one scale. That scale is log P(node accepted). A head's cumulative log-probability
estimates it (EAGLE-2, arXiv 2406.16858), and so does the product of relative frequencies along a trie's path
(SuffixDecoding, arXiv 2411.04975; ArcticInference, ``suffix_tree.cc``). A bare frequency is 1 after a single match of
a single token, though, so it is smoothed as prediction by partial matching does: each match length keeps back an
escape probability for what it has not seen, which goes to the next shorter one (method C of Moffat, IEEE Trans.
Commun. 38(11), 1990; Witten and Bell, IEEE Trans. Inf. Theory 37(4), 1991), and longer matches keep back less.

What is proposed is a function of the text alone, so a trace can replay it and the text does not depend on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from math import log

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import InputError

ESCAPE = 2.0
"""Weight of the unseen in occurrences, times distinct tokens seen, over match length. Measured on the pocket pair's
texts; acceptance is flat from 1.5 to 4."""

Occurrence = tuple[int, int]
"""Index of the token that follows an earlier occurrence of the text's last tokens, and how many of them match."""


@dataclass(frozen=True)
class NgramCandidates:
    """Continuations that an index proposes, best first, parents before children.

    Attributes:
        tokens: [N] int64.
        parents: [N] int64, index of each one's parent, −1 for the root token.
        log_probs: [N] float32, cumulative, never above the parent's.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    log_probs: NDArray[np.float32]


class NgramIndex:
    """Where each n-gram of one text occurs, kept up to date token by token.

    Adding a token takes ``max_match − min_match + 1`` dictionary operations and looking matches up at most as many,
    however long the text is.

    Args:
        min_match, max_match: lengths of n-grams that are looked up; longer matches count as ``max_match``.
        max_occurrences: how many occurrences speak for a proposal: the longest matches, the latest first.

    Attributes:
        token_ids: the text; its last token is the next round's root token.
        following: of each n-gram, the indices of the tokens that follow it, ascending.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, min_match: int = 1, max_match: int = 5, *, max_occurrences: int = 8) -> None:
        if not 1 <= min_match <= max_match or max_occurrences < 1:
            raise InputError(
                "expected 1 ≤ min_match ≤ max_match and max_occurrences ≥ 1, "
                f"got {min_match}, {max_match}, {max_occurrences}"
            )
        self.min_match, self.max_match, self.max_occurrences = min_match, max_match, max_occurrences
        self.token_ids: list[int] = []
        self.following: dict[tuple[int, ...], list[int]] = {}

    def extend(self, token_ids: Iterable[int]) -> None:
        """Append tokens to the text."""
        text, following = self.token_ids, self.following
        for token in token_ids:
            end = len(text)
            for length in range(self.min_match, min(self.max_match, end) + 1):
                following.setdefault(tuple(text[end - length :]), []).append(end)
            text.append(token)

    def occurrences(self) -> list[Occurrence]:
        """The ``max_occurrences`` earlier occurrences of the text's end that match longest, the latest of equals first.

        Returns:
            Pairs of the following token's index and the match length, cut at ``max_match``; longest first.
        """
        text = self.token_ids
        found: dict[int, int] = {}
        for length in range(min(self.max_match, len(text)), self.min_match - 1, -1):
            for end in reversed(self.following.get(tuple(text[-length:]), ())):
                if len(found) == self.max_occurrences:
                    return list(found.items())
                found.setdefault(end, length)
        return list(found.items())

    def propose(self, limit: int, max_depth: int) -> NgramCandidates:
        """What may follow the text: a trie of the continuations of its longest matches.

        A node accepted means that its occurrences match one token longer, so that is their match length below it.

        Args:
            limit: nodes, at most; the best are kept.
            max_depth: levels below the root token, at most.
        """
        tokens: list[int] = []
        parents: list[int] = []
        scores: list[float] = []
        queue: list[tuple[float, int, int, int, int, list[Occurrence]]] = []  # best first, ties: first queued first
        queued, parent, score, depth, occurrences = 0, -1, 0.0, 1, self.occurrences()
        while len(tokens) < limit:
            if occurrences and depth <= max_depth:
                for token, probability in self._next(occurrences).items():
                    child = [(end + 1, length + 1) for end, length in occurrences if self.token_ids[end] == token]
                    queued += 1
                    heappush(queue, (-score - log(probability), queued, token, parent, depth, child))
            if not queue:
                break
            negative, _, token, parent, depth, occurrences = heappop(queue)
            occurrences = [occurrence for occurrence in occurrences if occurrence[0] < len(self.token_ids)]
            tokens.append(token)
            parents.append(parent)
            scores.append(-negative)
            parent, score, depth = len(tokens) - 1, -negative, depth + 1
        return NgramCandidates(
            np.array(tokens, dtype=np.int64), np.array(parents, dtype=np.int64), np.array(scores, dtype=np.float32)
        )

    def _next(self, occurrences: list[Occurrence]) -> dict[int, float]:
        """Probability of each next token seen: match lengths from the longest on, each leaving its escape to the next.

        Of n occurrences that match at least m tokens, c are followed by a token, and q tokens are distinct: it gets
        c / (n + e) of what the longer matches left, e = ESCAPE · q / m.
        """
        counts: dict[int, int] = {}
        probabilities: dict[int, float] = {}
        left = 1.0
        for n, (end, length) in enumerate(occurrences, start=1):
            token = self.token_ids[end]
            counts[token] = counts.get(token, 0) + 1
            if n == len(occurrences) or occurrences[n][1] < length:
                escape = ESCAPE * len(counts) / length
                for token, count in counts.items():
                    probabilities[token] = probabilities.get(token, 0.0) + left * count / (n + escape)
                left *= escape / (n + escape)
        return probabilities


class Source(IntEnum):
    """Who proposed a node's path, whichever of the two scored it higher."""

    HEAD = 1
    NGRAM = 2
    BOTH = 3


@dataclass(frozen=True)
class MergedNodes:
    """Draft nodes chosen from both sources, parents before children, the root token left out.

    Attributes:
        tokens, parents, depths: [n] int64; a parent is an index into these arrays, −1 for the root token.
        log_probs: [n] float32, the better of the two sources' cumulative log-probabilities.
        sources: [n] uint8, ``Source``.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    sources: NDArray[np.uint8]


def merge(
    tokens: NDArray[np.int64] | Tensor,
    parents: NDArray[np.int64] | Tensor,
    log_probs: NDArray[np.float32] | Tensor,
    ngram: NgramCandidates,
    tree_size: int,
) -> MergedNodes:
    """Choose the nodes to verify from a head's candidates and an index's together, by log-probability.

    A path that both propose is one node, with the better of the two scores: no child scores above its parent then,
    since in neither source it does. Ties go to the lower candidate index, the head's before the index's. Without
    n-gram candidates these are the nodes that ``TreeGrowth.select`` takes.

    Args:
        tokens, parents, log_probs: [C] the head's candidates as in ``TreeGrowth``, on the host; parents before
            children, a parent of −1 being the root token.
        ngram: the index's candidates.
        tree_size: nodes, root included; with fewer candidates, all of them.
    """
    head_tokens, head_parents = np.asarray(tokens, dtype=np.int64), np.asarray(parents, dtype=np.int64)
    scores = np.asarray(log_probs, dtype=np.float32).copy()
    sources = np.full(len(scores), Source.HEAD, dtype=np.uint8)
    width = len(scores)

    shared = np.flatnonzero(np.isin(head_tokens, ngram.tokens))
    paths = zip(head_parents[shared].tolist(), head_tokens[shared].tolist(), strict=True)
    child_of = dict(zip(paths, shared.tolist(), strict=True))
    place: list[int] = []  # candidate index of each n-gram candidate's path; those the head lacks follow the head's
    above: list[int] = []  # candidate index of its parent
    total = width
    for token, parent in zip(ngram.tokens.tolist(), ngram.parents.tolist(), strict=True):
        above.append(place[parent] if parent >= 0 else -1)
        same = child_of.get((above[-1], token))
        place.append(total if same is None else same)
        total += same is None
    if place:
        where = np.array(place)
        both, new = where < width, where >= width
        scores[where[both]] = np.maximum(scores[where[both]], ngram.log_probs[both])
        sources[where[both]] = Source.BOTH
        head_tokens = np.concatenate((head_tokens, ngram.tokens[new]))
        head_parents = np.concatenate((head_parents, np.array(above)[new]))
        scores = np.concatenate((scores, ngram.log_probs[new]))
        sources = np.concatenate((sources, np.full(new.sum(), Source.NGRAM, dtype=np.uint8)))

    kept = np.sort(np.argsort(-scores, kind="stable")[: tree_size - 1])
    node_of = np.full(len(scores) + 1, -1)  # the last entry, which a parent of −1 finds: the root token
    node_of[kept] = np.arange(len(kept))
    kept_parents = node_of[head_parents[kept]]
    depths: list[int] = []
    for parent in kept_parents.tolist():
        depths.append(depths[parent] + 1 if parent >= 0 else 1)
    return MergedNodes(head_tokens[kept], kept_parents, np.array(depths, dtype=np.int64), scores[kept], sources[kept])
