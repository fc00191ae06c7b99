"""A policy on the device decides what it decides on the host, in the passes of draft calls; a flag a text is read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from capturing import Capturing
from host_reads import HostReads
from stepwise_network import EVERYTHING, GOING, made_up, network

from radar_rl.errors import ArtifactError, ModelOutputError
from radar_rl.policies import CONTINUE, LearnedPolicy, ObservationSpec
from radar_rl.policies.on_device import OnDevice
from radar_rl.runtime import SpeculativeDecoder, decoder
from radar_rl.runtime.decide import decide
from radar_rl.runtime.decoder import features_of
from radar_rl.speculative import Pair, SpeculativeBatch
from radar_rl.speculative import graphs as graphs_module
from radar_rl.speculative.features import FEATURES, Features
from radar_rl.speculative.graphs import Arena
from radar_rl.speculative.judging import UNSURE, root_numbers
from radar_rl.speculative.reading import packed

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {"max_depth": 5, "top_k": 6}


def policy_of(newest: int | None, asks_from: int = 1) -> LearnedPolicy:
    spec = ObservationSpec(5, 6, EVERYTHING, feature_dim=8, newest=newest)
    policy = network(spec, towards_going=GOING[newest])
    return policy.asking_from(asks_from)


@pytest.fixture
def captured(pocket: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(graphs_module, "BUCKET", 64)
    for module in ("target", "heads"):
        monkeypatch.setattr(f"radar_rl.speculative.{module}.BUCKET", 64)
    return replace(pocket, arena=Arena(Capturing()))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pair were on a GPU."""
    monkeypatch.setattr(decoder, "judged", lambda pair, policy: {"judge": OnDevice(policy, pair.target.device)})


@pytest.mark.parametrize(
    "spec",
    [
        ObservationSpec(4, 3),
        ObservationSpec(4, 3, ("ngram", "depth"), newest=1),
        ObservationSpec(4, 3, EVERYTHING, floor=-7.0, feature_dim=5),
        ObservationSpec(4, 3, EVERYTHING[::-1], floor=-7.0, feature_dim=5, newest=2),
    ],
    ids=lambda spec: f"{len(spec.features)}-{spec.newest}",
)
def test_observation_and_outputs_are_those_of_the_host(spec: ObservationSpec) -> None:
    policy, (confidences, features) = network(spec), made_up(30, spec)
    judge = OnDevice(policy, CPU)
    tensors = {name: torch.from_numpy(values) for name, values in features.items()}
    root = root_numbers(spec.looks_at and tuple(name for name in FEATURES if name in spec.looks_at), tensors, 30, CPU)
    called = [name for name in FEATURES if name in tensors and FEATURES[name].per_call]
    calls = [
        packed([torch.from_numpy(confidences[:, call]), *(tensors[name][:, call] for name in called)])
        for call in range(4)
    ]
    for depth in (1, 2, 3, 4):
        told = torch.stack(calls[:depth], dim=1)
        observed = spec.build(confidences, np.full(30, depth), features)
        np.testing.assert_array_equal(judge.observe(told, root), observed)
        outputs = judge.outputs(told, root)
        x = observed
        for weight, bias in policy.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        expected = x @ policy.layers[-1][0] + policy.layers[-1][1]
        np.testing.assert_allclose(outputs, expected, atol=1e-5, rtol=1e-5)
        flags = judge(told, root)
        assert (flags.numpy() == (outputs[:, 1] > outputs[:, 0]).numpy()).all()
        told[3, -1] = torch.nan
        shows_calls = any(part.per_call for part in spec.parts)
        assert judge(told, root)[3] == (UNSURE if shows_calls else flags[3])


@pytest.mark.parametrize("newest", [None, 2])
@pytest.mark.parametrize("asks_from", [1, 3])
@pytest.mark.usefixtures("on_device")
def test_rounds_are_those_of_decisions_on_the_host(
    pocket: Pair, captured: Pair, shipped_prompts: list[str], newest: int | None, asks_from: int
) -> None:
    policy = policy_of(newest, asks_from)
    prompts = [pocket.encode_prompt(text) for text in shipped_prompts[:3]]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decoder, "judged", lambda pair, policy: {})
        expected = SpeculativeDecoder(pocket, policy, **SHAPE).generate_batch(prompts, max_new_tokens=30)
    assert len({r.draft_calls for out in expected for r in out.rounds}) > 1
    for pair in (pocket, captured):
        ours = SpeculativeDecoder(pair, policy, **SHAPE)
        together = ours.generate_batch(prompts, max_new_tokens=30)
        for out in (expected, together, [ours.generate(ids, max_new_tokens=30) for ids in prompts]):
            assert [text.token_ids for text in out] == [text.token_ids for text in expected]
            assert [[r.draft_calls for r in text.rounds] for text in out] == [
                [r.draft_calls for r in text.rounds] for text in expected
            ]


def test_one_flag_a_text_is_read_and_nothing_else(
    pocket: Pair, shipped_prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(None, asks_from=2)
    prompts = [pocket.encode_prompt(text) for text in shipped_prompts[:3]]
    batch = SpeculativeBatch(pocket, prompts, **SHAPE, **features_of(policy), judge=OnDevice(policy, CPU))
    states, reads = batch.begin(), HostReads(monkeypatch)
    assert decide([policy] * 3, states) == [CONTINUE] * 3
    assert reads.count == 0  # not asked yet
    states = batch.draft()
    acts = decide([policy] * 3, states)
    assert (reads.count, reads.numbers) == (1, 3)
    confidences, features = states[0].look()  # who looks all the same sees the numbers
    assert (reads.count, len(features)) == (2, len(FEATURES))
    host = policy.asking_from(2)  # another policy's decisions are not in those flags
    assert [host.act(state) for state in states] == acts
    assert (confidences[0] > -np.inf).all()


@pytest.mark.usefixtures("on_device")
def test_policies_take_turns_in_the_same_captured_passes(captured: Pair, shipped_prompts: list[str]) -> None:
    capturing: Any = captured.arena.capture
    ids = captured.encode_prompt(shipped_prompts[0])
    spec = ObservationSpec(4, 3)
    stopping, going = (
        SpeculativeDecoder(captured, network(spec, towards_going=towards), max_depth=4, top_k=3)
        for towards in (-50.0, 50.0)
    )
    made = []
    for ours, calls in ((stopping, 1), (going, 4), (stopping, 1), (going, 4)):
        out = ours.generate(ids, max_new_tokens=12)
        assert {r.draft_calls for r in out.rounds} == {calls}
        made.append(capturing.captures)
    assert made[1] == made[-1]  # weights go where the others' were


def test_nan_is_told_by_the_host(pocket: Pair, shipped_prompts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = network(ObservationSpec(4, 3, ("confidences", "entropy")))
    ids = pocket.encode_prompt(shipped_prompts[0])
    batch = SpeculativeBatch(pocket, [ids], max_depth=4, top_k=3, **features_of(policy), judge=OnDevice(policy, CPU))
    monkeypatch.setattr(Features, "of_newest", lambda *_: {"entropy": torch.full((1,), torch.nan)})
    with pytest.raises(ModelOutputError, match="the draft head's entropy is NaN in draft call 1"):
        policy.act(batch.begin()[0])


def test_an_output_that_is_nan_is_told_by_the_host(pocket: Pair, shipped_prompts: list[str]) -> None:
    spec, nothing = ObservationSpec(4, 3), np.zeros(2, np.float32)
    large, against = np.full((2, spec.size), -3e38, np.float32), np.array([[0, 0], [1, -1]], np.float32)
    policy = LearnedPolicy("large", spec, [(large, nothing), (against, nothing)])
    ids = pocket.encode_prompt(shipped_prompts[0])
    batch = SpeculativeBatch(pocket, [ids], max_depth=4, top_k=3, judge=OnDevice(policy, CPU))
    with pytest.raises(ArtifactError, match="policy large: its weights are so large"):
        policy.act(batch.begin()[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_decides_what_the_host_decides(shipped_prompts: list[str]) -> None:
    from radar_rl.speculative import load_pair

    plain = load_pair("pocket", device="cuda")
    for pair in (plain, plain.with_graphs()):
        for newest in (None, 2):
            policy = policy_of(newest)
            ids = pair.encode_prompt(shipped_prompts[0])
            ours = SpeculativeDecoder(pair, policy, **SHAPE).generate(ids, max_new_tokens=48)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(decoder, "judged", lambda pair, policy: {})
                theirs = SpeculativeDecoder(pair, policy, **SHAPE).generate(ids, max_new_tokens=48)
            assert ours.token_ids == theirs.token_ids
            assert [r.draft_calls for r in ours.rounds] == [r.draft_calls for r in theirs.rounds]
