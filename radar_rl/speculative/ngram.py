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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from radar_rl.errors import InputError
from radar_rl.speculative.attention import NEGATIVE_INFINITY
from radar_rl.speculative.tree import Candidates, Source

ESCAPE = 2.0
"""Weight of the unseen in occurrences, times distinct tokens seen, over match length. No fine point: on pocket,
``radar-rl bench hybrid tasks=[squad,nq_rag] limit=12 max_new_tokens=64`` prints the same τ with 1, 2 and 4."""

MAX_DEPTH = 16
"""Levels that continuations reach below the root token. The same command: hybrid τ 4.05 with 8 levels, 4.24 with 16."""

Occurrence = tuple[int, int]
"""Index of the token that follows an earlier occurrence of the text's last tokens, and how many of them match."""


@dataclass(frozen=True)
class NgramCandidates:
    """Continuations that an index proposes, best first, parents before children.

    Attributes:
        tokens: [N] int64.
        parents: [N] int64, index of each one's parent, −1 for the root token.
        depths: [N] int64, distance from the root token.
        log_probs: [N] float32, cumulative, never above the parent's.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
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
        depths: list[int] = []
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
            depths.append(depth)
            scores.append(-negative)
            parent, score, depth = len(tokens) - 1, -negative, depth + 1
        return NgramCandidates(
            np.array(tokens, dtype=np.int64),
            np.array(parents, dtype=np.int64),
            np.array(depths, dtype=np.int64),
            np.array(scores, dtype=np.float32),
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


def proposals(
    indices: Sequence[NgramIndex], limit: int, device: torch.device, max_depth: int = MAX_DEPTH
) -> Candidates:
    """What the indices of B texts propose, moved to a device in one piece; shorter rows end in padding.

    Args:
        limit, max_depth: see ``NgramIndex.propose``.
    """
    proposed = [index.propose(limit, max_depth) for index in indices]
    width = max(len(one.tokens) for one in proposed)
    packed = np.zeros((4, len(indices), width))
    packed[3] = -np.inf
    for row, one in enumerate(proposed):
        packed[:, row, : len(one.tokens)] = one.tokens, one.parents, one.depths, one.log_probs
    moved = torch.from_numpy(packed).to(device)
    tokens, parents, levels = moved[:3].long()
    sources = torch.full_like(tokens, Source.NGRAM, dtype=torch.uint8)
    return Candidates(tokens, moved[3].float(), parents, levels, sources, max_depth)


def merge(head: Candidates, ngram: Candidates) -> Candidates:
    """A head's candidates and an index's as one, for ``select`` to choose from.

    A path that both propose is one candidate, the head's, with the better of the two scores: no child scores above
    its parent then, since in neither source it does. What only the index proposes follows the head's candidates.
    """
    width, more = head.tokens.shape[1], ngram.tokens.shape[1]
    if more == 0:
        return head
    stands = (ngram.scores > NEGATIVE_INFINITY)[:, :, None] & (head.scores > NEGATIVE_INFINITY)[:, None]
    same = stands & (ngram.tokens[:, :, None] == head.tokens[:, None])
    same &= ngram.levels[:, :, None] == head.levels[:, None]
    # Two nodes of one token and one level stand for one path if their parents do: true of level 1, where the parent
    # is the root, and each step makes one more level true. Last row and column: the root.
    rows = (ngram.parents % (more + 1))[:, :, None].expand(-1, -1, width + 1)
    columns = (head.parents % (width + 1))[:, None].expand(-1, more, -1)
    for _ in range(min(head.depth, ngram.depth) - 1):
        paths = F.pad(same, (0, 1, 0, 1))
        paths[:, -1, -1] = True
        same = same & paths.gather(1, rows).gather(2, columns)
    found = same.any(dim=2)
    place = torch.where(found, same.to(torch.uint8).argmax(dim=2), torch.arange(width, width + more).to(found.device))
    above = place.gather(1, ngram.parents.clamp(min=0)).masked_fill(ngram.parents < 0, -1)
    better = ngram.scores[:, :, None].where(same, NEGATIVE_INFINITY).amax(dim=1)
    left = ngram.scores.masked_fill(found, NEGATIVE_INFINITY)
    return Candidates(
        tokens=torch.cat((head.tokens, ngram.tokens), dim=1),
        scores=torch.cat((torch.maximum(head.scores, better), left), dim=1),
        parents=torch.cat((head.parents, above), dim=1),
        levels=torch.cat((head.levels, ngram.levels), dim=1),
        sources=torch.cat((head.sources.masked_fill(same.any(dim=1), Source.BOTH), ngram.sources), dim=1),
        depth=max(head.depth, ngram.depth),
    )
