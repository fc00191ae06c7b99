"""Learning to stop from exact returns: no exploration, no bootstrapping, no behaviour; a trace shows every outcome.

Two learners over the same network and the same returns (``returns.stopping_returns``), refreshed as the policy changes:

``fitted``: optimal stopping by backward induction. Going back from the deepest level, what continuing brings is what
the network's own later decisions bring on that very text; it regresses on how much more that is than stopping now
(least-squares Monte Carlo: Longstaff & Schwartz 2001; Tsitsiklis & Van Roy 2001), all levels at once.

``direct``: the expected return of the stochastic policy, every stopping depth weighted by the probability that the
policy stops there, is a smooth function of the weights: gradient ascent on it, the policy gradient with all actions'
exact returns in place of sampled ones (expected policy gradients: Ciosek & Whiteson, arXiv 1706.05374). It begins with
``fitted``'s regression: where stopping early or late both beat the middle, ascent alone stays on the side it starts on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from radar_rl.offline.data import TrainingData
from radar_rl.offline.encoder import StandardisedEncoder, encoder_factory
from radar_rl.offline.fit import EPOCHS, Descent, Fitted, Progress, Training, every_state, one_thread
from radar_rl.offline.returns import stopping_returns
from radar_rl.offline.walk import Walk
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.progress import track


class StoppingNetwork(nn.Module):
    """How much continuing is worth beyond stopping, from an observation; a learner says in what unit.

    Args:
        encoder: the body.
        width: numbers that the body gives.
    """

    def __init__(self, encoder: StandardisedEncoder, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, size] → [B]."""
        return self.head(self.encoder(x))[:, 0]  # type: ignore[no-any-return]

    def policy(self, spec: ObservationSpec, name: str) -> LearnedPolicy:
        """Continue where the output is positive.

        Raises:
            ArtifactError: the weights are not finite.
        """
        weight, bias = (array.detach().numpy().astype(np.float32) for array in (self.head.weight, self.head.bias))
        last = (np.concatenate([np.zeros_like(weight), weight]), np.append(np.float32(0.0), bias))
        return LearnedPolicy(name, spec, [*self.encoder.folded(), last])


Loss = Callable[[Tensor, Tensor], Tensor]

# States that observations are standardised by.
SAMPLED = 20_000


def continuation_advantage(worth: Tensor, returns: Tensor) -> Tensor:
    """What continuing brings beyond stopping now, if all later levels decide by the sign of ``worth``.

    Args:
        worth: [R, L − 1], the network's output after call 1 … L − 1.
        returns: [R, L], of stopping after call 1 … L.

    Returns:
        [R, L − 1].
    """
    later, columns = returns[:, -1], []
    for level in range(worth.shape[1] - 1, -1, -1):
        columns.append(later - returns[:, level])
        later = torch.where(worth[:, level] > 0, later, returns[:, level])
    return torch.stack(columns[::-1], dim=1)


def regression_loss(worth: Tensor, returns: Tensor) -> Tensor:
    """Mean squared error of ``worth`` [R, L − 1] against the continuation advantage under its own decisions."""
    loss: Tensor = ((worth - continuation_advantage(worth.detach(), returns)) ** 2).mean()
    return loss


def expected_return_loss(worth: Tensor, returns: Tensor) -> Tensor:
    """Minus the mean expected return [R, L] of the policy that continues with probability σ(``worth`` [R, L − 1])."""
    going = logsigmoid(worth).cumsum(dim=1)
    reached = torch.cat([torch.zeros_like(going[:, :1]), going], dim=1)  # [R, L], log-probability to make call ℓ
    stops = torch.cat([reached[:, :-1] + logsigmoid(-worth), reached[:, -1:]], dim=1).exp()
    loss: Tensor = -(stops * returns).sum(dim=1).mean()
    return loss


# By algorithm, the loss of the first epochs and of the others.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "fitted": (regression_loss, regression_loss),
    "direct": (regression_loss, expected_return_loss),
}
FIRST_EPOCHS = EPOCHS // 4


def fit_stopping(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train ``fitted`` or ``direct`` (``settings["name"]``); a ``Learner``. A batch holds all states of its rounds.

    Raises:
        ConfigError: the data are not a trace, or training diverged (a loss is not finite; names it).
    """
    name = settings["name"]
    trace_data, rows = every_state(data, name)
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    outcomes, levels = trace_data.outcomes, trace_data.outcomes.max_depth - 1
    depths: NDArray[np.integer] = np.full(len(outcomes.trace), trace_data.static.static.depth)

    def replay(policy: MemorylessPolicy) -> Walk:
        nonlocal depths
        depths, run = trace_data.follow(policy)
        return run

    progress = Progress(name, data, training, replay)
    returns = torch.from_numpy(stopping_returns(outcomes, trace_data.priced(progress.rate), trace_data.episode, depths))
    some = rng.choice(rows, size=SAMPLED)
    encoder = encoder_factory(data.source.observe(some, rng.integers(1, levels + 1, size=SAMPLED)), settings["hidden"])
    network = StoppingNetwork(encoder.create((data.source.size,)), settings["hidden"][-1])
    optimiser = torch.optim.AdamW(
        network.parameters(), settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    descent = Descent(optimiser, training)
    rounds = max(1, training.batch_size // levels)
    with one_thread():
        for epoch in track(range(1, EPOCHS + 1), total=EPOCHS, label=f"training {name}"):
            loss_of, total = LOSSES[name][epoch > FIRST_EPOCHS], 0.0
            for _ in range(training.per_epoch):
                chosen = rows[rng.integers(len(rows), size=rounds)]
                seen = data.source.observe(np.repeat(chosen, levels), np.tile(np.arange(1, levels + 1), rounds))
                worth = network(torch.from_numpy(seen)).view(rounds, levels)
                total += descent.step(loss_of(worth, returns[chosen]))
            progress.add(epoch, {"loss": total / training.per_epoch}, lambda: network.policy(data.spec, name))
            if epoch < EPOCHS:
                returns = torch.from_numpy(
                    stopping_returns(outcomes, trace_data.priced(progress.rate), trace_data.episode, depths)
                )
    return Fitted(progress.policy, network, progress.curve, progress.rate, len(rows) * levels)
