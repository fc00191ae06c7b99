"""The law of sampled texts: the target's own, whatever is drafted, and that of EAGLE's accept/renormalise rule.

Every χ² test has seeds 0, 1, 2, … and asks for p > 1e-3: were the seeds drawn anew, the twelve tests of a right law
would fail once in eighty runs; as they are fixed, what passes once passes always. A wrong law is far beyond it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from radar_rl.speculative import Pair, SpeculativeBatch, load_pair
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose
from radar_rl.speculative.target import Target, TargetCache
from radar_rl.speculative.text import read_back
from radar_rl.speculative.tree import Nodes
from radar_rl.zoo.head import HeadTraining, new_head, save_head

VOCABULARY = 12
PROMPT = [3]
LENGTH = 4  # the first token is the prefill's, the other three are rounds'
DEPTH = 2
TOGETHER = 1_000  # texts of a batch
THRESHOLD = 1e-3
CPU = torch.device("cpu")
SETTINGS = {  # and how many texts are drawn
    Sampling(1.0): 20_000,
    Sampling(0.7, top_k=4): 20_000,
    Sampling(1.3, top_p=0.8): 20_000,
    Sampling(0.9, top_k=5, top_p=0.85): 20_000,
}

Tokens = tuple[int, ...]
Probabilities = NDArray[np.float64]


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A target and an EAGLE-3 head of so few tokens that all texts of four can be listed; returns their folders."""
    torch.manual_seed(5)  # a head whose tokens are accepted often enough
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "target")
    (folder / "draft").mkdir()
    target = Target(model, eagle3=True)
    head = new_head(target, HeadTraining(intermediate_size=24), torch.arange(1, VOCABULARY - 1), eagle3=True)
    save_head(head, folder / "draft", eagle3=True)
    return folder / "target", folder / "draft"


def read_once(target: Target) -> Callable[[Tensor, TargetCache], tuple[Tensor, Tensor]]:
    """``target.extend`` of one text again and again: the forward pass is made once."""
    extend, known = target.extend, {}

    def remembered(token_ids: Tensor, cache: TargetCache) -> tuple[Tensor, Tensor]:
        assert token_ids.tolist() == PROMPT
        assert cache.start == 0
        if not known:
            known["output"] = extend(token_ids, cache)
            known["block"] = cache.block[..., : len(PROMPT), :].clone()
        cache.block[..., : len(PROMPT), :] = known["block"]
        cache.lengths = [len(PROMPT)]
        return known["output"]

    return remembered


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("law"))


@pytest.fixture(scope="module")
def pair(folders: tuple[Path, Path]) -> Pair:
    pair = replace(load_pair(*folders), eos_token_ids=frozenset())
    pair.target.extend = read_once(pair.target)  # type: ignore[method-assign]
    return pair


def conditionals(target_folder: Path, sampling: Sampling) -> list[Probabilities]:
    """P(token | tokens before), by transformers alone: the k-th of shape [vocabulary] * k, k = 1 … LENGTH."""
    plain = AutoModelForCausalLM.from_pretrained(target_folder).eval()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    result = []
    for before in range(LENGTH):
        texts = torch.tensor([[*PROMPT, *text] for text in product(range(VOCABULARY), repeat=before)])
        with torch.inference_mode():
            scores = warpers(texts, plain(texts, use_cache=False).logits[:, -1])
        result.append(scores.double().softmax(dim=-1).numpy().reshape([VOCABULARY] * (before + 1)))
    return result


@dataclass
class Draws:
    """Many texts of one prompt, each of its own seed, and their law.

    Attributes:
        texts: how often each text was drawn, [vocabulary] * LENGTH.
        conditionals: see above.
        first_rounds: how often each (root, accepted tokens, emitted tokens) was seen.
        trees: by root token, the trees verified in first rounds: tokens and parents.
    """

    texts: NDArray[np.int64]
    conditionals: list[Probabilities]
    first_rounds: Counter[tuple[int, int, Tokens]]
    trees: dict[int, set[tuple[Tokens, Tokens]]]

    @property
    def law(self) -> Probabilities:
        """P(text), [vocabulary] * LENGTH."""
        law = np.ones(())
        for conditional in self.conditionals:
            law = law[..., None] * conditional
        return law


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: f"T={s.temperature} k={s.top_k} p={s.top_p}")
def draws(request: pytest.FixtureRequest, folders: tuple[Path, Path], pair: Pair) -> Draws:
    sampling: Sampling = request.param
    texts = np.zeros([VOCABULARY] * LENGTH, dtype=np.int64)
    first_rounds: Counter[tuple[int, int, Tokens]] = Counter()
    trees: dict[int, set[tuple[Tokens, Tokens]]] = defaultdict(set)
    for first in range(0, SETTINGS[sampling], TOGETHER):
        batch = SpeculativeBatch(
            pair,
            [PROMPT] * TOGETHER,
            seeds=range(first, first + TOGETHER),
            max_new_tokens=LENGTH,
            max_depth=DEPTH,
            top_k=4,
            tree_size=11,
            temperature=sampling.temperature,
            sample_top_k=sampling.top_k,
            sample_top_p=sampling.top_p,
        )
        roots = [text.token_ids[0] for text in batch.texts]
        rounds = []
        while batch.active:
            batch.begin()
            batch.draft()
            rounds.append(batch.verify())
        for root, done in zip(roots, rounds[0], strict=True):
            first_rounds[root, done.accepted, done.emitted] += 1
            trees[root].add((tuple(done.tree.tokens), tuple(done.tree.parents)))
        np.add.at(texts, tuple(np.array([text.token_ids for text in batch.texts]).T), 1)
    return Draws(texts, conditionals(folders[0], sampling), first_rounds, dict(trees))


def chi_square(counts: NDArray[np.int64], law: Probabilities) -> float:
    """The p-value of Pearson's test; cells with fewer than five expected draws, and at least five in all, are one."""
    counts, expected = counts[law > 0], law[law > 0] * counts.sum()
    ascending = np.argsort(expected)
    counts, expected = counts[ascending], expected[ascending]
    pooled = max(int((expected < 5).sum()), int(np.searchsorted(expected.cumsum(), 5)) + 1)
    cells = [np.concatenate(([x[:pooled].sum()], x[pooled:])) for x in (counts, expected)]
    assert len(cells[0]) > 20  # there is a law to speak of
    return float(chisquare(*cells).pvalue)


def test_texts_that_top_k_or_top_p_forbid_are_never_drawn(draws: Draws) -> None:
    assert draws.texts[draws.law == 0].sum() == 0


def test_the_first_three_tokens_follow_the_targets_law(draws: Draws) -> None:
    assert chi_square(draws.texts.sum(axis=3), draws.law.sum(axis=3)) > THRESHOLD


def test_three_tokens_that_rounds_emitted_follow_the_targets_law(draws: Draws) -> None:
    assert chi_square(draws.texts.sum(axis=0), draws.law.sum(axis=0)) > THRESHOLD


def eagle_law(tokens: Tokens, parents: Tokens, p: Probabilities) -> dict[tuple[Tokens, int], float]:
    """EAGLE's rule as a law: the probability of each (accepted path of nodes, root first; token after it).

    At a node each child is accepted in turn with probability p(token) / q(token), where q = 1 as the tree is
    deterministic; a rejected token's p becomes 0 and the others are renormalised; what is left when all children are
    rejected is the law of the token after the path (``evaluate_posterior`` of SafeAILab's EAGLE).

    Args:
        tokens, parents: of each node, root first.
        p: [n, vocabulary], the target's law after each node.
    """
    law: dict[tuple[Tokens, int], float] = defaultdict(float)

    def visit(path: Tokens, reached: float) -> None:
        left = p[path[-1]].copy()
        for child in range(1, len(tokens)):
            if parents[child] == path[-1]:
                accepted = left[tokens[child]]
                visit((*path, child), reached * accepted)
                reached *= 1 - accepted
                left[tokens[child]] = 0
                if left.sum() == 0:
                    return
                left /= left.sum()
        for token in np.flatnonzero(left):
            law[path, int(token)] += reached * left[token]

    visit((0,), 1.0)
    return law


def test_first_rounds_follow_eagles_law_of_the_tree_they_verified(draws: Draws) -> None:
    law: Counter[tuple[int, int, Tokens]] = Counter()
    for root, trees in draws.trees.items():
        ((tokens, parents),) = trees  # a tree depends on what stands before it, not on the seed
        prefixes: list[Tokens] = [(root,)]
        for node in range(1, len(tokens)):
            prefixes.append((*prefixes[parents[node]], tokens[node]))
        p = np.array([draws.conditionals[len(prefix)][prefix] for prefix in prefixes])
        for (path, bonus), probability in eagle_law(tokens, parents, p).items():
            emitted = (*(tokens[node] for node in path[1:]), bonus)
            law[root, len(path) - 1, emitted] += draws.conditionals[0][root] * probability
    assert sum(law.values()) == pytest.approx(1)
    accepted = Counter[int]()
    for (_, count, _), times in draws.first_rounds.items():
        accepted[count] += times
    assert all(accepted[count] > draws.texts.sum() / 50 for count in range(DEPTH + 1))  # paths of every length
    assert set(draws.first_rounds) <= set(law)
    counts = np.array([draws.first_rounds[outcome] for outcome in law])
    assert chi_square(counts, np.array(list(law.values()))) > THRESHOLD


@dataclass
class Case:
    """A tree, padded behind ``real`` nodes, and the target's law after each node, [n, tokens]."""

    tokens: list[int]
    parents: list[int]
    real: int
    p: Probabilities


FEW = 4


@st.composite
def cases(draw: st.DrawFn) -> Case:
    slots: list[tuple[int, int]] = [(-1, 0)]  # (parent, token) of each node; siblings differ
    for node in range(1, draw(st.integers(1, 5))):
        free = [slot for slot in product(range(node), range(FEW)) if slot not in slots]
        slots.append(draw(st.sampled_from(free)))
    real = len(slots)
    slots += [(0, draw(st.integers(0, FEW - 1)))] * draw(st.integers(0, 1))
    weights = st.lists(st.integers(0, 9), min_size=FEW, max_size=FEW).filter(any)
    p = np.array([draw(weights) for _ in slots], dtype=np.float64)
    return Case([t for _, t in slots], [parent for parent, _ in slots], real, p / p.sum(axis=1, keepdims=True))


def law_of_acceptance(case: Case) -> dict[tuple[Tokens, int], float]:
    """The law of (accepted path, token after it) when each node's token is drawn once: every way to draw them."""
    n = len(case.tokens)
    ancestors = torch.eye(n, dtype=torch.bool)
    for node in range(1, n):
        ancestors[node] |= ancestors[case.parents[node]]
    drawn = list(product(range(FEW), repeat=n))
    log_probs = torch.zeros(n)
    log_probs[case.real :] = -torch.inf
    depths = ancestors.sum(dim=1) - 1

    def repeated(row: Tensor) -> Tensor:
        return row.expand(len(drawn), *row.shape)

    nodes = Nodes(
        tokens=repeated(torch.tensor(case.tokens)),
        parents=repeated(torch.tensor(case.parents).clamp(min=0)),
        depths=repeated(depths),
        log_probs=repeated(log_probs),
        sources=repeated(torch.zeros(n, dtype=torch.uint8)),
        ancestors=repeated(ancestors),
        depth=int(depths.max()),
    )
    *_, on_paths, _ = read_back(nodes, torch.tensor(drawn), torch.zeros(len(drawn), n, FEW)).swapaxes(0, 1)
    law: dict[tuple[Tokens, int], float] = defaultdict(float)
    for choices, on_path in zip(drawn, on_paths, strict=True):
        path = tuple(np.flatnonzero(on_path).tolist())
        law[path, choices[path[-1]]] += float(np.prod(case.p[np.arange(n), choices]))
    return law


@settings(deadline=None)
@given(case=cases())
def test_one_draw_at_each_node_has_the_law_of_eagles_sequential_rule(case: Case) -> None:
    ours = law_of_acceptance(case)
    eagles = eagle_law(tuple(case.tokens[: case.real]), tuple(case.parents[: case.real]), case.p)
    assert sum(eagles.values()) == pytest.approx(1, abs=1e-12)
    for outcome in ours.keys() | eagles.keys():
        assert ours.get(outcome, 0.0) == pytest.approx(eagles.get(outcome, 0.0), abs=1e-12)


def test_noise_depends_on_seed_and_position_alone() -> None:
    places = list(product([0, 1, 2**63, -1], [0, 1, 2, 1000]))
    rows = {(seed, position): PositionNoise(seed, 50, CPU).at(position) for seed, position in places}
    assert len({tuple(row.tolist()) for row in rows.values()}) == len(places)
    for seed in {seed for seed, _ in places}:
        used = PositionNoise(seed, 50, CPU)
        for position in (1000, 7, 2, 0, 1, 2):
            drawn = used.at(position)
            assert torch.equal(drawn, rows.get((seed, position), drawn))
        used.forget_before(1000)
        for position in (1, 0, 1000):
            assert torch.equal(used.at(position), rows[seed, position])


def test_greedy_choices_ask_for_no_noise() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits, [4, 9], torch.tensor([[0, 1, 1]] * 2), Sampling(0.0), noises=[], reach=1)
    assert torch.equal(chosen, logits.argmax(dim=-1))
