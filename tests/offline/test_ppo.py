"""PPO online on replayed texts: the generic tests of algorithms are in test_fit.py, here is what only it can do."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace

pytest.importorskip("stable_baselines3")

from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import Training
from radar_rl.offline.ppo import ROLLOUT, PPOLearner, Replayed
from radar_rl.offline.train import train
from radar_rl.offline.tuning import tune_rules
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import RandomStop, States
from radar_rl.policies.observation import ObservationSpec
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.rollout import rollout


def test_the_greedy_policy_is_the_models_own_and_beats_chance() -> None:
    trace = make_trace(prompts=30, new_tokens=60, seed=4)
    outcomes = Outcomes.of(trace, HARDWARE)
    problem = Replayed(outcomes, ObservationSpec(8, 10), Reward(), "sequence")
    rate = tune_rules(outcomes).static_walk.tokens_per_second
    learner = PPOLearner(problem, rate, settings_of({"name": "ppo", "num_envs": 64}), seed=0, batch_size=2048)
    losses = learner.learn(2 * ROLLOUT)
    assert set(losses) == {"policy_loss", "value_loss"}
    depth = np.random.default_rng(0).integers(1, 9, size=len(trace))
    actions = learner.predict(learner.spec.build(trace.confidences, depth))
    assert set(actions.tolist()) == {0, 1}
    assert np.mean(learner.greedy().continues(States(trace.confidences, depth)) == actions) > 0.999
    random = walk_policy(outcomes, RandomStop(0.5))
    assert walk_policy(outcomes, learner.greedy()).tokens_per_second > 1.03 * random.tokens_per_second


def test_updates_are_counted_as_for_the_others(outcomes: Outcomes) -> None:
    data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "sequence")
    fitted = fit_policy(data, settings_of({"name": "ppo"}), Training(steps=80, batch_size=64, seed=0))
    assert fitted.algorithm.model._n_updates == 80  # passes over what was played: one batch each time
    assert 80 * 64 / 4 <= fitted.examples <= 1.3 * 80 * 64 / 4
    assert [row["step"] for row in fitted.curve][-1] == 80


def test_rewards_follow_the_rate_and_the_reward(outcomes: Outcomes) -> None:
    data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "round")
    fitted = fit_policy(data, settings_of({"name": "ppo"}), Training(steps=40, batch_size=64, seed=0, follow_rate=True))
    assert [row["rate"] for row in fitted.curve[1:]] == [row["tokens_per_second"] for row in fitted.curve[:-1]]
    native = fitted.algorithm.envs.venv.envs
    assert native.problem.reward.rate == fitted.rate
    assert native.problem.episode == "round"


def test_what_it_cannot_learn_from_is_said(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    common = {"model": {}, "reward": {"kind": "throughput"}, "hardware": str(hardware_file)}
    log = {"out": str(tmp_path / "log"), "env": "replay", "policy": "random:0.7", "tasks": [], "task": {}}
    rollout(traces=str(collection), **log, **common)
    training = {"algo": {"name": "ppo"}, "behaviour": None, "episode": "sequence", "held_out": 0.3, "steps": 20}
    training |= {"batch_size": 32, "seed": 0, "wandb": "disabled", "tree_size": None, "out": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="traces=DIR, not rollouts"):
        train(traces=None, rollouts=str(tmp_path / "log"), **training, **common)
    with pytest.raises(ConfigError, match="batch_size ≥ 2"):
        train(traces=str(collection), rollouts=None, **training | {"batch_size": 1}, **common)
