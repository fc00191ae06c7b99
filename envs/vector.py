"""Thousands of replayed texts in step: the replay environment as arrays, without a Python loop over sequences."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from radar_rl.envs.base import checked_options, wanted_text
from radar_rl.envs.problem import Earned, Hardware, Observed, Problem, action_mask
from radar_rl.envs.replay import replayed
from radar_rl.errors import ConfigError, InputError, check_whole
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.history import after_round, no_rounds

Seeds = int | Sequence[int | None] | NDArray[np.integer] | None
Rows = NDArray[np.int64]


class DraftTreeReplayVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """N replayed texts side by side, a decision for each a step: what ``gymnasium.make_vec`` makes.

    The problem (actions, observations, rewards, episodes, info) is ``DraftTreeReplayEnv``'s, and the numbers are those
    of ``gymnasium.vector.SyncVectorEnv`` over N of them, bit for bit under the same seeds: every sub-environment has a
    generator of its own. An episode that ended begins anew at the next step, which ignores its action (next-step
    autoreset, as Gymnasium 1.0.0 defines it); ``reset_rows`` begins it in between.

    ```python
    import gymnasium
    envs = gymnasium.make_vec("radar_rl.envs:Radar/DraftTreeReplay-v0", num_envs=4096, traces="FOLDER")
    observations, infos = envs.reset(seed=0)  # [4096, 81] float32
    observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    ```

    Args:
        num_envs: N.
        traces: a trace, which is shared, not copied; or a folder; or None, as for ``DraftTreeReplayEnv``.
        hardware, reward, episode, observation, max_depth, top_k, tree_size: as for ``DraftTreeReplayEnv``.
        render_mode: None: N texts have no picture.
        max_episode_steps: steps after which an episode is truncated, as Gymnasium's ``TimeLimit`` does it; None: never.
        copy: whether observations are returned as copies; if not, they are one array that each step changes.

    Attributes:
        problem: what is seen and earned.
        texts: where the rounds come from.

    Raises:
        InputError: ``num_envs`` or ``max_episode_steps`` is no whole number ≥ 1.
        ConfigError: a render mode, or an unknown reward, episode, hardware or
            feature.
        TraceError: the trace was collected otherwise, or without a feature.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        num_envs: int,
        traces: Trace | str | Path | None = None,
        *,
        hardware: Hardware = None,
        reward: Earned = "throughput",
        episode: str = "sequence",
        observation: Observed = DEFAULT_FEATURES,
        max_depth: int | None = None,
        top_k: int | None = None,
        tree_size: int | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        copy: bool = True,
    ) -> None:
        check_whole("num_envs", num_envs, 1)
        if max_episode_steps is not None:
            check_whole("max_episode_steps", max_episode_steps, 1)
        if render_mode is not None:
            raise ConfigError(
                f"render_mode: expected None, got {render_mode!r}; for pictures use gymnasium.make, or "
                'gymnasium.make_vec(…, vectorization_mode="sync")'
            )
        self.texts, spec = replayed(traces, observation, max_depth=max_depth, top_k=top_k, tree_size=tree_size)
        self.problem = Problem.of(self.texts, spec, hardware=hardware, reward=reward, episode=episode)
        self.num_envs, self.copy, self._most_steps = int(num_envs), copy, max_episode_steps
        self.single_observation_space = self.problem.observation_space
        self.single_action_space = self.problem.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        starts, count = self.texts.starts, len(self.texts)
        with_rounds = np.flatnonzero(starts[1:] > starts[:-1])
        following = np.searchsorted(with_rounds, np.arange(count))
        self._opened = with_rounds[following % len(with_rounds)]  # [texts], each or the next one that has a round
        features = self.texts.features
        per_call = {part.name for part in spec.parts if part.per_call}
        self._round_features = {name: features[name] for name in features if name not in per_call}
        self._call_features = {name: features[name] for name in features if name in per_call}
        self._history = no_rounds(self.num_envs)  # of the texts, whether or not it is shown
        # [emitted, ℓ − 1] and [stops, ℓ − 1]: a stop emits a token at least, so none emitted is a continue.
        payments = self.problem.payments
        self._rewards = payments.stop_reward.copy()
        self._rewards[0] = np.append(payments.going_reward, np.nan)
        self._prices = np.stack([np.append(payments.going_seconds, np.nan), payments.stop_seconds])

        self._generators: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds = [-1] * self.num_envs
        self._observations = np.empty((self.num_envs, spec.size), dtype=np.float32)
        self._text, self._row, self._end, self._depth, self._emitted, self._steps = (
            np.zeros(self.num_envs, dtype=np.int64) for _ in range(6)
        )
        self._seconds = np.zeros(self.num_envs)
        self._over = np.zeros(self.num_envs, dtype=np.bool_)  # the episode ended, and none has begun since
        self._left = np.zeros(self.num_envs, dtype=np.bool_)  # it was truncated: its text is left where it stands
        self._ready = False

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each sub-environment, as of ``SyncVectorEnv``."""
        return tuple(self._generator(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What each sub-environment's generator was seeded with."""
        return tuple(self._seeds[i] for i in range(len(self.np_random)))

    @property
    def action_mask(self) -> NDArray[np.int8]:
        """Of the trees observed now, which actions have an effect of their own: [N, 2] int8, stop and continue."""
        return action_mask(self._depth, self.texts.max_depth)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode everywhere, as ``DraftTreeReplayEnv.reset`` does.

        Args:
            seed: i of the first sub-environment, i + 1 of the second and so on; or N of them, None where the generator
                stays as it is.
            options: ``{"text": i}`` takes text i everywhere; an array [N] of whole numbers takes text i[n] in the n-th.

        Returns:
            Observations [N, size] float32, and infos.

        Raises:
            InputError: N other seeds, an unknown option, no such text, or NaN in the trace.
        """
        seeds = self._seed_each(seed)
        wanted = self._wanted_texts(options)
        seeded = {i: seeding.np_random(number) for i, number in enumerate(seeds) if number is not None}
        for i, (generator, number) in seeded.items():
            self._generators[i], self._seeds[i] = generator, number
        opens = ~self._over | self._left | (self._row >= self._end)
        opens[list(seeded)] = True
        if wanted is not None:
            opens[:] = True
        self._open(np.flatnonzero(opens), wanted)
        everywhere = np.arange(self.num_envs)
        self._begin(everywhere)
        self._over[:] = False
        self._see(everywhere, everywhere)
        nothing = np.zeros(self.num_envs, dtype=np.int64)
        infos = self._infos(nothing, nothing, nothing, np.zeros(self.num_envs), self.texts.trace.position[self._row])
        return self._seen(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Continue (1) or stop (0) everywhere, but where an episode had ended: a new one begins there.

        Args:
            actions: [N] of an integer type.

        Returns:
            Observations [N, size] float32, rewards [N] float64, terminations [N] bool, truncations [N] bool, and
            infos: by key an array [N, …], and under ``_key`` which entries [N] bool are filled.

        Raises:
            InputError: actions of another shape, type or value, no ``reset`` before, or NaN in the trace; the latter
                leaves nothing to go on from but ``reset``.
        """
        chosen = self._checked(actions)
        begins = np.flatnonzero(self._over)
        self._begin_next(begins)

        trace, row, depth = self.texts.trace, self._row, self._depth
        continues = (chosen == CONTINUE) & (depth < self.texts.max_depth) & ~self._over
        stops = ~(continues | self._over)
        accepted = np.where(stops, trace.accepted[row, depth - 1], 0).astype(np.int64)
        emitted = np.where(stops, np.minimum(accepted + 1, self._end - row), 0)
        draft_calls = np.where(stops, depth, 0)
        rewards, seconds = self._rewards[emitted, depth - 1], self._prices[stops.view(np.int8), depth - 1]
        rewards[begins], seconds[begins] = 0.0, 0.0
        self._emitted += emitted
        self._seconds += seconds

        self._row = row + emitted
        if self.texts.shows_history:
            self._history[stops] = after_round(self._history[stops], accepted[stops])
        terminated = stops & (self._row >= self._end) if self.problem.episode == "sequence" else stops
        goes_on = stops & ~terminated  # with the text's next round
        # After the last round there is no tree to see: the one that was verified stays.
        position = trace.position[np.where(terminated, row, self._row)]
        self._depth = np.where(goes_on, 1, depth + continues)
        self._see(np.flatnonzero(goes_on | self._over), np.flatnonzero(~terminated))
        self._steps += ~self._over
        truncated = np.zeros_like(terminated) if self._most_steps is None else self._steps >= self._most_steps
        self._over, self._left = terminated | truncated, truncated & ~terminated

        infos = self._infos(accepted, emitted, draft_calls, seconds, position)
        if terminated.any():
            speed = np.where(terminated, np.inf, 0.0)
            np.divide(self._emitted, self._seconds, out=speed, where=terminated & (self._seconds > 0))
            infos["tokens_per_second"], infos["_tokens_per_second"] = speed, terminated.copy()
        return self._seen(), rewards, terminated, truncated, infos

    def reset_rows(self, rows: Rows) -> NDArray[np.float32]:
        """Begin new episodes now where one has just ended, instead of at the next step.

        For libraries whose environments reset in the step that ended the episode: the episodes begin as the next
        ``step`` would have begun them, and ``action_mask`` is then of their trees; that step takes their actions.

        Args:
            rows: [B] int64, numbers of sub-environments whose episodes have ended, each once.

        Returns:
            Their first observations: [B, size] float32.

        Raises:
            InputError: a number is out of range or there twice, its episode has not ended, or NaN in the trace.
        """
        self._check_ready()
        rows = np.asarray(rows)
        rows = rows.astype(np.int64) if rows.size == 0 else rows
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InputError(f"rows: expected [B] of an integer type, got {list(rows.shape)} {rows.dtype}")
        ended = np.zeros(self.num_envs, dtype=np.bool_)
        inside = rows[(rows >= 0) & (rows < self.num_envs)]
        ended[inside] = self._over[inside]
        if np.count_nonzero(ended) < len(rows):
            raise InputError(f"rows: expected sub-environments whose episodes have ended, each once, got {rows}")
        self._begin_next(rows)
        self._over[rows] = False
        self._see(rows, rows)
        first: NDArray[np.float32] = self._observations[rows]
        return first

    def _checked(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The actions, if the space holds them; those that are ignored may be anything."""
        self._check_ready()
        try:
            chosen = np.asarray(actions)
        except ValueError as error:
            raise InputError(f"actions: expected [{self.num_envs}] of an integer type, got {actions!r}") from error
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise InputError(
                f"actions: expected [{self.num_envs}] of an integer type, got {list(chosen.shape)} {chosen.dtype}"
            )
        wrong = np.flatnonzero((chosen != STOP) & (chosen != CONTINUE) & ~self._over)
        if len(wrong):
            raise InputError(
                f"actions: expected 0 (stop) or 1 (continue), got {chosen[wrong[0]]} for sub-environment {wrong[0]}"
            )
        return chosen

    def _check_ready(self) -> None:
        if not self._ready:
            raise InputError("no episode has begun: call reset() before step()")

    def _seed_each(self, seed: Seeds) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, Integral | Sequence | np.ndarray) or isinstance(seed, str):
            raise InputError(f"seed: expected a whole number or {self.num_envs} of them, got {seed!r}")
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        seeds = [int(number) if isinstance(number, Integral) else number for number in seed]
        if len(seeds) != self.num_envs:
            raise InputError(f"seed: expected a number or {self.num_envs} of them, got {len(seeds)}")
        return seeds

    def _wanted_texts(self, options: dict[str, Any] | None) -> Rows | None:
        """The text that each sub-environment is to take, [N]; None: they draw."""
        wanted = checked_options(options).get("text")
        if wanted is None or isinstance(wanted, Integral):
            text = wanted_text(options, len(self.texts))
            return None if text is None else np.full(self.num_envs, text)
        texts = np.asarray(wanted)
        if texts.shape != (self.num_envs,) or texts.dtype.kind not in "iu":
            raise InputError(
                f"options: expected a text or [{self.num_envs}] of an integer type, "
                f"got {list(texts.shape)} {texts.dtype}"
            )
        if not ((texts >= 0) & (texts < len(self.texts))).all():
            raise InputError(f"options: expected texts in 0 … {len(self.texts) - 1}, got {texts}")
        return texts.astype(np.int64)

    def _generator(self, i: int) -> np.random.Generator:
        """The generator of a sub-environment, from the system's entropy if it was given no seed."""
        generator = self._generators[i]
        if generator is None:
            generator, self._seeds[i] = seeding.np_random()
            self._generators[i] = generator
        return generator

    def _open(self, rows: Rows, wanted: Rows | None = None) -> None:
        """Take the ``wanted`` texts [N], or draw them, for some sub-environments."""
        count = len(self.texts)
        if wanted is None:
            drawn = np.array([self._generator(i).integers(count) for i in rows.tolist()], dtype=np.int64)
        else:
            drawn = wanted[rows]
        text = self._opened[drawn]
        self._text[rows], self._row[rows], self._end[rows] = text, self.texts.starts[text], self.texts.starts[text + 1]
        self._history[rows] = no_rounds()

    def _begin_next(self, rows: Rows) -> None:
        """Begin an episode where one has ended: with the text's next round, or with another text."""
        self._open(rows[self._left[rows] | (self._row[rows] >= self._end[rows])])
        self._begin(rows)

    def _begin(self, rows: Rows) -> None:
        self._depth[rows], self._emitted[rows], self._steps[rows], self._seconds[rows] = 1, 0, 0, 0.0

    def _see(self, begun: Rows, drafted: Rows) -> None:
        """Write into the observations that rounds have begun in some rows, and draft calls been made in others."""
        spec, at, call = self.problem.spec, self._row[drafted], self._depth[drafted] - 1
        self._ready = False  # an error on the way leaves rows half written
        rounds = {name: values[self._row[begun]] for name, values in self._round_features.items()}
        if self.texts.shows_history:
            rounds["history"] = self._history[begun]
        spec.begin_rows(self._observations, begun, rounds)
        calls = {name: values[at, call] for name, values in self._call_features.items()}
        spec.add_calls(self._observations, drafted, call + 1, self.texts.trace.confidences[at, call], calls)
        self._ready = True

    def _seen(self) -> NDArray[np.float32]:
        return self._observations.copy() if self.copy else self._observations

    def _infos(
        self, accepted: Rows, emitted: Rows, draft_calls: Rows, seconds: NDArray[np.float64], position: NDArray[Any]
    ) -> dict[str, Any]:
        """What ``DraftTreeReplayEnv`` tells of each, and that it does so of all."""
        told: dict[str, NDArray[Any]] = {
            "action_mask": self.action_mask,
            "accepted": accepted,
            "emitted": emitted,
            "draft_calls": draft_calls,
            "seconds": seconds,
            "position": position.astype(np.int64),
            "text": self._text.copy(),
        }
        infos: dict[str, Any] = {}
        for key, values in told.items():
            infos[key], infos[f"_{key}"] = values, np.ones(self.num_envs, dtype=np.bool_)
        return infos
