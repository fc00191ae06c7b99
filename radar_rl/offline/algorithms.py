"""The algorithms by name: from a config group to a d3rlpy algorithm, and from a trained one to an exportable policy."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from radar_rl.errors import ConfigError
from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.behaviour import Behaviour
from radar_rl.offline.discrete_iql import DiscreteIQLConfig
from radar_rl.offline.encoder import StandardisedEncoderFactory
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec

# Tokens are multiplied by this before learning. d3rlpy's discrete Q-functions minimise a Huber loss, quadratic only up
# to an error of 1; rewards spread over several tokens, skewed, and beyond 1 it would learn something like their median.
REWARD_SCALE = 0.1

# γ = 1: with texts as episodes the return is emitted − λ · seconds, undiscounted (DESIGN §3.4).
GAMMA = 1.0


def _cql(
    encoder: Any, optimiser: Any, batch_size: int, learning_rate: float, alpha: float, target_update_interval: int
) -> Any:
    return d3rlpy.algos.DiscreteCQLConfig(
        learning_rate=learning_rate,
        optim_factory=optimiser(),
        encoder_factory=encoder,
        batch_size=batch_size,
        gamma=GAMMA,
        alpha=alpha,
        target_update_interval=target_update_interval,
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(REWARD_SCALE),
    )


def _iql(
    encoder: Any,
    optimiser: Any,
    batch_size: int,
    learning_rate: float,
    expectile: float,
    weight_temp: float,
    max_weight: float,
    n_critics: int,
    tau: float,
) -> Any:
    return DiscreteIQLConfig(
        actor_learning_rate=learning_rate,
        critic_learning_rate=learning_rate,
        actor_optim_factory=optimiser(),
        critic_optim_factory=optimiser(),
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
        batch_size=batch_size,
        gamma=GAMMA,
        expectile=expectile,
        # Advantages arrive scaled; the temperature is meant per token.
        weight_temp=weight_temp / REWARD_SCALE,
        max_weight=max_weight,
        n_critics=n_critics,
        tau=tau,
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(REWARD_SCALE),
    )


def _bc(encoder: Any, optimiser: Any, batch_size: int, learning_rate: float, beta: float) -> Any:
    return d3rlpy.algos.DiscreteBCConfig(
        learning_rate=learning_rate,
        optim_factory=optimiser(),
        encoder_factory=encoder,
        batch_size=batch_size,
        gamma=GAMMA,
        beta=beta,
    )


BUILDERS: dict[str, Callable[..., Any]] = {"cql": _cql, "iql": _iql, "bc": _bc}

# The settings of each algorithm, as configs/algo has them.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cql": {"alpha": 0.1, "learning_rate": 1e-3, "hidden": [64, 64], "target_update_interval": 20},
    "iql": {
        "expectile": 0.95,
        "weight_temp": 30.0,
        "max_weight": 100.0,
        "learning_rate": 3e-3,
        "hidden": [64, 64],
        "n_critics": 2,
        "tau": 0.02,
    },
    "bc": {"learning_rate": 1e-3, "hidden": [64, 64], "beta": 0.0},
}

# A trace shows both actions at every state, so Q-learning gets both. IQL's policy regresses on the actions in the data:
# with both equally frequent its preference is the sign of the advantage, with a behaviour that rarely stops early it
# would be mostly that behaviour's. Cloning needs someone worth cloning.
BEHAVIOUR_OF: dict[str, Behaviour] = {"cql": "full", "iql": "full", "bc": "oracle"}


def settings_of(algo: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an algorithm, defaults filled in.

    Args:
        algo: ``name`` and any of its settings.

    Returns:
        Every setting, ``name`` included.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    name = algo.get("name")
    if name not in DEFAULTS:
        raise ConfigError(f"unknown algorithm {name!r}; valid: {', '.join(DEFAULTS)}")
    hidden, interval = algo.get("hidden", [1]), algo.get("target_update_interval", 1)
    if not hidden or min(hidden) < 1 or interval < 1:
        raise ConfigError(
            f"algo={name}: expected hidden sizes and target_update_interval ≥ 1, got {hidden}, {interval}"
        )
    unknown = sorted(set(algo) - set(DEFAULTS[name]) - {"name"})
    if unknown:
        raise ConfigError(f"algo={name}: unknown settings {unknown}; valid: {', '.join(DEFAULTS[name])}")
    return {"name": name, **DEFAULTS[name], **{key: value for key, value in algo.items() if key != "name"}}


def make_algorithm(
    settings: Mapping[str, Any], encoder: StandardisedEncoderFactory, batch_size: int, steps: int
) -> Any:
    """A d3rlpy algorithm, not yet built.

    Args:
        settings: what ``settings_of`` returned.
        encoder: the body of every network.
        batch_size: transitions per update.
        steps: updates to come; the learning rate falls to zero over them along a cosine, so that what is exported is
            not the last swing of the optimiser.
    """

    def optimiser() -> Any:
        schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
        return d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0, lr_scheduler_factory=schedule)

    own = {key: value for key, value in settings.items() if key not in ("name", "hidden")}
    return BUILDERS[settings["name"]](encoder, optimiser, batch_size, **own).create(device=False)


def learned_policy(algorithm: Any, spec: ObservationSpec, name: str) -> LearnedPolicy:
    """The greedy policy of a trained algorithm, standardisation folded into the first layer.

    Args:
        algorithm: a built d3rlpy algorithm of ``make_algorithm``.
        spec: the observation it was trained on.
        name: how tables call the policy.

    Raises:
        ArtifactError: training diverged: the weights are not finite.
    """
    network = _greedy_network(algorithm)
    head = network._fc
    last = (
        head.weight.detach().cpu().numpy().astype(np.float32),
        head.bias.detach().cpu().numpy().astype(np.float32),
    )
    return LearnedPolicy(name, spec, [*network._encoder.folded(), last])


def _greedy_network(algorithm: Any) -> Any:
    """The network whose larger output is the greedy action: Q for CQL, the logits of the policy otherwise."""
    modules = algorithm.impl.modules
    if isinstance(algorithm, d3rlpy.algos.DiscreteCQL):
        return modules.q_funcs[0]
    return modules.imitator if isinstance(algorithm, d3rlpy.algos.DiscreteBC) else modules.policy
