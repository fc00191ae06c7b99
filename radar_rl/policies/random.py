"""Random stopping, the behaviour that sees every depth and the hardest test of losslessness; how policies draw."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    pays_decisions = False

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


def text_key(seed: int, text: str) -> int:
    """What the random numbers of a text are drawn by, in [0, 2⁶⁴)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest(), "big")


def uniform(keys: NDArray[np.uint64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """The random number after ``count`` others of each of some texts: [B] keys, [B] → [B] in [0, 1).

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the number is a function
    of key and count, so texts draw alike alone and side by side.
    """
    mixed = keys + (count.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)
