"""A replay buffer for d3rlpy whose batches are gathered, not looped over: index arrays in, observations on demand."""

from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.transitions import Transitions, TransitionSource
from radar_rl.policies.observation import ObservationSpec
from radar_rl.speculative.state import FeatureValues

ACTIONS = 2
AHEAD = 8


class ObservationSource(Protocol):
    """Where the observations of states (row, depth) come from."""

    @property
    def size(self) -> int:
        """Numbers in an observation."""

    def observe(self, rows: NDArray[np.integer], depths: NDArray[np.integer]) -> NDArray[np.float32]:
        """Observations of states: [B], [B] → [B, size] float32."""


class TraceObservations:
    """Observations built from a trace's confidences through the one ``ObservationSpec``.

    Args:
        spec: the layout.
        confidences: [N, max_depth, top_k] float16.
        features: by name, [N, …]; at least those that the layout looks at.
    """

    def __init__(
        self, spec: ObservationSpec, confidences: NDArray[np.float16], features: FeatureValues | None = None
    ) -> None:
        self.spec, self.confidences = spec, confidences
        self.features = {name: (features or {})[name] for name in spec.looks_at}

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        return self.spec.size

    def observe(self, rows: NDArray[np.integer], depths: NDArray[np.integer]) -> NDArray[np.float32]:
        """Observations of states: [B], [B] → [B, size] float32."""
        taken = {name: values.take(rows, axis=0) for name, values in self.features.items()}
        return self.spec.build(self.confidences.take(rows, axis=0), depths, taken)  # faster than indexing


class TransitionBuffer(d3rlpy.dataset.ReplayBufferBase):  # type: ignore[misc]  # d3rlpy ships no types
    """Transitions as a d3rlpy replay buffer for Q-learning algorithms: ``algo.fit(buffer, …)``.

    Read-only, without episodes: what needs whole trajectories (decision transformers, ``MDPDataset`` tools) is refused
    by name. Batches are drawn with replacement, uniformly or by the transitions' weights.

    Args:
        source: where observations come from.
        transitions: what to sample from.
        seed: of the draws.
        bootstraps: whether who learns looks at the next observations; for one who does not, none are made, and in their
            place stand the observations themselves.
    """

    def __init__(
        self, source: ObservationSource, transitions: TransitionSource, seed: int, bootstraps: bool = True
    ) -> None:
        self.source, self.bootstraps = source, bootstraps
        self._rng = np.random.default_rng(seed)
        self.replace(transitions)

    def replace(self, transitions: TransitionSource) -> None:
        """Sample from other transitions from now on; a new λ changes every reward."""
        self.transitions = transitions
        self._ahead: list[Transitions] = []
        weight = transitions.weight
        self._cumulative = None if weight is None else weight.astype(np.float64)
        if self._cumulative is not None:
            np.cumsum(self._cumulative, out=self._cumulative)  # in place: with dtype= it would hold a second copy

    def _draw(self, count: int) -> NDArray[np.int64]:
        if self._cumulative is None:
            return self._rng.integers(len(self.transitions), size=count)
        drawn = np.searchsorted(self._cumulative, self._rng.random(count) * self._cumulative[-1], side="right")
        return np.asarray(np.minimum(drawn, len(self.transitions) - 1), dtype=np.int64)

    def _next(self, count: int) -> Transitions:
        """The next ``count`` transitions; made for ``AHEAD`` batches at once, which NumPy does for little more."""
        if not self._ahead or len(self._ahead[-1]) != count:
            drawn = self.transitions.take(self._draw(AHEAD * count))
            self._ahead = [drawn.take(slice(start, start + count)) for start in range(0, len(drawn), count)][::-1]
        return self._ahead.pop()

    def sample_transition_batch(self, batch_size: int) -> "d3rlpy.dataset.TransitionMiniBatch":
        """A mini-batch: observations [B, size] and actions, rewards, terminals, intervals [B, 1], all float32."""
        drawn = self._next(batch_size)
        rows, depths = drawn.row, drawn.depth
        if self.bootstraps:
            # After the last state any row does, the first here: its value is multiplied by zero.
            rows, depths = np.append(rows, np.maximum(drawn.next_row, 0)), np.append(depths, drawn.next_depth)
        seen = self.source.observe(rows, depths)  # both states at once
        return d3rlpy.dataset.TransitionMiniBatch(
            observations=seen[:batch_size],
            actions=drawn.action[:, None].astype(np.float32),
            rewards=drawn.reward[:, None],
            next_observations=seen[-batch_size:],
            next_actions=np.zeros((batch_size, 1), dtype=np.float32),
            terminals=drawn.terminal[:, None].astype(np.float32),
            intervals=np.ones((batch_size, 1), dtype=np.float32),
            transitions=[],
        )

    def sample_transition(self) -> "d3rlpy.dataset.Transition":
        """One transition; d3rlpy reads the observation's shape from it."""
        batch = self.sample_transition_batch(1)
        return d3rlpy.dataset.Transition(
            observation=batch.observations[0],
            action=batch.actions[0].astype(np.int64),
            reward=batch.rewards[0],
            next_observation=batch.next_observations[0],
            next_action=batch.next_actions[0].astype(np.int64),
            terminal=float(batch.terminals[0, 0]),
            interval=1,
            rewards_to_go=batch.rewards,
        )

    @property
    def dataset_info(self) -> "d3rlpy.dataset.DatasetInfo":
        """Shapes and types; two discrete actions, whether or not both occur in the data."""
        signature = d3rlpy.dataset.Signature
        return d3rlpy.dataset.DatasetInfo(
            observation_signature=signature(dtype=[np.dtype(np.float32)], shape=[(self.source.size,)]),
            action_signature=signature(dtype=[np.dtype(np.int64)], shape=[(1,)]),
            reward_signature=signature(dtype=[np.dtype(np.float32)], shape=[(1,)]),
            action_space=d3rlpy.ActionSpace.DISCRETE,
            action_size=ACTIONS,
        )

    @property
    def transition_count(self) -> int:
        """Transitions held."""
        return len(self.transitions)

    def size(self) -> int:
        """Episodes held: none, transitions stand alone."""
        return 0

    @property
    def episodes(self) -> Sequence[Any]:
        """No episodes: transitions stand alone."""
        return []

    @property
    def buffer(self) -> NoReturn:
        """Refused: see the class."""
        _refuse("an underlying episode buffer")

    @property
    def transition_picker(self) -> NoReturn:
        """Refused: see the class."""
        _refuse("a transition picker (scalers that fit themselves on episodes)")

    @property
    def trajectory_slicer(self) -> NoReturn:
        """Refused: see the class."""
        _refuse("a trajectory slicer")

    def sample_trajectory(self, length: int) -> NoReturn:
        """Refused: see the class."""
        _refuse("trajectories")

    def sample_trajectory_batch(self, batch_size: int, length: int) -> NoReturn:
        """Refused: see the class."""
        _refuse("trajectories")

    def append(self, observation: Any, action: Any, reward: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse("appending")

    def append_episode(self, episode: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse("appending")

    def clip_episode(self, terminated: bool) -> NoReturn:
        """Refused: see the class."""
        _refuse("appending")

    def dump(self, f: BinaryIO) -> NoReturn:
        """Refused: see the class."""
        _refuse("dumping (the trace is the file)")

    @classmethod
    def from_episode_generator(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse("episode generators")

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: see the class."""
        _refuse("loading (the trace is the file)")


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(f"TransitionBuffer holds read-only transitions made from a trace: no {what}")
