"""The algorithms by name: what trains each and the behaviour that suits it; its settings are those of configs/algo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radar_rl.configs import load
from radar_rl.errors import ConfigError
from radar_rl.offline.acceptance import fit_acceptance
from radar_rl.offline.behaviour import Behaviour
from radar_rl.offline.data import TrainingData
from radar_rl.offline.fit import Fitted, Learner, Training
from radar_rl.offline.qlearning import fit_qlearning
from radar_rl.offline.radar import fit_radar
from radar_rl.offline.ranges import check_ranges
from radar_rl.offline.stopping import fit_stopping


@dataclass(frozen=True)
class Algorithm:
    """What a name stands for.

    Attributes:
        learner: trains it.
        behaviour: who should have acted in the data that are made from a trace.
        asked_late: whether its policy can be asked from a later draft call than the first on.
        reads_all: whether its policy reads the confidences of every call, whatever ``newest`` says.
    """

    learner: Learner
    behaviour: Behaviour
    asked_late: bool = True
    reads_all: bool = False


def _fit_ppo(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    from radar_rl.offline.ppo import fit_ppo  # here, because it needs the extra rl

    return fit_ppo(data, settings, training)


# A trace shows both actions at every state, so Q-learning gets both: CQL's conservative term has little to correct,
# BCQ's mask binds nowhere (it counts with rollouts and other behaviours), and double Q-learning needs neither. IQL's
# policy regresses on the actions in the data: with both equally frequent its preference is the sign of the advantage,
# with a behaviour that rarely stops early it would be mostly that behaviour's. Cloning needs someone worth cloning.
ALGORITHMS: dict[str, Algorithm] = {
    "cql": Algorithm(fit_qlearning, "full"),
    "iql": Algorithm(fit_qlearning, "full"),
    "bc": Algorithm(fit_qlearning, "oracle"),
    "bcq": Algorithm(fit_qlearning, "full"),
    "ddqn": Algorithm(fit_qlearning, "full"),
    "fitted": Algorithm(fit_stopping, "full"),
    "direct": Algorithm(fit_stopping, "full"),
    "radar": Algorithm(fit_radar, "full", asked_late=False, reads_all=True),
    "acceptance": Algorithm(fit_acceptance, "full"),
    "ppo": Algorithm(_fit_ppo, "full"),  # it acts itself: what others did is not looked at
}


def settings_of(algo: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an algorithm, defaults filled in.

    Args:
        algo: ``name`` and any of its settings.

    Returns:
        Every setting, ``name`` included.

    Raises:
        ConfigError: the name or a setting is unknown, or a setting out of range.
    """
    name = algo.get("name")
    if name not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {name!r}; valid: {', '.join(ALGORITHMS)}")
    defaults = {key: value for key, value in load("algo", name).items() if key != "name"}
    own = {key: value for key, value in algo.items() if key != "name"}
    if unknown := sorted(set(own) - set(defaults)):
        raise ConfigError(f"algo={name}: unknown settings {unknown}; valid: {', '.join(defaults)}")
    check_ranges(name, own)
    return {"name": name, **defaults, **own}


def fit_policy(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train one policy; see ``Learner``."""
    return ALGORITHMS[settings["name"]].learner(data, settings, training)
