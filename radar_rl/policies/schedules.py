"""Schedules: the next round's depth follows what the last ones accepted, as servers do it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.switching import SwitchingPolicy


@dataclass
class PlusTwo(SwitchingPolicy):
    """Two calls more after a round that accepted a token of every call, one less after any other, at least one.

    transformers' ``num_assistant_tokens_schedule="heuristic_transient"`` (``AssistedCandidateGenerator.
    update_candidate_strategy``); "heuristic" is the same without forgetting between texts. Depths end at ``max_depth``,
    where transformers goes on counting.

    Args:
        start: draft calls of a text's first round.
        max_depth: most draft calls in a round.
    """

    start: int = 5
    max_depth: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.max_depth:
            raise ConfigError(f"plus-two: expected a start in 1 … {self.max_depth} (max_depth), got {self.start}")
        self.name = f"plus-two-{self.start}"
        self.arms = depth_arms(range(1, self.max_depth + 1))

    def begin_texts(self, names: Sequence[str]) -> None:
        """Every text begins at ``start``."""
        self._depths = np.full(len(names), self.start)

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The arm of the depth that each text has come to."""
        return self._depths[texts] - 1

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.int64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """+2 or −1."""
        moved = np.where(accepted == draft_calls, choices + 3, choices)
        self._depths[texts] = moved.clip(1, self.max_depth)


@dataclass
class AcceptanceAverage(SwitchingPolicy):
    """The depth follows an exponential moving average of the accepted tokens, with hysteresis.

    SGLang's adaptive speculation (``AdaptiveStepSlot`` of srt/speculative/adaptive_spec_params.py), with its defaults.
    After each round, average ← (1 − α) · average + α · accepted. After ``warmup`` rounds and every ``interval`` from
    there on, down the candidates while the average is at most (next lower candidate) − 0.5 + ``down``; if none was
    passed, up while it is above (candidate at hand) − 0.5 + ``up``. A text begins at ``start`` (of no candidate: at the
    middle one) with the average one below. SGLang keeps one average for a server; here each text has its own.

    Args:
        start: draft calls of a text's first rounds.
        candidates: depths to choose from, increasing.
        alpha, interval, warmup, up, down: as above.
    """

    start: int = 5
    candidates: tuple[int, ...] = (1, 3, 5, 7)
    alpha: float = 0.2
    interval: int = 5
    warmup: int = 10
    up: float = 0.0
    down: float = -0.25

    def __post_init__(self) -> None:
        self.candidates = tuple(self.candidates)
        if not self.candidates or list(self.candidates) != sorted(set(self.candidates)) or self.candidates[0] < 1:
            raise ConfigError(f"ema: expected increasing candidates of at least 1 draft call, got {self.candidates}")
        if not 0.0 <= self.alpha <= 1.0 or self.interval < 1 or self.warmup < 0:
            raise ConfigError(
                "ema: expected alpha in [0, 1], interval ≥ 1 and warmup ≥ 0, "
                f"got {self.alpha}, {self.interval} and {self.warmup}"
            )
        self.name = f"ema-{self.start}"
        self.arms = depth_arms(self.candidates)

    def begin_texts(self, names: Sequence[str]) -> None:
        """Every text begins at ``start``."""
        known = self.start in self.candidates
        first = self.candidates.index(self.start) if known else len(self.candidates) // 2
        self._arms = np.full(len(names), first)
        self._averages = np.full(len(names), self.candidates[first] - 1.0)
        self._rounds = np.zeros(len(names), dtype=np.int64)

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The candidate that each text has come to."""
        return self._arms[texts]

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.int64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """Follow the average."""
        average = (1 - self.alpha) * self._averages[texts] + self.alpha * accepted
        rounds = self._rounds[texts] + 1
        self._averages[texts], self._rounds[texts] = average, rounds
        due = (rounds > self.warmup) & ((rounds - self.warmup) % self.interval == 0)
        self._arms[texts] = np.where(due, self._moved(choices, average), choices)

    def _moved(self, arms: NDArray[np.int64], average: NDArray[np.float64]) -> NDArray[np.int64]:
        """Where averages lead from candidates: [B]. Thresholds rise with the candidates, so counting is walking."""
        thresholds = np.array(self.candidates[:-1]) - 0.5
        lower = (average[:, None] > thresholds + self.down).sum(axis=1)  # where a descent from above ends
        upper = (average[:, None] > thresholds + self.up).sum(axis=1)  # where an ascent from below ends
        return np.asarray(np.where(lower < arms, lower, np.maximum(arms, upper)))


def depth_arms(depths: Sequence[int]) -> tuple[StaticDepth, ...]:
    """A static rule for each depth."""
    return tuple(StaticDepth(depth) for depth in depths)
