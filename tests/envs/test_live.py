"""The live environment, and that replay is the same thing."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordVideo

from radar_rl.envs import DraftTreeEnv, DraftTreeReplayEnv, DraftTreeWallClockEnv
from radar_rl.errors import ConfigError, InputError, RadarError
from radar_rl.policies import ObservationSpec
from radar_rl.rollouts import Prompt, Sequences, Trace, TraceSettings, sequence_seed
from radar_rl.rollouts.trace import accepted_tokens
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.runtime import autoregressive
from radar_rl.speculative import Pair
from radar_rl.speculative.features import COLUMNS, FEATURES

FEATURE_SETTINGS: dict[str, Any] = {"feature_dim": 5, "feature_seed": 3}


def traced(pair: Pair, prompts: list[Prompt], temperature: float, max_new_tokens: int) -> Trace:
    """The trace of the target's own texts, written without speculation; with all features."""
    asked: dict[str, Any] = {"features": list(COLUMNS), **FEATURE_SETTINGS}
    texts, tables = [], []
    for prompt in prompts:
        ids = prompt.encode(pair)
        seed = sequence_seed(0, prompt.prompt_id, 0)
        written = list(autoregressive(pair, ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
        texts.append((len(ids), len(ids) + len(written)))
        tables.append(trace_sequence(pair, [*ids, *written], len(ids), max_depth=8, top_k=10, tree_size=60, **asked))
    lengths = np.array(texts)
    rows = [len(table.confidences) for table in tables]
    sequence = np.repeat(np.arange(len(prompts), dtype=np.int32), rows)
    position = np.concatenate(
        [np.arange(start, start + n, dtype=np.int32) for (start, _), n in zip(texts, rows, strict=True)]
    )
    ranks = np.concatenate([table.ranks for table in tables])
    return Trace(
        settings=TraceSettings(pair.target_identity, pair.draft_identity, temperature=temperature, **asked),
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
        features={name: np.concatenate([table.features[name] for table in tables]) for name in COLUMNS},
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("reward", "observation"),
    [
        ("throughput", ObservationSpec()),
        ("radar", ObservationSpec(features=("confidences", "depth", *FEATURES), **FEATURE_SETTINGS)),
    ],
    ids=["default", "features"],
)
def test_replay_is_live_for_random_policies(
    pair: Pair, prompts: list[Prompt], temperature: float, reward: str, observation: ObservationSpec
) -> None:
    """Step by step the same accepted lengths, rewards and ends, over more than 500 rounds in all."""
    shared: dict[str, Any] = {"hardware": "pocket_cpu", "reward": reward, "observation": observation}
    # Differences of logarithms and projections have absolute errors: forwards of other shapes sum in another order.
    absolute = np.full(observation.size, 1e-6)
    # What ten tokens have together is mostly next to 1, between two float16 numbers more often than anything else.
    seldom = np.ones(observation.size, dtype=np.bool_)
    for part, following in pairwise([*observation.parts, None]):
        if part is not None and part.name not in ("confidences", "depth"):
            numbers = slice(part.start, following.start if following else None)
            absolute[numbers], seldom[numbers] = 4e-3, part.name != "top_mass"
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
            values += int(seldom.sum())
            differing += int((observations[0] != observations[1])[seldom].sum())
            # A log-probability between two float16 numbers may round either way in forwards of different shapes.
            error = np.abs(observations[0] - observations[1])
            assert (error <= absolute + 1.001 * 2**-10 * np.abs(observations[1])).all()
            action = int(rng.random() < probability)
            one, other = live.step(action), replay.step(action)
            for info in (one[4], other[4]):
                info["action_mask"] = info["action_mask"].tolist()
            assert one[1:] == other[1:]
            observations, terminated = [one[0], other[0]], one[2]
            rounds += one[4]["draft_calls"] > 0
    assert differing <= 1e-3 * values


@pytest.mark.parametrize("make", [DraftTreeEnv, DraftTreeWallClockEnv])
@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_an_episodes_text_is_the_targets_own(
    pair: Pair, prompts: list[Prompt], make: type[DraftTreeEnv], episode: str, temperature: float
) -> None:
    chosen: dict[str, Any] = {"max_new_tokens": 40, "temperature": temperature}
    env = make(pair, prompts, episode=episode, seed=6, **chosen)
    rng = np.random.default_rng(1)
    for index, prompt in enumerate(prompts):
        seed = sequence_seed(6, prompt.prompt_id, 0)
        expected = list(autoregressive(pair, prompt.encode(pair), seed=seed, **chosen))
        for probability in (0.0, 0.5, 1.0):
            env.reset(options={"text": index})
            session = env.session
            assert session is not None
            while not session.finished:
                if env.state is None:
                    env.reset()  # the text's next round
                env.step(int(rng.random() < probability))
            assert env.session is session
            assert session.session.token_ids == expected  # type: ignore[attr-defined]


def test_the_wall_clock_is_the_machines_own(pair: Pair, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass seems to take a second: call 1 and verification are paid at the stop, others at their continue."""
    now = iter(range(10**6))
    monkeypatch.setattr("radar_rl.rollouts.live.clock", lambda pair: float(next(now)))
    decide = DraftTreeWallClockEnv(pair, prompts).problem.hardware.decide_seconds
    for reward, going, stopping in (
        ({"kind": "throughput", "rate": 2.0}, -2 * (1 + decide), lambda emitted: emitted - 2 * (2 + decide)),
        ("linear", -0.1, float),
        ("radar", -0.03, lambda emitted: 0.03084 * emitted / (4 + 3 * decide)),
    ):
        env = DraftTreeWallClockEnv(pair, prompts, max_new_tokens=16, reward=reward)
        env.reset(seed=0)
        for _ in range(2):
            _, earned, _, _, info = env.step(1)
            assert (earned, info["seconds"]) == (pytest.approx(going), pytest.approx(1 + decide))
        _, earned, _, _, info = env.step(0)
        assert info["seconds"] == pytest.approx(2 + decide)
        assert earned == pytest.approx(stopping(info["emitted"]))
        while info["action_mask"][1]:
            info = env.step(1)[4]
        assert env.step(0)[4]["seconds"] == pytest.approx(2)  # at max_depth nothing was decided


def test_a_film_can_be_made_of_it(pair: Pair, prompts: list[Prompt], tmp_path: Path) -> None:
    make = {"pair": pair, "prompts": prompts, "max_new_tokens": 8}
    env = RecordVideo(
        gymnasium.make("radar_rl.envs:Radar/DraftTree-v0", render_mode="rgb_array", **make), str(tmp_path / "film")
    )
    env.reset(seed=0)
    terminated = False
    while not terminated:
        terminated = env.step(env.action_space.sample())[2]
    env.close()
    assert [path.suffix for path in (tmp_path / "film").iterdir()] == [".mp4"]


def test_pictures_of_live_trees_show_tokens(pair: Pair, prompts: list[Prompt]) -> None:
    env = DraftTreeEnv(pair, prompts, max_new_tokens=24, render_mode="ansi")
    env.reset(seed=0)
    assert "draft call 1 of 8" in env.render()
    rng, info = np.random.default_rng(0), {"accepted": 0}
    while not info["accepted"]:
        info = env.step(int(rng.random() < 0.7))[4]
    session = env.session
    assert session is not None
    said = session.session.token_ids[: -info["emitted"]]  # type: ignore[attr-defined]
    shown = env.render()
    assert shown.splitlines()[1].endswith(pair.tokenizer.decode(said)[-20:].replace("\n", "⏎"))
    assert f"accepted {info['accepted']}, emitted {info['emitted']}" in shown
    assert shown.count("●") == info["accepted"] + 1


def test_a_target_without_a_tokenizer_is_drawn_by_ids(pair: Pair) -> None:
    env = DraftTreeEnv(replace(pair, tokenizer=None), [[5, 6, 7]], max_new_tokens=6, render_mode="ansi")
    env.reset(seed=0)
    session = env.session
    assert session is not None
    root = session.session.token_ids[-1]  # type: ignore[attr-defined]
    assert f"○ {root} " in env.render()


def test_projected_features_need_a_whole_layout(pair: Pair, prompts: list[Prompt]) -> None:
    with pytest.raises(ConfigError, match="feature_dim"):
        DraftTreeEnv(pair, prompts, observation=("depth", "hidden"))


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


def test_a_pair_may_be_a_model_mapping(pair: Pair) -> None:
    model = {"target": "pocket", "device": "cpu", "dtype": "bfloat16"}
    env = DraftTreeEnv(model, ["Name a colour."], max_new_tokens=8)
    assert env.reset(seed=0)[1]["position"] == len(pair.encode_prompt("Name a colour."))
    with pytest.raises(ConfigError, match="dtype"):
        DraftTreeEnv(model | {"dtype": "int4"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": "Hello"}, "prompts: expected a list"),
        ({"prompts": 5}, "prompts: expected a list"),
        ({"prompts": [5]}, "prompts-1: expected a message"),
        ({"prompts": ["Hello", None]}, "prompts-2: expected a message"),
        ({"seed": "a"}, "seed: expected a whole number"),
        ({"seed": 1.5}, "seed: expected a whole number"),
        ({"max_depth": 1.5}, "max_depth: expected a whole number"),
        ({"top_k": "a"}, "top_k: expected a whole number"),
        ({"tree_size": 1}, "tree_size: expected a whole number ≥ 2"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number ≥ 1"),
        ({"pair": 5}, "pair: expected a Pair"),
        ({"pair": {"tgt": "pocket"}}, "pair: expected a mapping with target"),
        ({"temperature": -1.0}, "temperature"),
        ({"sample_top_p": 0.0}, "top_p"),
    ],
)
def test_wrong_types_are_named(pair: Pair, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RadarError, match=message):
        DraftTreeEnv(**{"pair": pair, "prompts": ["Hello."], **arguments}).reset()


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
