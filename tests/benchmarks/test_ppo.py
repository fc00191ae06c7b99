"""``bench ppo``: what PPO has learned is walked over the held-out texts like every other policy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, write_collection

pytest.importorskip("stable_baselines3")

from radar_rl import cli
from radar_rl.benchmarks.ppo import Learner, bench_ppo
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.offline.tuning import tune_static
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import RandomStop, States

SMALL = {"seconds": 0.5, "num_envs": 16, "points": 2}


def test_the_command_prints_curve_and_table_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/ppo.json"
    small = [f"{key}={value}" for key, value in SMALL.items()]
    assert cli.main(["bench", "ppo", *small, f"out={out}"]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [row["policy"] for row in figures["rows"]][2:] == ["static-1", "PPO", "oracle"]
    assert all(row["policy"] in printed for row in figures["rows"])
    assert figures["rows"][0]["policy"] == "random-0.5"
    curve = figures["curve"]
    assert curve[0]["steps"] == 0
    assert 2 <= len(curve) <= 3
    assert [point["steps"] for point in curve] == sorted(point["steps"] for point in curve)
    assert curve[-1]["tokens_per_second"] == pytest.approx(figures["rows"][3]["tokens_per_second"])


def test_the_greedy_policy_is_the_models_own_and_beats_chance() -> None:
    trace = make_trace(prompts=30, new_tokens=60, seed=4)
    outcomes = Outcomes.of(trace, HARDWARE)
    learner = Learner(outcomes, tune_static(outcomes).walk.tokens_per_second, num_envs=64, seed=0)
    learner.model.learn(2 * 16384)
    depth = np.random.default_rng(0).integers(1, 9, size=len(trace))
    observations = learner.envs.normalize_obs(learner.spec.build(trace.confidences, depth))
    actions, _ = learner.model.predict(observations, deterministic=True)
    assert set(actions.tolist()) == {0, 1}
    assert np.mean(learner.greedy().continues(States(trace.confidences, depth)) == actions) > 0.999
    random = walk_policy(outcomes, RandomStop(0.5))
    assert walk_policy(outcomes, learner.greedy()).tokens_per_second > 1.03 * random.tokens_per_second


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    settings = {key: value for key, value in load("bench-ppo").items() if key != "defaults"} | SMALL
    lonely = write_collection(tmp_path / "lonely", make_trace(prompts=1, new_tokens=12))
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"seconds": 0}, InputError, "seconds > 0"),
        ({"held_out": 1.0}, InputError, "held_out between 0 and 1"),
        ({"num_envs": 0}, InputError, "num_envs"),
        ({"points": 0}, InputError, "points"),
        ({"hardware": "abacus"}, ConfigError, "pocket_cpu"),
        ({"traces": str(tmp_path / "nowhere")}, TraceError, "no traces"),
        ({"traces": str(lonely)}, TraceError, "no rows"),
    ]
    for values, error, message in wrong:
        with pytest.raises(error, match=message):
            bench_ppo(**settings | values)
