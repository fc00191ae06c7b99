"""Every rule by its name decodes the target's own text, in the very rounds that its walk over a trace of it makes."""

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
from synthetic_trace import HARDWARE

from radar_rl.offline.walk import Outcomes, policy_depths
from radar_rl.policies import ExpectedGain, MemorylessPolicy, Policy, SwitchingPolicy
from radar_rl.rollouts.trace import Sequences, Trace, TraceSettings, accepted_tokens
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.runtime.alone import autoregressive
from radar_rl.runtime.decoder import SpeculativeDecoder, features_of
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative import Pair

SHAPE = {"max_depth": 8, "top_k": 10, "tree_size": 60}
TOKENS = 40

NAMES = [
    "static:3",
    "threshold:0.3",
    "joint:0.55",
    "p-min:0.4",
    "chain:3,threshold=0.4",
    "svip:1.1",
    "entropy-bound:0.5",
    "adaedl:0.6,step=0.3",
    "plus-two:3",
    "ema:3,interval=1,warmup=2,candidates=1/2/4/8",
    "ucbspec:8,scale=0.1",
    "ucbspec:8,scale=0.1,seconds=1/1.1/1.2/1.3/1.4/1.5/1.6/1.7",
    "exp3spec:8,scale=3",
    "tapout:static:4+joint:0.5+svip:1.2+p-min:0.3",
    "random:0.7",
]


class Traced(NamedTuple):
    """A prompt, what the target makes of it, and the trace over that; the text is called what a decoder's first is."""

    prompt: list[int]
    options: dict[str, Any]
    text: list[int]
    trace: Trace


@pytest.fixture(scope="module")
def texts(pocket: Pair, shipped_prompts: list[str]) -> list[Traced]:
    made = []
    for number, prompt in enumerate(shipped_prompts[:2]):
        ids = pocket.encode_prompt(prompt)
        options = {"temperature": float(number % 2), "seed": number, "max_new_tokens": TOKENS}
        text = list(autoregressive(pocket, ids, **options))
        whole, length = [*ids, *text], len(ids)
        traced = trace_sequence(pocket, whole, length, **SHAPE, features=["entropy", "log_probs"])
        positions = np.arange(length, len(whole) - 1, dtype=np.int32)
        trace = Trace(
            settings=TraceSettings("t", "d", **SHAPE),
            sequences=Sequences(["1"], ["task"], ["p"], np.array([length]), np.array([len(whole)])),
            sequence=np.zeros(len(positions), np.int32),
            position=positions,
            confidences=traced.confidences,
            accepted=accepted_tokens(traced.ranks, len(whole) - 1 - positions, top_k=10, tree_size=60),
            censored=np.zeros(len(positions), bool),
            features=traced.features,
        )
        made.append(Traced(ids, options, text, trace))
    return made


@pytest.mark.parametrize("policy", [*NAMES, ExpectedGain(120.0, (0.004,) * 7)], ids=str)
def test_a_rule_decodes_the_targets_text_in_the_rounds_of_its_walk(
    policy: str | Policy, pocket: Pair, texts: list[Traced]
) -> None:
    rule = policy_from_string(policy, seed=5) if isinstance(policy, str) else policy
    seen = set()
    for prompt, options, text, trace in texts:
        out = SpeculativeDecoder(pocket, copy.deepcopy(rule), **SHAPE).generate(prompt, **options)
        assert out.token_ids == text
        depths = policy_depths(Outcomes.of(trace, HARDWARE), copy.deepcopy(rule))
        rows = [done.position - len(prompt) for done in out.rounds]
        assert [done.draft_calls for done in out.rounds] == depths[rows].tolist()
        assert [done.accepted for done in out.rounds] == trace.accepted[rows, depths[rows] - 1].tolist()
        seen |= set(depths[rows].tolist())
    assert len(seen) > 1 or policy == "static:3"


def test_texts_side_by_side_have_a_memory_each(pocket: Pair, shipped_prompts: list[str]) -> None:
    prompts = [pocket.encode_prompt(prompt) for prompt in shipped_prompts[:2]]
    for name in ("plus-two:2", "adaedl:0.6,step=0.3"):
        decoder = SpeculativeDecoder(pocket, policy_from_string(name), **SHAPE)
        alone = [decoder.generate(prompt, max_new_tokens=24) for prompt in prompts]
        beside = decoder.generate_batch(prompts, max_new_tokens=24)
        assert [text.token_ids for text in beside] == [text.token_ids for text in alone]
        assert [[r.draft_calls for r in text.rounds] for text in beside] == [
            [r.draft_calls for r in text.rounds] for text in alone
        ]


def test_rules_say_what_they_look_at() -> None:
    looked = {name: features_of(policy_from_string(name)).get("features", ()) for name in NAMES}
    assert looked["p-min:0.4"] == ("log_probs",)
    assert looked["adaedl:0.6,step=0.3"] == looked["svip:1.1"] == ("entropy",)
    assert looked["tapout:static:4+joint:0.5+svip:1.2+p-min:0.3"] == ("entropy", "log_probs")
    assert looked["joint:0.55"] == looked["plus-two:3"] == ()
    assert isinstance(policy_from_string("joint:0.5"), MemorylessPolicy)
    assert isinstance(policy_from_string("plus-two:3"), SwitchingPolicy)
