"""Discrete implicit Q-learning as a d3rlpy algorithm: config and wiring. d3rlpy's own IQL is for continuous actions.

``DiscreteIQLConfig(...).create()`` gives an algorithm with everything d3rlpy's own have: ``fit``, ``predict``,
``predict_value``, ``save``/``d3rlpy.load_learnable``, ``save_model``/``load_model``, fitted Q evaluation.
"""

import dataclasses
from typing import Any

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.discrete_iql_impl import DiscreteIQLImpl, DiscreteIQLModules

_builders = d3rlpy.models.builders
_encoder_field = d3rlpy.models.encoders.make_encoder_field
_optimizer_field = d3rlpy.optimizers.optimizers.make_optimizer_field


@dataclasses.dataclass()
class DiscreteIQLConfig(d3rlpy.base.LearnableConfig):  # type: ignore[misc]  # d3rlpy ships no types
    """Config of implicit Q-learning for discrete actions (Kostrikov et al., arXiv 2110.06169).

    The value function is the expectile of Q over the actions in the data, so no action outside them is ever queried;
    Q regresses on r + γ V(s'); the policy is a categorical one, trained by advantage-weighted regression.

    Attributes:
        actor_learning_rate: of the policy.
        critic_learning_rate: of twin Q and value function.
        actor_optim_factory, critic_optim_factory: d3rlpy optimiser factories.
        actor_encoder_factory, critic_encoder_factory, value_encoder_factory: network bodies.
        batch_size: transitions in a mini-batch.
        gamma: discount.
        tau: step of the slow copy towards the twin Q networks.
        n_critics: Q networks; their minimum is used.
        expectile: of the value function, in [0.5, 1).
        weight_temp: inverse temperature β of the advantage weights.
        max_weight: their upper bound.
    """

    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    # d3rlpy's own way to declare a serialisable factory: each call makes a dataclass field.
    actor_optim_factory: Any = _optimizer_field()  # noqa: RUF009
    critic_optim_factory: Any = _optimizer_field()  # noqa: RUF009
    actor_encoder_factory: Any = _encoder_field()  # noqa: RUF009
    critic_encoder_factory: Any = _encoder_field()  # noqa: RUF009
    value_encoder_factory: Any = _encoder_field()  # noqa: RUF009
    batch_size: int = 256
    gamma: float = 0.99
    tau: float = 0.005
    n_critics: int = 2
    expectile: float = 0.7
    weight_temp: float = 3.0
    max_weight: float = 100.0

    def create(self, device: Any = False, enable_ddp: bool = False) -> "DiscreteIQL":
        """The algorithm.

        Args:
            device: as d3rlpy takes it (False: CPU, True or a number: a CUDA device, or a torch device string).
            enable_ddp: wrap the networks for data-parallel training.
        """
        return DiscreteIQL(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """Name in d3rlpy's registry."""
        return "radar_discrete_iql"


class DiscreteIQL(d3rlpy.algos.qlearning.base.QLearningAlgoBase):  # type: ignore[misc]  # d3rlpy ships no types
    """Implicit Q-learning for discrete actions; make one with ``DiscreteIQLConfig(...).create()``."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Build networks and optimisers for the shapes of the data."""
        config = self._config
        where = {"device": self._device, "enable_ddp": self._enable_ddp}
        policy = _builders.create_categorical_policy(
            observation_shape, action_size, config.actor_encoder_factory, **where
        )
        mean_q = d3rlpy.models.q_functions.MeanQFunctionFactory()
        q_funcs, q_func_forwarder = _builders.create_discrete_q_function(
            observation_shape,
            action_size,
            config.critic_encoder_factory,
            mean_q,
            n_ensembles=config.n_critics,
            **where,
        )
        targ_q_funcs, targ_q_func_forwarder = _builders.create_discrete_q_function(
            observation_shape,
            action_size,
            config.critic_encoder_factory,
            mean_q,
            n_ensembles=config.n_critics,
            **where,
        )
        value_func = _builders.create_value_function(observation_shape, config.value_encoder_factory, **where)
        actor_optim = config.actor_optim_factory.create(
            policy.named_modules(), lr=config.actor_learning_rate, compiled=self.compiled
        )
        critic_optim = config.critic_optim_factory.create(
            [*q_funcs.named_modules(), *value_func.named_modules()],
            lr=config.critic_learning_rate,
            compiled=self.compiled,
        )
        self._impl = DiscreteIQLImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=DiscreteIQLModules(
                policy=policy,
                q_funcs=q_funcs,
                targ_q_funcs=targ_q_funcs,
                value_func=value_func,
                actor_optim=actor_optim,
                critic_optim=critic_optim,
            ),
            q_func_forwarder=q_func_forwarder,
            targ_q_func_forwarder=targ_q_func_forwarder,
            gamma=config.gamma,
            tau=config.tau,
            expectile=config.expectile,
            weight_temp=config.weight_temp,
            max_weight=config.max_weight,
            device=self._device,
        )

    def get_action_type(self) -> Any:
        """Discrete."""
        return d3rlpy.ActionSpace.DISCRETE


d3rlpy.base.register_learnable(DiscreteIQLConfig)
