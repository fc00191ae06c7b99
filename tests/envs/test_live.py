"""The live environment, and that replay is the same thing."""

import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from radar_rl.envs import DraftTreeEnv, DraftTreeReplayEnv
from radar_rl.errors import InputError
from radar_rl.rollouts import Prompt, Sequences, Trace, TraceSettings, sequence_seed
from radar_rl.rollouts.trace import accepted_tokens
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.runtime import autoregressive
from radar_rl.speculative import Pair


def test_check_env_passes_without_a_warning(pair: Pair, prompts: list[Prompt]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make = {"pair": pair, "prompts": prompts, "max_new_tokens": 12}
        check_env(gymnasium.make("radar_rl.envs:Radar/DraftTree-v0", **make).unwrapped)


@pytest.mark.parametrize("name", ["Radar/DraftTree-v0", "Radar/DraftTreeReplay-v0"])
def test_both_work_without_arguments(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(f"radar_rl.envs:{name}").unwrapped)


def traced(pair: Pair, prompts: list[Prompt], temperature: float, max_new_tokens: int) -> Trace:
    """The trace of the target's own texts, written without speculation."""
    texts, tables = [], []
    for prompt in prompts:
        ids = prompt.encode(pair)
        seed = sequence_seed(0, prompt.prompt_id, 0)
        written = list(autoregressive(pair, ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
        texts.append((len(ids), len(ids) + len(written)))
        tables.append(trace_sequence(pair, [*ids, *written], len(ids), max_depth=8, top_k=10, tree_size=60))
    lengths = np.array(texts)
    rows = [len(table.confidences) for table in tables]
    sequence = np.repeat(np.arange(len(prompts), dtype=np.int32), rows)
    position = np.concatenate(
        [np.arange(start, start + n, dtype=np.int32) for (start, _), n in zip(texts, rows, strict=True)]
    )
    ranks = np.concatenate([table.ranks for table in tables])
    return Trace(
        settings=TraceSettings(pair.target_identity, pair.draft_identity, temperature=temperature),
        sequences=Sequences(
            [f"{p.task}/{p.prompt_id}/0" for p in prompts],
            [p.task for p in prompts],
            [p.prompt_id for p in prompts],
            *lengths.T,
        ),
        sequence=sequence,
        position=position,
        confidences=np.concatenate([table.confidences for table in tables]),
        accepted=accepted_tokens(ranks, lengths[sequence, 1] - 1 - position, top_k=10, tree_size=60),
        censored=np.zeros(sum(rows), dtype=bool),
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replay_is_live_for_random_policies(pair: Pair, prompts: list[Prompt], temperature: float) -> None:
    """Step by step the same accepted lengths, rewards and ends, over more than 500 rounds in all."""
    shared: dict[str, Any] = {"hardware": "pocket_cpu"}
    live = DraftTreeEnv(pair, prompts, max_new_tokens=64, temperature=temperature, **shared)
    replay = DraftTreeReplayEnv(traced(pair, prompts, temperature, 64), **shared)
    rng = np.random.default_rng(0)
    rounds = values = differing = 0
    text = 0
    while rounds < 260:
        probability = rng.random()
        seen = live.reset(options={"text": text % 3}), replay.reset(options={"text": text % 3})
        text += 1
        observations, terminated = [seen[0][0], seen[1][0]], False
        while not terminated:
            values += len(observations[0])
            differing += int((observations[0] != observations[1]).sum())
            # A log-probability between two float16 numbers may round either way in forwards of different shapes.
            np.testing.assert_allclose(observations[0], observations[1], rtol=1.001 * 2**-10, atol=1e-6)
            action = int(rng.random() < probability)
            one, other = live.step(action), replay.step(action)
            for info in (one[4], other[4]):
                info["action_mask"] = info["action_mask"].tolist()
            assert one[1:] == other[1:]
            observations, terminated = [one[0], other[0]], one[2]
            rounds += one[4]["draft_calls"] > 0
    assert differing <= 1e-3 * values


def test_the_text_does_not_depend_on_the_policy(pair: Pair, prompts: list[Prompt]) -> None:
    env = DraftTreeEnv(pair, prompts, max_new_tokens=40)
    rng = np.random.default_rng(1)
    for index, prompt in enumerate(prompts):
        expected = list(autoregressive(pair, prompt.encode(pair), max_new_tokens=40))
        for probability in (0.0, 0.5, 1.0):
            env.reset(options={"text": index})
            session, terminated = env.session, False
            while not terminated:
                terminated = env.step(int(rng.random() < probability))[2]
            assert session is not None
            assert session.session.token_ids == expected  # type: ignore[attr-defined]


def test_each_turn_of_a_conversation_is_a_text(pair: Pair) -> None:
    talk = Prompt("talk", "a", text="Name a colour.", later_turns=("Why that one?",))
    env = DraftTreeEnv(pair, [talk], max_new_tokens=12)
    first = autoregressive(pair, talk.encode(pair), max_new_tokens=12)
    answer = pair.tokenizer.decode([i for i in first if i not in pair.eos_token_ids])
    _, info = env.reset(options={"text": 1})
    assert (info["text"], info["position"]) == (1, len(talk.encode(pair, [answer])))
    short = replace(pair, max_positions=info["position"] + 11)  # a token too few for the second turn
    _, info = DraftTreeEnv(short, [talk], max_new_tokens=12).reset(options={"text": 1})
    assert info["text"] == 0


def test_prompts_may_be_text_or_token_ids(pair: Pair) -> None:
    ids = pair.encode_prompt("Question: How many?\nAnswer:")
    env = DraftTreeEnv(pair, ["Question: How many?\nAnswer:", ids], max_new_tokens=8, max_depth=3, top_k=4, tree_size=9)
    first, second = env.reset(options={"text": 0}), env.reset(options={"text": 1})
    np.testing.assert_array_equal(first[0], second[0])
    assert first[0].shape == (13,)


def test_bad_prompts_are_named(pair: Pair) -> None:
    for prompts, message in (
        ([], "no prompts"),
        ([""], "prompts-1: empty prompt"),
        ([[]], "prompts-1: empty prompt"),
        ([[1, 2, 10**6]], "outside the vocabulary"),
        ([[1] * pair.max_positions], "too long"),
    ):
        with pytest.raises(InputError, match=message):
            DraftTreeEnv(pair, prompts)
