"""SpecDec++'s acceptance head (Huang, Guo & Wang 2024, arXiv 2405.19715), carried over to draft trees.

There a head on the draft model predicts for each drafted token the probability p_i that it is accepted if those before
it are; drafting stops where the probability of a rejection so far, 1 − ∏ p_i, exceeds a threshold h. It is trained with
binary cross-entropy in which rejections weigh more (``rejection_weight``): accepted tokens are the majority.

On a tree, level ℓ is accepted when one of its nodes is, and with it a whole path of ℓ: "level ℓ accepted" is already
the product. So one network predicts P(accepted ≥ ℓ) from the observation after call ℓ, and drafting stops where
1 − P > h. Theirs sees the draft model's last hidden state; this one what ``observation=`` shows.

h is tuned after every epoch: of a grid, the one with the highest throughput over the training texts, by walks that
decide after every call. Two things are left out. Where the observation shows accepted history, these walks read that of
the policy as the epoch before left it (at first, of the tuned static depth), not what their own h would make of it. And
from which call the policy is asked is tuned afterwards, h staying as it is. Because 1 − sigmoid(x) > h is
x < logit(1 − h), the policy is a ``LearnedPolicy`` with the outputs [logit(1 − h), x].
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radar_rl.offline.data import TraceData, TrainingData
from radar_rl.offline.encoder import StandardisedEncoder, encoder_factory
from radar_rl.offline.fit import EPOCHS, Descent, Fitted, Progress, Training, every_state, one_thread
from radar_rl.offline.walk import walk
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.progress import track

# Probabilities of a rejection, 1 − P, above which drafting stops.
THRESHOLDS = tuple(round(float(value), 3) for value in np.r_[0.02, 0.05, np.arange(0.1, 0.95, 0.05), 0.95, 0.98])
SAMPLED = 20_000
CHUNK = 16_384


class AcceptanceHead(nn.Module):
    """The logit of P(accepted ≥ ℓ) from an observation after call ℓ.

    Args:
        encoder: standardises and has the hidden layers.
        width: of the last hidden layer.
    """

    def __init__(self, encoder: StandardisedEncoder, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 1)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, size] → [B]."""
        return torch.as_tensor(self.head(self.encoder(observations))).squeeze(-1)

    def policy(self, data: TraceData, threshold: float, name: str) -> LearnedPolicy:
        """Stop where the probability of a rejection exceeds ``threshold``.

        Raises:
            ArtifactError: training diverged: the weights are not finite.
        """
        weight, bias = (values.detach().numpy() for values in (self.head.weight, self.head.bias))
        last = (
            np.vstack((np.zeros_like(weight), weight)).astype(np.float32),
            np.array([_least_logit(threshold), bias[0]], dtype=np.float32),
        )
        return LearnedPolicy(name, data.spec, [*self.encoder.folded(), last])


def fit_acceptance(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train an acceptance head and tune its threshold; a ``Learner``. Reward, λ and episode are of no account to it.

    Raises:
        ConfigError: the data are no trace, or training diverged.
    """
    trace_data, rows = every_state(data, settings["name"])
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    progress = Progress(settings["name"], data, training, lambda policy: trace_data.follow(policy)[1])
    states = States(trace_data, rows, rng)
    factory = encoder_factory(states.draw(min(SAMPLED, len(states)))[0], settings["hidden"])
    network = AcceptanceHead(factory.create((trace_data.spec.size,)), settings["hidden"][-1])
    descent = Descent(torch.optim.Adam(network.parameters(), lr=settings["learning_rate"]), training)
    with one_thread():
        for epoch in track(range(1, EPOCHS + 1), total=EPOCHS, label=f"training {settings['name']}"):
            losses = []
            for _ in range(training.per_epoch):
                observations, accepted = states.draw(training.batch_size)
                label = torch.from_numpy(accepted).float()
                weight = label + (1.0 - label) * settings["rejection_weight"]
                loss = nn.functional.binary_cross_entropy_with_logits(
                    network(torch.from_numpy(observations)), label, weight
                )
                losses.append(descent.step(loss))
            loss_now = float(np.mean(losses))
            threshold = tuned_threshold(network, trace_data) if np.isfinite(loss_now) else THRESHOLDS[-1]
            made = partial(network.policy, trace_data, threshold, settings["name"])
            progress.add(epoch, {"loss": loss_now, "threshold": threshold}, made)
    return Fitted(progress.policy, network, progress.curve, progress.rate, len(states))


class States:
    """The states (row, ℓ) of a trace, 1 ≤ ℓ < max_depth, and whether level ℓ was accepted.

    Args:
        data: the trace.
        rows: whose states.
        rng: of the draws.
    """

    def __init__(self, data: TraceData, rows: NDArray[np.int32], rng: np.random.Generator) -> None:
        self.data, self.rows, self._rng = data, rows, rng

    def __len__(self) -> int:
        return len(self.rows) * (self.data.spec.max_depth - 1)

    def draw(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Observations [count, size] of states drawn uniformly, and whether their newest level was accepted [count]."""
        row = self.rows[self._rng.integers(len(self.rows), size=count)]
        depth = self._rng.integers(1, self.data.spec.max_depth, size=count)
        return self.data.source.observe(row, depth), self.data.outcomes.accepted[row, depth - 1] >= depth


def tuned_threshold(network: AcceptanceHead, data: TraceData) -> float:
    """The threshold with the highest throughput over the texts, by walks; of equally fast ones the smallest."""
    logits = _all_logits(network, data)
    outcomes = data.outcomes

    def speed(threshold: float) -> float:
        stops = np.column_stack((logits <= _least_logit(threshold), np.ones(len(logits), dtype=np.bool_)))
        return walk(outcomes, stops.argmax(axis=1) + 1, pays_decisions=True).tokens_per_second

    return THRESHOLDS[int(np.argmax([speed(threshold) for threshold in THRESHOLDS]))]


def _all_logits(network: AcceptanceHead, data: TraceData) -> NDArray[np.float32]:
    """The network's logits after call 1 … L − 1 at every row: [N, L − 1]."""
    count, calls = len(data.outcomes.trace), data.spec.max_depth - 1
    logits = np.empty(count * calls, dtype=np.float32)
    for start in range(0, len(logits), CHUNK):
        row, call = np.divmod(np.arange(start, min(start + CHUNK, len(logits))), calls)
        with torch.no_grad():
            observed = torch.from_numpy(data.source.observe(row, call + 1))
            logits[start : start + CHUNK] = network(observed).numpy()
    return logits.reshape(count, calls)


def _least_logit(threshold: float) -> float:
    """Drafting goes on above it: logit(1 − threshold)."""
    return float(np.log1p(-threshold) - np.log(threshold))
