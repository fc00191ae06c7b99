"""The maths of discrete implicit Q-learning (Kostrikov et al., arXiv 2110.06169), on d3rlpy's building blocks.

Laid out as d3rlpy lays out its own algorithms: this file holds losses and updates, ``discrete_iql`` config and wiring.
"""

import dataclasses

import torch
from torch import Tensor, nn

from radar_rl.offline.backend import d3rlpy


@dataclasses.dataclass(frozen=True)
class DiscreteIQLModules(d3rlpy.torch_utility.Modules):  # type: ignore[misc]  # d3rlpy ships no types
    """Networks and optimisers: categorical policy, twin Q and its slow copy, value function."""

    policy: nn.Module
    q_funcs: nn.ModuleList
    targ_q_funcs: nn.ModuleList
    value_func: nn.Module
    actor_optim: "d3rlpy.optimizers.OptimizerWrapper"
    critic_optim: "d3rlpy.optimizers.OptimizerWrapper"


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile − 1(u < 0)| · u² (paper, eq. 5); at 0.5 half the mean squared error."""
    weight = torch.where(difference < 0.0, 1.0 - expectile, expectile)
    return (weight * difference**2).mean()


class DiscreteIQLImpl(
    d3rlpy.algos.qlearning.torch.utility.DiscreteQFunctionMixin,  # type: ignore[misc]  # d3rlpy ships no types
    d3rlpy.algos.qlearning.base.QLearningAlgoImplBase,  # type: ignore[misc]
):
    """Losses and updates.

    Args:
        observation_shape: shape of an observation.
        action_size: number of actions.
        modules: networks and optimisers.
        q_func_forwarder, targ_q_func_forwarder: d3rlpy's ensembles over the twin Q networks.
        gamma: discount.
        tau: step of the slow copy towards the twin Q networks.
        expectile: of the value function; 0.5 evaluates the behaviour policy, towards 1 its best actions.
        weight_temp: inverse temperature β of the advantage weights.
        max_weight: their upper bound.
        device: torch device.
    """

    def __init__(
        self,
        observation_shape: "d3rlpy.types.Shape",
        action_size: int,
        modules: DiscreteIQLModules,
        q_func_forwarder: "d3rlpy.models.torch.DiscreteEnsembleQFunctionForwarder",
        targ_q_func_forwarder: "d3rlpy.models.torch.DiscreteEnsembleQFunctionForwarder",
        gamma: float,
        tau: float,
        expectile: float,
        weight_temp: float,
        max_weight: float,
        device: str,
    ) -> None:
        super().__init__(observation_shape=observation_shape, action_size=action_size, modules=modules, device=device)
        self._q_func_forwarder = q_func_forwarder
        self._targ_q_func_forwarder = targ_q_func_forwarder
        self._gamma, self._tau, self._expectile = gamma, tau, expectile
        self._weight_temp, self._max_weight = weight_temp, max_weight
        d3rlpy.torch_utility.hard_sync(modules.targ_q_funcs, modules.q_funcs)

    def inner_update(self, batch: "d3rlpy.TorchMiniBatch", grad_step: int) -> dict[str, float]:
        """One step of twin Q and value function, one of the policy, one of the slow copy."""
        actions = batch.actions.long().reshape(-1, 1)  # [B, 1]
        values = self._modules.value_func(batch.observations)  # [B, 1]
        with torch.no_grad():
            twin = self._targ_q_func_forwarder.compute_target(batch.observations, reduction="min")  # [B, actions]
            taken = twin.gather(1, actions)  # [B, 1]

        value_loss = expectile_loss(taken - values, self._expectile)
        q_loss = self._q_loss(batch, actions)
        self._modules.critic_optim.zero_grad()
        (q_loss + value_loss).backward()
        self._modules.critic_optim.step()

        actor_loss = self._actor_loss(batch.observations, actions, (taken - values).detach())
        self._modules.actor_optim.zero_grad()
        actor_loss.backward()
        self._modules.actor_optim.step()

        d3rlpy.torch_utility.soft_sync(self._modules.targ_q_funcs, self._modules.q_funcs, self._tau)
        return {"q_loss": q_loss.item(), "v_loss": value_loss.item(), "actor_loss": actor_loss.item()}

    def _q_loss(self, batch: "d3rlpy.TorchMiniBatch", actions: Tensor) -> Tensor:
        """Squared error of each Q network against r + γ V(s'), summed (paper, eq. 6).

        Squared, not d3rlpy's Huber loss for discrete actions: rewards are skewed, and Q has to be their mean.
        """
        with torch.no_grad():
            ahead = self._modules.value_func(batch.next_observations) * (1.0 - batch.terminals)
            target = batch.rewards + self._gamma**batch.intervals * ahead  # [B, 1]
        estimates = self._q_func_forwarder.compute_expected_q(batch.observations, "none")  # [critics, B, actions]
        taken = estimates.gather(2, actions.expand(len(estimates), -1, -1))  # [critics, B, 1]
        loss: Tensor = ((taken - target) ** 2).mean(dim=(1, 2)).sum()
        return loss

    def _actor_loss(self, observations: Tensor, actions: Tensor, advantage: Tensor) -> Tensor:
        """Cross-entropy of the taken actions, weighted by exp(β · advantage) (paper, eq. 7)."""
        weight = (self._weight_temp * advantage).exp().clamp(max=self._max_weight)
        log_probs: Tensor = torch.log_softmax(self._modules.policy(observations).logits, dim=1)
        taken = log_probs.gather(1, actions)
        loss: Tensor = -(weight * taken).mean()
        return loss

    def inner_predict_best_action(self, x: Tensor) -> Tensor:
        """The policy's most probable action: [B] int64."""
        return self._modules.policy(x).logits.argmax(dim=1)  # type: ignore[no-any-return]

    def inner_sample_action(self, x: Tensor) -> Tensor:
        """An action drawn from the policy: [B] int64."""
        return self._modules.policy(x).sample()  # type: ignore[no-any-return]

    @property
    def policy(self) -> nn.Module:
        """The categorical policy."""
        return self._modules.policy  # type: ignore[no-any-return]

    @property
    def policy_optim(self) -> torch.optim.Optimizer:
        """Its optimiser."""
        return self._modules.actor_optim.optim  # type: ignore[no-any-return]

    @property
    def q_function(self) -> nn.ModuleList:
        """The twin Q networks."""
        return self._modules.q_funcs  # type: ignore[no-any-return]

    @property
    def q_function_optim(self) -> torch.optim.Optimizer:
        """The optimiser of Q networks and value function."""
        return self._modules.critic_optim.optim  # type: ignore[no-any-return]
