"""What the live and the replay environment share, which is everything but where the rounds come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import CONTINUE
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import Texts, TextSession
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.hardware import HardwareProfile
from radar_rl.speculative.state import DraftState

EPISODES = ("sequence", "round")

Observation = NDArray[np.float32]


def observation_space(spec: ObservationSpec) -> spaces.Box:
    """The box that observations of a layout lie in."""
    bounds = {"confidences": (spec.floor, 0.0), "depth": (0.0, 1.0)}
    sizes = [ObservationSpec(spec.max_depth, spec.top_k, (name,), spec.floor).size for name in spec.features]
    low = np.repeat([bounds[name][0] for name in spec.features], sizes).astype(np.float32)
    high = np.repeat([bounds[name][1] for name in spec.features], sizes).astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


class DraftTreeBase(gymnasium.Env[Observation, np.int64]):
    """When to stop drafting: observations, rewards, info and episodes over any source of rounds.

    Args:
        texts: where the rounds come from.
        hardware: seconds of the parts of a round, or a NAME of ``configs/hardware``, or a FILE that
            ``radar-rl profile`` wrote.
        reward: ``throughput``, ``linear`` or ``radar`` with default parameters, a mapping as ``configs/reward`` holds
            it, or a ``Reward``. The default rate of ``throughput`` is 1 / ``hardware.autoregressive_seconds``.
        episode: ``sequence`` or ``round``.
        spec: layout of the observation; None: confidences and depth.

    Attributes:
        observation_spec: the observation's layout.
        payments: what each step earns and costs.
        state: the tree observed, as a policy's ``act`` takes it; None between episodes.
        session: the text being decoded.

    Raises:
        ConfigError: an unknown reward, episode or feature, or a spec of another tree shape.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        texts: Texts,
        *,
        hardware: HardwareProfile | str | Path,
        reward: Reward | str | Mapping[str, Any],
        episode: str,
        spec: ObservationSpec | None,
    ) -> None:
        if episode not in EPISODES:
            raise ConfigError(f"unknown episode {episode!r}; valid: {', '.join(EPISODES)}")
        self.texts, self.episode = texts, episode
        self.max_depth, self.top_k, self.tree_size = texts.max_depth, texts.top_k, texts.tree_size
        self.observation_spec = ObservationSpec(self.max_depth, self.top_k) if spec is None else spec
        if (self.observation_spec.max_depth, self.observation_spec.top_k) != (self.max_depth, self.top_k):
            raise ConfigError(
                f"observation spec: expected max_depth {self.max_depth} and top_k {self.top_k}, "
                f"got {self.observation_spec.max_depth} and {self.observation_spec.top_k}"
            )
        self.hardware = _profile(hardware, texts)
        self.reward = _reward(reward, self.hardware)
        self.payments = Payments.of(
            self.hardware, self.reward, max_depth=self.max_depth, top_k=self.top_k, tree_size=self.tree_size
        )
        self.observation_space = observation_space(self.observation_spec)
        self.action_space = spaces.Discrete(2)
        self.session: TextSession | None = None
        self.state: DraftState | None = None
        self._text = -1
        self._emitted, self._seconds = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        With ``episode="round"`` and neither seed nor options, a text whose last round was stopped goes on with its
        next round; otherwise a text is drawn.

        Args:
            seed: makes the draws repeatable.
            options: ``{"text": i}`` takes text i instead of drawing one. A text that its first token ended, or that
                does not fit the context, is passed over for the next one; ``info["text"]`` says which it is.

        Raises:
            InputError: no such text, or none has a round.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("text")
        between_rounds = self.session is not None and self.state is None and not self.session.finished
        goes_on = self.episode == "round" and between_rounds and seed is None and wanted is None
        session = self.session if goes_on and self.session is not None else self._open(wanted)
        self.state = session.begin()
        self._emitted, self._seconds = 0, 0.0
        return self._observe(self.state), self._info(self.state)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Continue (1: one more draft call) or stop (0: verify). At ``max_depth`` both stop.

        Raises:
            InputError: the action is not 0 or 1, or the episode is over or has not begun.
        """
        session, state = self.session, self.state
        if session is None or state is None:
            raise InputError("the episode is over or has not begun: call reset() before step()")
        if not self.action_space.contains(action):
            raise InputError(f"action: expected 0 (stop) or 1 (continue), got {action!r}")
        depth, payments = state.depth, self.payments
        if action == CONTINUE and depth < self.max_depth:
            self.state = session.draft()
            seconds = float(payments.going_seconds[depth - 1])
            self._seconds += seconds
            info = self._info(self.state, seconds=seconds)
            return self._observe(self.state), float(payments.going_reward[depth - 1]), False, False, info
        outcome = session.verify()
        seconds = float(payments.stop_seconds[depth - 1])
        self._seconds += seconds
        self._emitted += outcome.emitted
        terminated = self.episode == "round" or session.finished
        # After the last round there is no tree to see: the one that was verified stays.
        seen = state if terminated else session.begin()
        self.state = None if terminated else seen
        info = self._info(seen, accepted=outcome.accepted, emitted=outcome.emitted, draft_calls=depth, seconds=seconds)
        if terminated:
            info["tokens_per_second"] = self._emitted / self._seconds if self._seconds > 0 else float("inf")
        reward = float(payments.stop_reward[outcome.emitted, depth - 1])
        return self._observe(seen), reward, terminated, False, info

    def _open(self, wanted: int | None) -> TextSession:
        count = len(self.texts)
        if wanted is not None and not 0 <= wanted < count:
            raise InputError(f"options: expected a text in 0 … {count - 1}, got {wanted!r}")
        first = int(self.np_random.integers(count)) if wanted is None else int(wanted)
        for index in range(first, first + count):
            session = self.texts.open(index % count)
            if not session.finished:
                self.session, self._text = session, index % count
                return session
        raise InputError("every text ends with its first token or does not fit: there is no round to decide about")

    def _observe(self, state: DraftState) -> Observation:
        observation: Observation = self.observation_spec.build(state.confidences[None], np.array([state.depth]))[0]
        return observation

    def _info(
        self, state: DraftState, *, accepted: int = 0, emitted: int = 0, draft_calls: int = 0, seconds: float = 0.0
    ) -> dict[str, Any]:
        """``position`` and ``action_mask`` are of the tree observed, the rest of the step just made."""
        mask = np.array([1, state.depth < self.max_depth], dtype=np.int8)
        return {
            "action_mask": mask,
            "accepted": accepted,
            "emitted": emitted,
            "draft_calls": draft_calls,
            "seconds": seconds,
            "position": state.position,
            "text": self._text,
        }


def _profile(hardware: HardwareProfile | str | Path, texts: Texts) -> HardwareProfile:
    if isinstance(hardware, HardwareProfile):
        return hardware
    return resolve_hardware(
        str(hardware), Path(), {}, max_depth=texts.max_depth, top_k=texts.top_k, tree_size=texts.tree_size
    )


def _reward(reward: Reward | str | Mapping[str, Any], hardware: HardwareProfile) -> Reward:
    if isinstance(reward, Reward):
        return reward
    alone = hardware.autoregressive_seconds
    rate = 1 / alone if alone else None
    return Reward.from_mapping({"kind": reward} if isinstance(reward, str) else reward, rate)
