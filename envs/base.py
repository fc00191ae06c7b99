"""What the live and the replay environment share, which is everything but where the rounds come from."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, TypeVar

import gymnasium
import numpy as np

from radar_rl.envs.picture import Scene, as_image, as_text
from radar_rl.envs.problem import Earned, Hardware, Observation, Problem, action_mask
from radar_rl.errors import ConfigError, InputError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import CONTINUE
from radar_rl.rollouts.sessions import Texts, TextSession
from radar_rl.rollouts.view import TreeView
from radar_rl.speculative.state import DraftState

T = TypeVar("T")


class DraftTreeBase(gymnasium.Env[Observation, np.int64]):
    """When to stop drafting: observations, rewards, info and episodes over any source of rounds.

    Args:
        texts: where the rounds come from.
        spec: layout of the observation.
        hardware, reward, episode: see ``Problem.of``.
        render_mode: None, ``ansi`` or ``rgb_array``.

    Attributes:
        problem: what is seen and earned.
        state: the tree observed, as a policy's ``act`` takes it; None between episodes.
        session: the text being decoded.

    Raises:
        ConfigError: an unknown reward, episode, hardware or render mode.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        texts: Texts,
        spec: ObservationSpec,
        *,
        hardware: Hardware,
        reward: Earned,
        episode: str,
        render_mode: str | None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"unknown render_mode {render_mode!r}; valid: {', '.join(self.metadata['render_modes'])}")
        self.texts, self.max_depth = texts, texts.max_depth
        self.problem = Problem.of(texts, spec, hardware=hardware, reward=reward, episode=episode)
        self.observation_space, self.action_space = self.problem.observation_space, self.problem.action_space
        self.render_mode = render_mode
        self.session: TextSession | None = None
        self.state: DraftState | None = None
        self._text = -1
        self._film = _Film(self.problem.reward.kind)

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
            InputError: an unknown option, no such text, or none has a round.
        """
        wanted = wanted_text(options, len(self.texts))
        super().reset(seed=seed)
        between_rounds = self.session is not None and self.state is None and not self.session.finished
        goes_on = self.problem.episode == "round" and between_rounds and seed is None and wanted is None
        session = self.session if goes_on and self.session is not None else self._open(wanted)
        self.state = self._begin(session)
        self._emitted, self._seconds = 0, 0.0
        if self.render_mode is not None:
            self._film = _Film(self.problem.reward.kind)
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
        depth = state.depth
        if action == CONTINUE and depth < self.max_depth:
            self.state = self._made(session.draft)
            reward, seconds = self._pay_continue(depth)
            self._seconds += seconds
            if self.render_mode is not None:
                self._film.add(reward, seconds)
            return self._observe(self.state), reward, False, False, self._info(self.state, seconds=seconds)
        outcome = self._made(session.verify)
        reward, seconds = self._pay_stop(depth, outcome.emitted)
        self._seconds += seconds
        self._emitted += outcome.emitted
        if self.render_mode is not None:
            self._film.add(reward, seconds, emitted=outcome.emitted)
            self._film.verified = session.view(), state.position, session.written()
        terminated = self.problem.episode == "round" or session.finished
        # After the last round there is no tree to see: the one that was verified stays.
        seen = state if terminated else self._begin(session)
        self.state = None if terminated else seen
        info = self._info(seen, accepted=outcome.accepted, emitted=outcome.emitted, draft_calls=depth, seconds=seconds)
        if terminated:
            info["tokens_per_second"] = self._emitted / self._seconds if self._seconds > 0 else float("inf")
        return self._observe(seen), reward, terminated, False, info

    def render(self) -> Any:
        """The newest tree, and what the episode has gained and paid so far.

        After a stop it is the tree that was verified, with its accepted path; else the tree as it stands.

        Returns:
            ``ansi``: a string without escape codes; ``rgb_array``: [height, width, 3] uint8.

        Raises:
            InputError: no episode has begun.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing: the environment was made without a render_mode")
            return None
        film = self._film
        tree, position, text = film.verified or self._standing()
        scene = Scene(
            tree=tree,
            position=position,
            max_depth=self.max_depth,
            text=text,
            gained=film.gained,
            paid=film.paid,
            seconds=film.seconds,
            stops=film.stops,
            unit="reward" if self.problem.reward.kind == "radar" else "tokens",
        )
        return as_text(scene) if self.render_mode == "ansi" else as_image(scene)

    def _standing(self) -> tuple[TreeView, int, str | None]:
        """The tree as it stands, its root's position, and the text before it."""
        if self.session is None or self.state is None:
            raise InputError("no episode has begun: call reset() before render()")
        return self.session.view(), self.state.position, self.session.written()

    def _begin(self, session: TextSession) -> DraftState:
        """Begin a round."""
        return self._made(session.begin)

    def _made(self, step: Callable[[], T]) -> T:
        """Make a draft call or a verification."""
        return step()

    def _pay_continue(self, depth: int) -> tuple[float, float]:
        """Reward and seconds of the draft call just made, after ``depth`` others, and its decision."""
        payments = self.problem.payments
        return float(payments.going_reward[depth - 1]), float(payments.going_seconds[depth - 1])

    def _pay_stop(self, depth: int, emitted: int) -> tuple[float, float]:
        """Reward and seconds of the round just verified, of ``depth`` draft calls, but for its continues' seconds."""
        payments = self.problem.payments
        return float(payments.stop_reward[emitted, depth - 1]), float(payments.stop_seconds[depth - 1])

    def _open(self, wanted: int | None) -> TextSession:
        count = len(self.texts)
        first = int(self.np_random.integers(count)) if wanted is None else wanted
        for index in range(first, first + count):
            session = self.texts.open(index % count)
            if not session.finished:
                self.session, self._text = session, index % count
                return session
        raise InputError("every text ends with its first token or does not fit: there is no round to decide about")

    def _observe(self, state: DraftState) -> Observation:
        observation: Observation = self.problem.spec.observe([state])[0]
        return observation

    def _info(
        self, state: DraftState, *, accepted: int = 0, emitted: int = 0, draft_calls: int = 0, seconds: float = 0.0
    ) -> dict[str, Any]:
        """``position`` and ``action_mask`` are of the tree observed, the rest of the step just made."""
        return {
            "action_mask": action_mask(state.depth, self.max_depth),
            "accepted": accepted,
            "emitted": emitted,
            "draft_calls": draft_calls,
            "seconds": seconds,
            "position": state.position,
            "text": self._text,
        }


def checked_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The options of a reset, none being an empty mapping.

    Raises:
        InputError: they are no mapping, or one is unknown.
    """
    if not isinstance(options, Mapping | None):
        raise InputError(f"options: expected a mapping, got {options!r}")
    unknown = sorted(set(options or {}) - {"text"})
    if unknown:
        raise InputError(f"options: unknown {', '.join(unknown)}; valid: text")
    return options or {}


def wanted_text(options: Mapping[str, Any] | None, count: int) -> int | None:
    """The text that ``reset(options=…)`` asks for, None if none.

    Raises:
        InputError: an unknown option, or no such text.
    """
    wanted = checked_options(options).get("text")
    if wanted is None:
        return None
    if not isinstance(wanted, Integral) or not 0 <= int(wanted) < count:
        raise InputError(f"options: expected a text in 0 … {count - 1}, got {wanted!r}")
    return int(wanted)


class _Film:
    """What an episode has brought so far, for pictures.

    Args:
        kind: of the reward: tokens are gained unless it is ``radar``, whose stops earn speed.

    Attributes:
        verified: tree, position and text of the step just made, if it was a stop.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.gained, self.paid, self.seconds, self.stops = [0.0], [0.0], [0.0], [False]
        self.verified: tuple[TreeView, int, str | None] | None = None

    def add(self, reward: float, seconds: float, emitted: int | None = None) -> None:
        """A step; ``emitted`` tokens if it stopped. What is not gained of its reward was paid."""
        gain = 0.0 if emitted is None else reward if self.kind == "radar" else float(emitted)
        self.gained.append(self.gained[-1] + gain)
        self.paid.append(self.paid[-1] + gain - reward)
        self.seconds.append(self.seconds[-1] + seconds)
        self.stops.append(emitted is not None)
        self.verified = None
