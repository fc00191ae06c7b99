"""N-gram drafting: the index against a scan of the text, its score against its definition, and the laws of merging."""

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from radar_rl.errors import InputError
from radar_rl.speculative import Pair
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.ngram import ESCAPE, NgramCandidates, NgramIndex, Source, merge
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import LiveSlots, TreeGrowth

Path = tuple[int, ...]

texts = st.lists(st.integers(0, 3), max_size=60)
lengths = st.tuples(st.integers(1, 3), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def index_of(text: Sequence[int], *shape: int, **options: int) -> NgramIndex:
    index = NgramIndex(*shape, **options)
    index.extend(text)
    return index


def scan(text: Sequence[int], min_match: int, max_match: int) -> list[tuple[int, int]]:
    """Occurrences by comparing every position with the end of the text."""
    found = []
    for end in range(len(text) - 1, 0, -1):
        length = 0
        while length < min(max_match, end) and text[end - 1 - length] == text[-1 - length]:
            length += 1
        if length >= min_match:
            found.append((end, length))
    return sorted(found, key=lambda occurrence: -occurrence[1])  # stable: the latest of equals stay first


def paths(tokens: Sequence[int] | NDArray[Any], parents: Sequence[int] | NDArray[Any]) -> list[Path]:
    """Tokens from the root to each node."""
    result: list[Path] = []
    for token, parent in zip(tokens, parents, strict=True):
        result.append((*(result[int(parent)] if parent >= 0 else ()), int(token)))
    return result


def probability(text: Sequence[int], occurrences: list[tuple[int, int]], path: Path) -> float:
    """P(path) by the definition: PPM's blending, an occurrence matching one more token at each level."""
    result, depth = 1.0, 0
    for token in path:
        here = [
            (text[end + depth], length + depth)
            for end, length in occurrences
            if end + depth < len(text) and tuple(text[end : end + depth]) == path[:depth]
        ]
        blended, left = 0.0, 1.0
        for order in sorted({length for _, length in here}, reverse=True):
            seen = Counter(following for following, length in here if length >= order)
            escape = ESCAPE * len(seen) / order
            blended += left * seen[token] / (seen.total() + escape)
            left *= escape / (seen.total() + escape)
        result, depth = result * blended, depth + 1
    return result


@given(texts, lengths, st.integers(1, 6))
def test_the_index_finds_what_a_scan_of_the_text_finds(text: list[int], shape: tuple[int, int], most: int) -> None:
    assert index_of(text, *shape, max_occurrences=most).occurrences() == scan(text, *shape)[:most]


@given(texts, st.lists(st.integers(0, 60)))
def test_extending_bit_by_bit_is_extending_at_once(text: list[int], cuts: list[int]) -> None:
    bits, at_once = NgramIndex(), index_of(text)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    for start, end in zip([0, *ends], ends, strict=False):
        bits.extend(text[start:end])
        bits.propose(20, 6)  # looking changes nothing
    assert bits.token_ids == at_once.token_ids
    assert bits.following == at_once.following
    for one, other in zip(vars(bits.propose(20, 6)).values(), vars(at_once.propose(20, 6)).values(), strict=True):
        assert np.array_equal(one, other)


class CountingDict(dict[Any, Any]):
    """A dictionary that counts how often an entry is asked for."""

    used = 0

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self.used += 1
        return super().setdefault(key, default)

    def get(self, key: Any, default: Any = None) -> Any:
        self.used += 1
        return super().get(key, default)


@pytest.mark.parametrize("length", [100, 10_000])
def test_a_token_costs_the_same_however_long_the_text_is(length: int) -> None:
    index = NgramIndex(2, 5)
    index.following = used = CountingDict()
    index.extend([i % 7 for i in range(length)])
    assert used.used <= 4 * length
    used.used = 0
    assert len(index.occurrences()) == 8
    assert used.used <= 4


@given(texts, lengths, st.integers(0, 30), st.integers(1, 8))
def test_proposals_are_the_best_of_the_trie(text: list[int], shape: tuple[int, int], limit: int, depth: int) -> None:
    proposal = index_of(text, *shape).propose(limit, depth)
    occurrences = scan(text, *shape)[:8]
    trie = {
        tuple(text[end : end + level])
        for end, _ in occurrences
        for level in range(1, depth + 1)
        if end + level <= len(text)
    }
    expected = {path: log(probability(text, occurrences, path)) for path in trie}
    proposed = paths(proposal.tokens, proposal.parents)
    assert len(set(proposed)) == len(proposed) == min(limit, len(trie))
    assert all(int(parent) < i for i, parent in enumerate(proposal.parents))
    assert proposal.log_probs == pytest.approx([expected[path] for path in proposed], abs=1e-5)
    assert (np.diff(proposal.log_probs) <= 0).all()  # best first, so no child scores above its parent either
    left_out = [score for path, score in expected.items() if path not in set(proposed)]
    assert not left_out or not proposed or max(left_out) <= proposal.log_probs[-1] + 1e-5
    siblings = Counter[Path]()
    for path in trie:
        siblings[path[:-1]] += np.exp(expected[path] - expected.get(path[:-1], 0.0))
    assert all(total < 1 for total in siblings.values())  # a probability, something left for the unseen


def test_longer_and_more_matches_score_higher() -> None:
    def first(text: list[int]) -> float:
        return float(index_of(text).propose(1, 1).log_probs[0])

    assert first([1, 2, 9, 1, 2]) > first([1, 2, 9, 7, 2])
    assert first([2, 9, 2, 9, 2]) > first([2, 9, 2])
    assert first([2, 9, 2, 9, 2]) > first([2, 8, 2, 9, 2])


@pytest.mark.parametrize(
    ("shape", "options"), [((0, 3), {}), ((3, 2), {}), ((1, 2), {"max_occurrences": 0})], ids=["zero", "order", "none"]
)
def test_an_index_of_nothing_is_refused(shape: tuple[int, int], options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="min_match"):
        NgramIndex(*shape, **options)


Candidates = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
NOTHING = NgramIndex().propose(0, 1)


@st.composite
def heads(draw: st.DrawFn) -> Candidates:
    """Candidates of a head: parents first, distinct children, scores that never rise along a path, ties among them."""
    tokens: list[int] = []
    parents: list[int] = []
    scores: list[float] = []
    for parent, token, step in draw(
        st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.5])), max_size=40)
    ):
        above = min(parent, len(tokens) - 1)
        if (above, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(above)
            scores.append((scores[above] if above >= 0 else 0.0) - step)
    return np.array(tokens, np.int64), np.array(parents, np.int64), np.array(scores, np.float32)


def brute_force(head: Candidates, ngram: NgramCandidates, size: int) -> list[tuple[Path, np.float32, Source]]:
    """Every path once with its better score; the best, ties to the earlier; in candidate order."""
    merged: dict[Path, tuple[np.float32, Source]] = {}
    for path, score in zip(paths(*head[:2]), head[2], strict=True):
        merged[path] = score, Source.HEAD
    for path, score in zip(paths(ngram.tokens, ngram.parents), ngram.log_probs, strict=True):
        other = merged.get(path)
        merged[path] = (score, Source.NGRAM) if other is None else (max(score, other[0]), Source.BOTH)
    best = sorted(merged, key=lambda path: -merged[path][0])[:size]
    return [(path, *merged[path]) for path in merged if path in best]


@given(heads(), texts, st.integers(2, 30))
def test_merging_takes_the_best_of_both(head: Candidates, text: list[int], tree_size: int) -> None:
    ngram = index_of(text).propose(20, 6)
    nodes = merge(*head, ngram, tree_size)
    chosen = paths(nodes.tokens, nodes.parents)
    assert list(zip(chosen, nodes.log_probs, nodes.sources, strict=True)) == brute_force(head, ngram, tree_size - 1)
    assert nodes.depths.tolist() == [len(path) for path in chosen]
    # A tree: closed under ancestors, parents first, no path twice, never above the budget.
    assert len(chosen) < tree_size
    assert len(set(chosen)) == len(chosen)
    assert all(-1 <= parent < i for i, parent in enumerate(nodes.parents.tolist()))
    assert all(not path[:-1] or path[:-1] in chosen for path in chosen)
    for score, parent in zip(nodes.log_probs, nodes.parents.tolist(), strict=True):
        assert parent < 0 or score <= nodes.log_probs[parent]
    # What the head loses to the index is worth no more than what is kept.
    for path, score in zip(paths(*head[:2]), head[2], strict=True):
        assert path in chosen or score <= nodes.log_probs.min()


def test_a_path_of_both_sources_is_one_node_with_the_better_score() -> None:
    def nodes(score: float) -> Any:
        head = np.array([5, 6]), np.array([-1, 0]), np.array([score, score - 1.0], np.float32)
        return merge(*head, NgramCandidates(np.array([5, 7]), np.array([-1, 0]), np.array([-1, -2], np.float32)), 10)

    assert nodes(-0.5).log_probs.tolist() == [-0.5, -1.5, -2]
    assert nodes(-3.0).log_probs.tolist() == [-1, -4, -2]
    assert nodes(-3.0).tokens.tolist() == [5, 6, 7]
    assert nodes(-3.0).parents.tolist() == [-1, 0, 0]
    assert nodes(-3.0).sources.tolist() == [Source.BOTH, Source.HEAD, Source.NGRAM]


def test_merging_leaves_the_heads_candidates_as_they_are() -> None:
    scores = torch.tensor([-3.0])  # of a growth that may be drafted further
    merge(torch.tensor([5]), torch.tensor([-1]), scores, index_of([2, 5, 2]).propose(1, 1), 10)
    assert scores.tolist() == [-3.0]


@given(texts, st.integers(2, 30))
def test_an_index_alone_fills_the_tree(text: list[int], tree_size: int) -> None:
    ngram = index_of(text).propose(tree_size - 1, 6)
    empty = np.empty(0, np.int64)
    nodes = merge(empty, empty, np.empty(0, np.float32), ngram, tree_size)
    assert np.array_equal(nodes.tokens, ngram.tokens)
    assert np.array_equal(nodes.parents, ngram.parents)
    assert set(nodes.sources.tolist()) <= {Source.NGRAM}


def test_without_an_index_the_tree_is_the_heads(pocket: Pair, shipped_prompts: list[str]) -> None:
    with torch.inference_mode():
        for prompt in shipped_prompts:
            ids = torch.tensor(pocket.encode_prompt(prompt))
            _, features = pocket.target.extend(ids, TargetCache(pocket.target.model, len(ids)))
            cache = DraftCache(pocket.head, len(ids) + 30)
            hidden = cache.extend(pocket.head, features[None, :-1], ids[None, 1:], [len(ids) - 1])
            root = torch.tensor([len(ids) - 1])
            growth = TreeGrowth(
                pocket.head, LiveSlots(cache), root, hidden[:, -1], top_k=10, max_depth=4, first_width=59
            )
            while True:
                tokens, parents, scores = (x[0, : growth.width] for x in (growth.tokens, growth.parents, growth.scores))
                nodes, expected = merge(tokens, parents, scores, NOTHING, 60), growth.select(ids[-1:], 60)
                assert nodes.tokens.tolist() == expected.tokens[0, 1:].tolist()
                assert (nodes.parents + 1).tolist() == expected.parents[0, 1:].tolist()
                assert nodes.depths.tolist() == expected.depths[0, 1:].tolist()
                assert nodes.log_probs.tolist() == expected.log_probs[0, 1:].tolist()
                assert set(nodes.sources.tolist()) == {Source.HEAD}
                if growth.depth == 4:
                    break
                growth.grow()
