"""Random stopping: the behaviour that sees every depth, and the hardest test of losslessness."""

from dataclasses import dataclass

import numpy as np

from radar_rl.errors import ConfigError
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.speculative.state import DraftState


@dataclass
class RandomStop:
    """Continue with probability ``probability``; the choices depend on ``seed``, the text's number and their order."""

    probability: float = 0.7
    seed: int = 0
    pays_decisions: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"random policy: expected a probability in [0, 1], got {self.probability}")
        self.name = f"random-{self.probability:g}"
        self._texts = 0
        self._generator = np.random.default_rng([self.seed, 0])

    def begin_sequence(self) -> None:
        """Start the choices of the next text."""
        self._texts += 1
        self._generator = np.random.default_rng([self.seed, self._texts])

    def act(self, state: DraftState) -> int:
        """A coin, loaded by ``probability``."""
        return CONTINUE if self._generator.random() < self.probability else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Nothing is learned."""
