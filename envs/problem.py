"""The decision problem that all environments pose: what is seen, what is earned, when an episode ends."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from radar_rl.configs import choices
from radar_rl.errors import ConfigError
from radar_rl.policies.observation import OBSERVABLE, ObservationSpec, check_names
from radar_rl.policies.protocol import CONTINUE
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.reward import KINDS, Reward
from radar_rl.rollouts.sessions import Texts
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.hardware import HardwareProfile

EPISODES = ("sequence", "round")

Observation = NDArray[np.float32]
Observed = ObservationSpec | Sequence[str] | Mapping[str, Any]  # a layout, its `to_json`, or the names of its features
Hardware = HardwareProfile | str | Path | Mapping[str, Any] | None  # see Problem.of
Earned = Reward | str | Mapping[str, Any]  # likewise


@dataclass(frozen=True)
class Problem:
    """One machine, one reward, one layout, one kind of episode.

    Attributes:
        spec: layout of the observation.
        hardware: seconds of the parts of a round.
        reward: what a step earns.
        payments: both, tabulated for the tree's shape.
        episode: ``sequence`` or ``round``.
    """

    spec: ObservationSpec
    hardware: HardwareProfile
    reward: Reward
    payments: Payments
    episode: str

    @classmethod
    def of(
        cls,
        texts: Texts,
        spec: ObservationSpec,
        *,
        hardware: Hardware,
        reward: Earned,
        episode: str,
    ) -> "Problem":
        """The problem over some texts.

        Args:
            texts: where the rounds come from.
            spec: layout of the observation, of the texts' ``max_depth`` and ``top_k``.
            hardware: seconds of the parts of a round, or a NAME of ``configs/hardware``, or a FILE that
                ``radar-rl profile`` wrote, or its contents; None is ``pocket_cpu``, for the embedded pair's texts only.
            reward: ``throughput``, ``linear`` or ``radar`` with default parameters, a mapping as ``configs/reward``
                holds it, or a ``Reward``. The default rate of ``throughput`` is 1 / ``autoregressive_seconds``.
            episode: ``sequence`` or ``round``.

        Raises:
            ConfigError: an unknown reward, episode or hardware, or none for another pair than the embedded one.
            InputError: a file or contents that are no profile.
        """
        if episode not in EPISODES:
            raise ConfigError(f"unknown episode {episode!r}; valid: {', '.join(EPISODES)}")
        shape: dict[str, Any] = {"max_depth": texts.max_depth, "top_k": texts.top_k, "tree_size": texts.tree_size}
        if not isinstance(reward, Reward | str | Mapping):
            raise ConfigError(f"reward: expected one of {', '.join(KINDS)}, a mapping or a Reward, got {reward!r}")
        if hardware is None:
            if not re.fullmatch(r"pocket@\w+", texts.target):
                raise ConfigError(
                    f"hardware: the default is of the embedded pair, these texts are of {texts.target}; give a file "
                    f"that radar-rl profile wrote, or one of {', '.join(choices('hardware'))}"
                )
            hardware = "pocket_cpu"
        if isinstance(hardware, Mapping):
            hardware = HardwareProfile.from_mapping(dict(hardware), "hardware")
        if not isinstance(hardware, HardwareProfile):
            hardware = resolve_hardware(str(hardware), Path(), {}, **shape)
        if not isinstance(reward, Reward):
            alone = hardware.autoregressive_seconds
            values = {"kind": reward} if isinstance(reward, str) else reward
            reward = Reward.from_mapping(values, 1 / alone if alone else None)
        payments = Payments.of(hardware, reward, **shape, widen_first_level=texts.widen_first_level)
        return cls(spec, hardware, reward, payments, episode)

    @property
    def observation_space(self) -> spaces.Box:
        """The box that observations lie in."""
        return observation_box(self.spec)

    @property
    def action_space(self) -> spaces.Discrete:
        """Stop and continue."""
        return spaces.Discrete(2)


def observation_box(spec: ObservationSpec) -> spaces.Box:
    """The box that observations of a layout lie in."""
    return spaces.Box(spec.spread("low"), spec.spread("high"), dtype=np.float32)


def observation_spec(
    observation: Observed, *, max_depth: int, top_k: int, feature_dim: int = 0, feature_seed: int = 0
) -> ObservationSpec:
    """The layout that an environment's argument asks for.

    Args:
        observation: a layout, what its ``to_json`` gives, or the names of its features.
        max_depth, top_k: shape of the trees.
        feature_dim, feature_seed: of projected features, where only names are given.

    Raises:
        ConfigError: an unknown feature (lists the valid ones), or a layout of other trees.
    """
    if isinstance(observation, Mapping):
        observation = ObservationSpec.from_json(dict(observation))
    if not isinstance(observation, ObservationSpec):
        names = feature_names(observation)
        return ObservationSpec(max_depth, top_k, names, feature_dim=feature_dim, feature_seed=feature_seed)
    if (observation.max_depth, observation.top_k) != (max_depth, top_k):
        raise ConfigError(
            f"observation: expected max_depth {max_depth} and top_k {top_k}, "
            f"got {observation.max_depth} and {observation.top_k}"
        )
    return observation


def feature_names(observation: Observed) -> tuple[str, ...]:
    """The features that an environment's argument names, in order.

    Raises:
        ConfigError: it is no layout and names nothing, or a name is unknown (lists the valid ones).
    """
    if isinstance(observation, str):
        observation = (observation,)
    if isinstance(observation, Mapping):
        observation = ObservationSpec.from_json(dict(observation))
    names: Any = observation.features if isinstance(observation, ObservationSpec) else observation
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"observation: expected names among {', '.join(OBSERVABLE)}, or an ObservationSpec; got {observation!r}"
        )
    check_names(names)
    return tuple(names)


def action_mask(depth: ArrayLike, max_depth: int) -> NDArray[np.int8]:
    """Which actions have an effect of their own after ``depth`` [...] draft calls: [..., 2] int8, stop and continue."""
    mask = np.ones((*np.shape(depth), 2), dtype=np.int8)
    mask[..., CONTINUE] = np.less(depth, max_depth)
    return mask
