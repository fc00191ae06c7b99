"""Training data from logged rollouts: what one policy did, step by step, repriced for any machine and reward."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.offline.behaviour import DecisionTable
from radar_rl.offline.transitions import Episode, Transitions, check_episode
from radar_rl.policies.observation import OBSERVATION_FLOOR, ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP, Policy
from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.hardware import HardwareProfile


class LoggedObservations:
    """Observations as they were logged; a row is a step.

    Args:
        table: [T, size] float32.
    """

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        return int(self.table.shape[1])

    def observe(self, rows: NDArray[np.integer], depths: NDArray[np.integer]) -> NDArray[np.float32]:
        """Observations of steps: [B], [B] → [B, size] float32; the depth is the step's own."""
        return np.asarray(self.table[rows])


@dataclass(frozen=True)
class RolloutData:
    """Training data made from rollouts.

    Attributes:
        steps: the logged steps, in order, as ``radar_rl.rollouts.load_rollouts`` gives them.
        hardware: the machine to price them for.
        nodes: [max_depth] int64, nodes verified when stopping after call ℓ.
        reward: what an action earns; its rate is replaced by λ.
        episode: ``sequence`` or ``round``.
        spec: layout of the observations.
        source: the observations.
        training: [T] bool, the steps of the prompts to train on.
        chosen: [T] bool, those of them to learn from; the others are only looked ahead to.
    """

    steps: pl.DataFrame
    hardware: HardwareProfile
    nodes: NDArray[np.int64]
    reward: Reward
    episode: Episode
    spec: ObservationSpec
    source: LoggedObservations
    training: NDArray[np.bool_]
    chosen: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        steps: pl.DataFrame,
        hardware: HardwareProfile,
        nodes: NDArray[np.int64],
        reward: Reward,
        episode: Episode,
        spec: ObservationSpec,
        train: NDArray[np.bool_],
        newest: int | None = None,
    ) -> "RolloutData":
        """Training data of logged steps.

        Args:
            spec: of the logged observations.
            newest: of so many newest draft calls the policy is to see numbers; None: of all that were logged.
            train: [T] bool, whether a step's prompt is one to train on; censored steps are left out besides.

        Raises:
            ConfigError: ``episode`` is unknown, or not so many newest calls were logged.
            TraceError: the observations have another layout than ``spec``, or no step is left.
        """
        check_episode(episode)
        table = np.ascontiguousarray(steps["observation"].to_numpy(), dtype=np.float32)
        if table.ndim != 2 or table.shape[1] != spec.size:
            raise TraceError(f"rollouts: expected observations of {spec.size} numbers, got {list(table.shape[1:])}")
        if newest is not None:
            spec, table = spec.narrowed(table, steps["depth"].to_numpy(), newest)
        chosen = train & ~steps["censored"].to_numpy() & (steps["depth"].to_numpy() < spec.max_depth)
        if not chosen.any():
            raise TraceError(
                "rollouts: no step is left to train on: all are of prompts held out, or near the end of texts cut by "
                "length; log more prompts, or longer texts"
            )
        # What traces are learned from, too; the environments log down to their own floor.
        spec = replace(spec, floor=max(spec.floor, OBSERVATION_FLOOR))
        source = LoggedObservations(np.maximum(table, np.float32(spec.floor)))
        return cls(steps, hardware, nodes, reward, episode, spec, source, train, chosen)

    @property
    def decisions(self) -> DecisionTable:
        """What was decided at the steps to learn from."""
        row = np.flatnonzero(self.chosen)
        depth, action = (self.steps[name].to_numpy()[row].astype(np.int8) for name in ("depth", "action"))
        return DecisionTable(row.astype(np.int32), depth, action)

    @property
    def first_rate(self) -> float:
        """Throughput of the logged policy itself on the training prompts, under the profile; tokens per second.

        It pays for the decisions that cost something when they were logged: a static depth makes none, and one that is
        asked late none before.
        """
        stops, depth, emitted = self._stops()
        stops &= self.training
        paid = self.training & (self.steps["decide_seconds"].to_numpy() > 0.0)
        seconds = self.hardware.round_seconds(self.nodes)[depth[stops] - 1].sum()
        return float(emitted[stops].sum() / (seconds + paid.sum() * self.hardware.decide_seconds))

    def _stops(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Which steps end a round, and depth and emitted tokens of every step."""
        depth = self.steps["depth"].to_numpy().astype(np.int64)
        stops = (self.steps["action"].to_numpy() == STOP) | (depth == self.spec.max_depth)
        return stops, depth, self.steps["emitted"].to_numpy().astype(np.int64)

    def transitions(self, rate: float) -> Transitions:
        """The transitions, rewards priced at ``rate`` tokens per second.

        As with traces, a continue into ``max_depth`` earns the forced stop's reward too and leads to the next round.
        """
        reward = replace(self.reward, rate=rate)
        stops, depth, emitted = self._stops()
        going = reward.going(self.hardware, self.spec.max_depth)  # [max_depth - 1]
        every = np.broadcast_to(emitted[:, None], (len(emitted), self.spec.max_depth))
        stopping = reward.stopping(self.hardware, self.nodes, every)[np.arange(len(depth)), depth - 1]

        row = np.flatnonzero(self.chosen)
        ended = self.steps["terminated"].to_numpy() | self.steps["truncated"].to_numpy()
        continues = self.steps["action"].to_numpy()[row] == CONTINUE
        forced = continues & (depth[row] == self.spec.max_depth - 1)  # the step after it is the forced stop
        last = row + forced
        ends_round = stops[last]
        earned = np.where(continues, going[depth[row] - 1], 0.0) + np.where(ends_round, stopping[last], 0.0)
        terminal = ended[last] | (ends_round if self.episode == "round" else False)
        next_row = np.where(terminal, -1, last + 1)
        return Transitions(
            row=row.astype(np.int32),
            depth=depth[row].astype(np.int8),
            action=np.where(continues, CONTINUE, STOP).astype(np.int8),
            reward=earned.astype(np.float32),
            next_row=next_row.astype(np.int32),
            next_depth=np.where(terminal, 1, depth[next_row]).astype(np.int8),
            terminal=terminal,
        )

    def replay(self, policy: Policy) -> None:
        """Rollouts show one policy's choices only: no other can be replayed on them."""
        return
