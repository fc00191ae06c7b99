"""A decision never changes the text: any rule, any network, any depths; greedy and sampled, alone and in a batch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radar_rl.policies import CONTINUE, STOP, LearnedPolicy, ObservationSpec, Policy, RadarPolicy, SampledRadar
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.policies.recurrent import weight_shapes
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative import DraftState, Pair
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.text import DRAFT_SOURCES, DraftSource, Options

DEPTH, TOP_K, TOKENS = 5, 4, 20
RULES = (
    "static:{whole}",
    "threshold:{part}",
    "joint:{part}",
    "p-min:{part}",
    "svip:{whole}",
    "adaedl:{part},step=0.3",
    "plus-two:{whole}",
    "random:{part}",
)


@dataclass
class AnyDepth(MemorylessPolicy):
    """Stops at a depth that only the position and a seed decide, without a look or with one."""

    seed: int
    looks: bool
    name = "any depth"

    def act(self, state: DraftState) -> int:
        if self.looks:
            _ = state.look()
        drawn = hashlib.blake2b(f"{self.seed}/{state.position}".encode(), digest_size=2).digest()
        return CONTINUE if state.depth <= drawn[0] % (DEPTH + 1) else STOP


@st.composite
def networks(draw: Any) -> LearnedPolicy:
    names = draw(st.lists(st.sampled_from(("confidences", "depth", *FEATURES)), min_size=1, unique=True))
    newest = draw(st.none() | st.integers(1, DEPTH))
    spec = ObservationSpec(DEPTH, TOP_K, tuple(names), feature_dim=3, newest=newest)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    inner = draw(st.integers(1, 9))
    layers = [(generator.normal(size=(inner, spec.size)), np.zeros(inner)), (generator.normal(size=(2, inner)), [0, 0])]
    asks_from = draw(st.integers(1, DEPTH))
    return LearnedPolicy("n", spec, [(np.float32(w), np.asarray(b, np.float32)) for w, b in layers], asks_from)


@st.composite
def radars(draw: Any) -> Policy:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = weight_shapes(TOP_K, 5, 4)
    policy = RadarPolicy("r", {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    return SampledRadar(policy, seed=draw(st.integers(0, 99))) if draw(st.booleans()) else policy


rules = st.builds(
    lambda name, whole, part: policy_from_string(name.format(whole=whole, part=f"{part:.3f}")),
    st.sampled_from(RULES),
    st.integers(1, DEPTH),
    st.floats(0.01, 0.99),
)
policies = st.one_of(networks(), radars(), rules, st.builds(AnyDepth, st.integers(0, 999), st.booleans()))

Texts = dict[tuple[int, float], list[int]]


@pytest.fixture(scope="module")
def prompts(pocket: Pair, shipped_prompts: list[str]) -> list[list[int]]:
    return [pocket.encode_prompt(text) for text in shipped_prompts[:3]]


@pytest.fixture(scope="module")
def texts(pocket: Pair, prompts: list[list[int]]) -> Texts:
    """What the target says by itself, by prompt and temperature; the prompt's number is its seed."""
    return {
        (i, temperature): list(autoregressive(pocket, ids, seed=i, max_new_tokens=TOKENS, temperature=temperature))
        for i, ids in enumerate(prompts)
        for temperature in (0.0, 1.0)
    }


@given(
    policy=policies,
    temperature=st.sampled_from((0.0, 1.0)),
    source=st.sampled_from(DRAFT_SOURCES),
    one=st.integers(0, 2),
)
def check(
    pair: Pair,
    prompts: list[list[int]],
    texts: Texts,
    policy: Policy,
    temperature: float,
    source: DraftSource,
    one: int,
) -> None:
    decoder = SpeculativeDecoder(pair, policy, max_depth=DEPTH, top_k=TOP_K, tree_size=12, draft_source=source)
    options: Options = {"max_new_tokens": TOKENS, "temperature": temperature}
    assert decoder.generate(prompts[one], seed=one, **options).token_ids == texts[one, temperature]
    together = decoder.generate_batch(prompts, range(3), **options)
    assert [out.token_ids for out in together] == [texts[i, temperature] for i in range(3)]


@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_decision_changes_the_text(examples: int, pocket: Pair, prompts: list[list[int]], texts: Texts) -> None:
    settings(max_examples=examples, deadline=None)(check)(pocket, prompts, texts)
