"""Online learning on replayed texts: stable-baselines3's PPO, as Learning to Draft trains its depth policy.

Learning to Draft (ICLR 2026) runs PPO against a target that decodes; a replay gives the same rounds in microseconds, so
this is its row among the offline algorithms, on the same prompts, observations and reward.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radar_rl.envs import DraftTreeReplayVectorEnv
from radar_rl.envs.stable_baselines import DraftTreeVecEnv, stable_baselines3
from radar_rl.errors import ConfigError
from radar_rl.offline.data import TraceData, TrainingData
from radar_rl.offline.fit import EPOCHS, Fitted, Progress, Training, one_thread
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.progress import track
from radar_rl.rollouts.reward import Reward

ROLLOUT = 16384
"""Transitions collected between updates, of all texts together."""


@dataclass(frozen=True)
class Replayed:
    """What is played.

    Attributes:
        outcomes: of the texts, and the machine.
        spec: layout of the observations.
        reward: what an action earns; its rate is replaced by λ.
        episode: ``sequence`` or ``round``.
    """

    outcomes: Outcomes
    spec: ObservationSpec
    reward: Reward
    episode: str

    def environment(self, num_envs: int, rate: float) -> DraftTreeVecEnv:
        """``num_envs`` texts side by side, rewards priced at ``rate`` tokens per second."""
        native = DraftTreeReplayVectorEnv(
            num_envs,
            self.outcomes.trace,
            hardware=self.outcomes.hardware,
            reward=replace(self.reward, rate=rate),
            episode=self.episode,
            observation=self.spec,
        )
        return DraftTreeVecEnv(native)


class PPOLearner:
    """PPO with γ = 1 (DESIGN §3.4), observations and rewards normalised by running statistics.

    Args:
        problem: what is played.
        rate: λ, tokens per second; near the throughput it keeps returns near zero.
        settings: as configs/algo/ppo.yaml has them.
        seed: of the network, the texts drawn and the actions.
        batch_size: transitions per update, about.
        rollout: transitions between updates, of all texts together.

    Attributes:
        envs: the normalised environments.
        model: the algorithm.
        decay: what the learning rate is multiplied by.
    """

    def __init__(
        self,
        problem: Replayed,
        rate: float,
        settings: Mapping[str, Any],
        *,
        seed: int,
        batch_size: int,
        rollout: int = ROLLOUT,
    ) -> None:
        self.problem, self.spec, self.decay = problem, problem.spec, 1.0
        num_envs = max(1, min(settings["num_envs"], rollout // 8))
        steps = -(-rollout // num_envs)
        # Nothing is clipped: the statistics become part of the first layer, see `greedy`.
        self.envs = stable_baselines3.common.vec_env.VecNormalize(
            problem.environment(num_envs, rate), clip_obs=np.inf, gamma=1.0
        )
        played = steps * num_envs
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")  # the last one is a few short
            self.model = stable_baselines3.PPO(
                "MlpPolicy",
                self.envs,
                learning_rate=lambda _: settings["learning_rate"] * self.decay,
                n_steps=steps,
                batch_size=-(-played // max(1, round(played / batch_size))),
                n_epochs=settings["n_epochs"],
                gamma=1.0,
                gae_lambda=settings["gae_lambda"],
                clip_range=settings["clip_range"],
                ent_coef=settings["entropy"],
                policy_kwargs={
                    "net_arch": {"pi": list(settings["hidden"]), "vf": list(settings["critic_hidden"])},
                    "activation_fn": torch.nn.ReLU,
                },
                seed=seed,
                device="cpu",
            )

    def learn(self, transitions: int) -> dict[str, float]:
        """Play and update for about so many transitions; returns the losses of the last update."""
        never = transitions + 1  # to clear the losses, which it would do before there are any
        self.model.learn(transitions, log_interval=never, reset_num_timesteps=False)
        said = self.model.logger.name_to_value
        return {
            name: float(said[f"train/{key}"])
            for name, key in {"policy_loss": "policy_gradient_loss", "value_loss": "value_loss"}.items()
        }

    def reprice(self, rate: float) -> None:
        """Go on with rewards priced at another λ; the statistics of the observations stay."""
        seen = self.envs.obs_rms
        self.envs = stable_baselines3.common.vec_env.VecNormalize(
            self.problem.environment(self.envs.num_envs, rate), clip_obs=np.inf, gamma=1.0
        )
        self.envs.obs_rms = seen
        self.model.set_env(self.envs)

    def predict(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """The more probable action: [N, size] → [N]."""
        actions, _ = self.model.predict(self.envs.normalize_obs(observations), deterministic=True)
        return np.asarray(actions)

    def greedy(self, name: str = "PPO") -> LearnedPolicy:
        """What it has learned, deterministically: the more probable action, normalisation and all as one network."""
        network = self.model.policy
        linear = [*network.mlp_extractor.policy_net, network.action_net]
        layers = [
            (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in linear
            if isinstance(layer, torch.nn.Linear)
        ]
        seen = self.envs.obs_rms
        assert isinstance(seen, stable_baselines3.common.running_mean_std.RunningMeanStd), "observations are a Box"
        weight, bias = layers[0]
        scaled = weight / np.sqrt(seen.var + self.envs.epsilon)
        layers[0] = (scaled.astype(np.float32), (bias - scaled @ seen.mean).astype(np.float32))
        return LearnedPolicy(name, self.spec, layers)


def fit_ppo(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train PPO on the texts of a trace; a ``Learner``.

    ``steps`` and ``batch_size`` mean what they do for the others, updates and examples of each: PPO makes ``n_epochs``
    updates of every transition, so it plays steps · batch_size / n_epochs of them. The learning rate falls to zero
    along a cosine.

    Raises:
        ConfigError: the data are no trace, or training diverged (a loss is not finite; names it).
    """
    if not isinstance(data, TraceData):
        raise ConfigError("algo=ppo plays texts itself: give traces=DIR, not rollouts")
    if training.batch_size < 2:
        raise ConfigError(f"algo=ppo compares advantages within a batch: batch_size ≥ 2, got {training.batch_size}")
    progress = Progress(settings["name"], data, training)
    problem = Replayed(data.outcomes, data.spec, data.reward, data.episode)
    per_epoch = -(-training.per_epoch * training.batch_size // settings["n_epochs"])
    rollout = max(2, -(-per_epoch // max(1, round(per_epoch / ROLLOUT))))
    with one_thread():
        learner = PPOLearner(
            problem, progress.rate, settings, seed=training.seed, batch_size=training.batch_size, rollout=rollout
        )
        for epoch in track(range(1, EPOCHS + 1), total=EPOCHS, label=f"training {settings['name']}"):
            learner.decay = 0.5 * (1.0 + float(np.cos(np.pi * (epoch - 1) / EPOCHS)))
            losses = learner.learn(per_epoch)
            if progress.add(epoch, losses, lambda: learner.greedy(settings["name"])):
                learner.reprice(progress.rate)
    return Fitted(progress.policy, learner, progress.curve, progress.rate, learner.model.num_timesteps)
