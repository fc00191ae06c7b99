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
from radar_rl.speculative.ngram import ESCAPE, NgramCandidates, NgramIndex, merge, proposals
from radar_rl.speculative.tree import Candidates, Nodes, Source, select

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


Head = tuple[list[int], list[int], list[float]]


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """Candidates of a head: parents first, distinct children, scores that never rise along a path, ties among them."""
    tokens: list[int] = []
    parents: list[int] = []
    scores: list[float] = []
    for parent, token, step in draw(
        st.lists(
            st.tuples(st.integers(-1, 12), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.5])),
            min_size=1,
            max_size=40,
        )
    ):
        above = min(parent, len(tokens) - 1)
        if (above, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(above)
            scores.append((scores[above] if above >= 0 else 0.0) - step)
    return tokens, parents, scores


def candidates(*rows: Head) -> Candidates:
    """A head's candidates of several trees side by side; shorter rows end in padding."""
    width = max(len(tokens) for tokens, _, _ in rows)
    table = torch.zeros(len(rows), 4, width, dtype=torch.float64)
    table[:, 3] = -torch.inf
    depth = 1
    for row, (tokens, parents, scores) in zip(table, rows, strict=True):
        levels = [len(path) for path in paths(tokens, parents)]
        depth = max([depth, *levels])
        row[:, : len(tokens)] = torch.tensor([tokens, parents, levels, scores])
    whole = table[:, :3].long()
    sources = torch.full_like(whole[:, 0], Source.HEAD, dtype=torch.uint8)
    return Candidates(whole[:, 0], table[:, 3].float(), whole[:, 1], whole[:, 2], sources, depth)


def chosen(nodes: Nodes, row: int) -> list[tuple[Path, float, int]]:
    """Path, score and source of each draft node of one tree, padding left out; ancestors and depths must be its own."""
    count = int((nodes.log_probs[row] > -torch.inf).sum())
    assert (nodes.log_probs[row, count:] == -torch.inf).all()  # padding comes last
    parents = nodes.parents[row, :count].tolist()
    above = [{0}]
    for node in range(1, count):
        assert parents[node] < node
        above.append({node, *above[parents[node]]})
    assert [set(torch.nonzero(seen)[:, 0].tolist()) for seen in nodes.ancestors[row, :count]] == above
    assert nodes.depths[row, :count].tolist() == [len(nodes_above) - 1 for nodes_above in above]
    found = paths(nodes.tokens[row, 1:count].tolist(), [parent - 1 for parent in parents[1:]])
    return list(zip(found, nodes.log_probs[row, 1:count].tolist(), nodes.sources[row, 1:count].tolist(), strict=True))


def brute_force(head: Head, ngram: NgramCandidates, size: int) -> list[tuple[Path, float, Source]]:
    """Every path once with its better score; the best, ties to the earlier; in candidate order."""
    merged: dict[Path, tuple[float, Source]] = {}
    for path, score in zip(paths(*head[:2]), head[2], strict=True):
        merged[path] = score, Source.HEAD
    for path, score in zip(paths(ngram.tokens, ngram.parents), ngram.log_probs.tolist(), strict=True):
        other = merged.get(path)
        merged[path] = (score, Source.NGRAM) if other is None else (max(score, other[0]), Source.BOTH)
    best = set(sorted(merged, key=lambda path: -merged[path][0])[:size])
    return [(path, *merged[path]) for path in merged if path in best]


ROOT = torch.tensor([9])
CPU = torch.device("cpu")


@given(st.lists(st.tuples(heads(), texts), min_size=1, max_size=3), st.integers(2, 30))
def test_merging_takes_the_best_of_both(trees: list[tuple[Head, list[int]]], tree_size: int) -> None:
    indices = [index_of(text) for _, text in trees]
    merged = merge(candidates(*(head for head, _ in trees)), proposals(indices, 20, CPU, 6))
    nodes = select(ROOT.expand(len(trees)), merged, tree_size)
    for row, ((head, _), index) in enumerate(zip(trees, indices, strict=True)):
        assert chosen(nodes, row) == brute_force(head, index.propose(20, 6), tree_size - 1)


@given(st.lists(texts, min_size=1, max_size=3), st.integers(2, 30))
def test_an_index_alone_fills_the_tree(some: list[list[int]], tree_size: int) -> None:
    indices = [index_of(text) for text in some]
    nodes = select(ROOT.expand(len(some)), proposals(indices, tree_size - 1, CPU, 6), tree_size)
    for row, index in enumerate(indices):
        ngram = index.propose(tree_size - 1, 6)
        expected = zip(paths(ngram.tokens, ngram.parents), ngram.log_probs.tolist(), strict=True)
        assert chosen(nodes, row) == [(path, score, Source.NGRAM) for path, score in expected]


def test_a_path_of_both_sources_is_one_node_with_the_better_score() -> None:
    ngram = proposals([index_of([3, 5, 7, 3])], 2, CPU)  # 5, then 7
    score = ngram.scores[0].tolist()
    for head_score in (-0.01, -30.0):
        head = candidates(([5, 6], [-1, 0], [head_score, head_score - 1]))
        assert chosen(select(ROOT, merge(head, ngram), 10), 0) == [
            ((5,), pytest.approx(max(head_score, score[0])), Source.BOTH),
            ((5, 6), pytest.approx(head_score - 1), Source.HEAD),
            ((5, 7), score[1], Source.NGRAM),
        ]
        assert head.scores.tolist() == [[pytest.approx(head_score), pytest.approx(head_score - 1)]]  # left as they are
