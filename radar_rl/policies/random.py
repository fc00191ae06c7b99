"""Random stopping: the behaviour that sees every depth, and the hardest test of losslessness."""

import hashlib
from dataclasses import dataclass

from radar_rl.errors import ConfigError
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.speculative.state import DraftState


@dataclass
class RandomStop:
    """Continue with probability ``probability``.

    Each choice is a function of ``seed``, the text's name (without one: how many were begun), the position and the
    depth, so that it is the same live and in a replay, whatever other texts came before or stand beside it.
    """

    probability: float = 0.7
    seed: int = 0
    pays_decisions: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"random policy: expected a probability in [0, 1], got {self.probability}")
        self.name = f"random-{self.probability:g}"
        self._begun, self._text = 0, ""

    def begin_sequence(self, text: str | None = None) -> None:
        """The choices of this text begin."""
        self._begun += 1
        self._text = str(self._begun) if text is None else text

    def act(self, state: DraftState) -> int:
        """A coin, loaded by ``probability``."""
        return CONTINUE if coin(self.seed, self._text, state) < self.probability else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Nothing is learned."""


def coin(seed: int, text: str, state: DraftState) -> float:
    """A number in [0, 1), uniform over seeds, texts, positions and depths, and a function of them."""
    drawn = f"{seed}/{state.position}/{state.depth}/{text}".encode()
    return int.from_bytes(hashlib.blake2b(drawn, digest_size=8).digest(), "big") / 2**64
