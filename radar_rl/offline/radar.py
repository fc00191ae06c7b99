"""RADAR's training (arXiv 2512.14069), as its repository has it (``eagle/train/train_radar.py``): policy gradient.

A sample is a round whose states after calls 1 … L − 1 are all at hand. The network gives their stop probabilities, an
action is drawn at each, and the first stop ends the round. The round's reward is known from what was collected, the
returns of its decisions are discounted by γ, and the loss is −log π(action) · return, averaged over batch and levels;
levels after the stop count as zero. There is no baseline, and returns are mostly positive: whatever was drawn is
reinforced, and training can settle on always continuing; the authors' grid search picks among runs that did not. Adam
with weight decay, gradients clipped to norm 1, the learning rate falls to 1e-6 along a cosine, and of all epochs the
one with the smallest loss on a fifth of the rounds is kept.

Where the paper leaves a choice the code is followed:

- Its speed counts *accepted* tokens by second, without the bonus token that every round emits besides; ``reward=radar``
  counts the same here (the environments' ``radar`` reward counts emitted ones).
- The epoch is chosen by the sampled loss, not by speed, and ends least random rather than fastest.

What differs:

- They draw accepted lengths from a distribution that verifying 8 trees a round at temperature 1 gave them. A trace has
  the outcome of every depth on the text as it went on: one draw from that distribution, or its only value in greedy
  texts.
- Their rounds are those that full-depth decoding came to; here every position of the training texts starts one.
- Their time of a round is measured less all draft calls but the first (``eagen_minus_time``); a profile names every
  part, and so charges call 1 beside the rest.
- Their 100 epochs are passes over the rounds in batches of 64; here ``steps`` and ``batch_size`` say how long: N rounds
  take 100 · 0.8 N / 64 steps to be as long. The kept epoch is one of 20.

Their grid (``configs/sweep/radar_grid.yaml``) is over α, γ, learning rate and dropout. For each they record
``speed_ratio``: the mean speed of the test rounds over that of full-depth rounds, and so does the curve here; the one
with the largest is the best by their measure. It averages speeds of rounds; throughput is what the curve's
``tokens_per_second`` says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import ConfigError
from radar_rl.offline.data import TraceData, TrainingData
from radar_rl.offline.fit import EPOCHS, Descent, Fitted, Progress, Training, every_state, one_thread
from radar_rl.offline.recurrent import RecurrentNetwork
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.policies.recurrent import LOWEST, RadarPolicy
from radar_rl.progress import track
from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.hardware import HardwareProfile

TESTED = 0.2
LEAST_RATE = 1e-6
CHUNK = 8192


def fit_radar(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train RADAR's policy; a ``Learner``. With ``reward=throughput`` it is the same method under our objective.

    Raises:
        ConfigError: the data are no trace with rounds as episodes, or show features; or training diverged.
    """
    trace_data, rows = every_state(data, settings["name"])
    _check(trace_data, settings["name"])
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    progress = Progress(settings["name"], data, training)
    rounds = Rounds(trace_data)
    shuffled = rng.permutation(rows)
    tested, learned = np.split(shuffled, [max(1, int(TESTED * len(rows)))])
    network = RecurrentNetwork(
        trace_data.spec.top_k, settings["lstm_hidden"], settings["mlp_hidden"], settings["dropout"]
    )
    optimiser = torch.optim.Adam(
        network.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    descent = Descent(optimiser, training, LEAST_RATE)
    batches = _batches(learned, training.batch_size, rng)
    kept: list[tuple[float, RadarPolicy]] = []  # the best so far at this λ
    with one_thread():
        for epoch in track(range(1, EPOCHS + 1), total=EPOCHS, label=f"training {settings['name']}"):
            returns = torch.from_numpy(return_table(trace_data, progress.rate, settings["gamma"])).float()
            losses = []
            network.train()
            for _ in range(training.per_epoch):
                losses.append(descent.step(rounds.loss(network, next(batches), returns)))
            network.eval()
            test_loss = rounds.held_back_loss(network, tested, returns)
            metrics = {"loss": float(np.mean(losses)), "test_loss": test_loss}
            if np.isfinite(test_loss):
                metrics["speed_ratio"] = rounds.speed_ratio(network, tested)
                if not kept or test_loss < kept[0][0]:
                    kept[:] = [(test_loss, network.policy(settings["name"]))]
            if progress.add(epoch, metrics, lambda: kept[0][1]):
                kept.clear()  # losses of two λ cannot be compared
    network.load_state_dict({name: torch.from_numpy(values) for name, values in kept[0][1].weights.items()})
    return Fitted(progress.policy, network, progress.curve, progress.rate, len(learned))


@dataclass(frozen=True)
class Rounds:
    """The rounds that start at the rows of a trace, and the policy gradient's figures over some of them.

    Attributes:
        data: the trace and its hardware.
    """

    data: TraceData

    def loss(self, network: RecurrentNetwork, rows: NDArray[np.int32], returns: Tensor) -> Tensor:
        """The policy gradient's loss over rounds, their actions drawn.

        Args:
            network: whose actions.
            rows: [B], where the rounds start.
            returns: of ``return_table``.
        """
        log_probs = torch.log_softmax(network(self.states(rows)), dim=-1)  # [B, L - 1, 2]
        with torch.no_grad():
            going = torch.rand(log_probs.shape[:2]) >= log_probs[..., 0].exp()  # [B, L - 1]
            stop = going.long().cumprod(dim=1).sum(dim=1)  # [B] calls before the one stopped after
            emitted, _ = self.data.outcomes.trace.stop(rows, stop.numpy() + 1)
            earned = returns[torch.from_numpy(emitted), stop]  # [B, L - 1]
        chosen = log_probs.gather(-1, going.long()[..., None]).squeeze(-1)
        return -(chosen * earned).mean()

    def held_back_loss(self, network: RecurrentNetwork, rows: NDArray[np.int32], returns: Tensor) -> float:
        """The loss over many rounds."""
        with torch.no_grad():
            total = sum(float(self.loss(network, some, returns)) * len(some) for some in _chunks(rows))
        return total / len(rows)

    def speed_ratio(self, network: RecurrentNetwork, rows: NDArray[np.int32]) -> float:
        """RADAR's figure of merit: mean accepted tokens by second of rounds, over the same at full depth.

        Theirs is estimated from ten draws of actions a round, this is the expectation.
        """
        outcomes = self.data.outcomes
        hardware, depths = outcomes.hardware, np.arange(1, outcomes.max_depth + 1)
        decided = outcomes.seconds + outcomes.decisions(depths) * hardware.decide_seconds  # [L]
        drawn = full = 0.0
        for some in _chunks(rows):
            with torch.no_grad():
                stop = torch.softmax(network(self.states(some)), dim=-1)[..., 0].double().numpy()  # [B, L - 1]
            going = np.cumprod(1.0 - stop, axis=1)
            reached = np.column_stack((np.ones(len(some)), going))  # [B, L] probability of making call ℓ
            ends = reached * np.column_stack((stop, np.ones(len(some))))
            accepted = outcomes.accepted[some]
            drawn += float((ends * accepted / decided).sum())
            full += float((accepted[:, -1] / outcomes.seconds[-1]).sum())
        return drawn / full if full else float("nan")

    def states(self, rows: NDArray[np.int32]) -> Tensor:
        """What the network reads before the last call: [B, L - 1, top_k] float32."""
        confidences = self.data.outcomes.trace.confidences[rows, :-1]
        return torch.from_numpy(np.maximum(confidences, LOWEST, dtype=np.float32))


def return_table(data: TraceData, rate: float, gamma: float) -> NDArray[np.float64]:
    """The discounted return of every decision of a round, by how the round ended.

    Args:
        data: its reward and hardware.
        rate: λ, tokens per second, for a throughput reward.
        gamma: discount by decision.

    Returns:
        [max_depth + 2, max_depth, max_depth − 1] float64: of a round that emitted e tokens and stopped after call ℓ
        (index ℓ − 1), of the decision after call j (index j − 1); 0 for j > ℓ.
    """
    outcomes = data.outcomes
    reward = replace(data.reward, rate=rate)
    going = reward.going(outcomes.hardware, outcomes.max_depth)
    return discounted(going, _stopping(reward, outcomes.hardware, outcomes.nodes), gamma)


def discounted(going: NDArray[np.float64], stopping: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Returns from rewards: [L − 1] of continues and [E, L] of stops → [E, L, L − 1], as ``return_table`` has them."""
    depth = stopping.shape[1]
    before = np.tri(depth, depth, -1, dtype=bool)  # [L, L]: calls that were continued after, by where the round stopped
    rewards = np.where(before, np.append(going, 0.0), 0.0) + stopping[:, :, None] * np.eye(depth)
    for call in range(depth - 2, -1, -1):
        rewards[..., call] += gamma * rewards[..., call + 1]
    return rewards[..., :-1]


def _stopping(reward: Reward, hardware: HardwareProfile, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """What stopping after each call earns when the round emits 0 … max_depth + 1 tokens: [max_depth + 2, max_depth]."""
    emitted = np.arange(len(nodes) + 2) - (1 if reward.kind == "radar" else 0)  # RADAR counts accepted ones
    return reward.stopping(hardware, nodes, np.broadcast_to(emitted[:, None], (len(emitted), len(nodes))))


def _check(data: TraceData, name: str) -> None:
    if data.episode != "round":
        raise ConfigError(f"algo={name} learns single rounds, as published: add episode=round")
    if data.spec.features != DEFAULT_FEATURES:
        raise ConfigError(f"algo={name} reads the confidences alone, as published: leave observation= out")


def _batches(rows: NDArray[np.int32], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int32]]:
    """Pass after pass over the rounds, shuffled each time."""
    while True:
        shuffled = rng.permutation(rows)
        yield from (shuffled[start : start + size] for start in range(0, len(rows), size))


def _chunks(rows: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
