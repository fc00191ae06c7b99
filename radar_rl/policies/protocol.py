"""What a stop policy is: after each draft call it says continue or stop."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.speculative.state import DraftState

STOP, CONTINUE = 0, 1


class Policy(Protocol):
    """A stop rule.

    What it remembers is its own text's: where texts are decoded side by side or logged, each has a copy of the policy
    as it came. One that is to learn across texts says so with an attribute ``remembers = True``; it is led through
    them in order.

    Attributes:
        name: how tables call it.
        pays_decisions: whether a decision costs the hardware profile's ``decide_seconds``.
    """

    name: str
    pays_decisions: bool

    def begin_sequence(self, text: str | None = None) -> None:
        """A new text begins: forget the last one.

        Args:
            text: its name, where it has one; what is drawn at random is drawn by it.
        """

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE after ``state.depth`` draft calls; asked only while ``state.depth < state.max_depth``."""

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """The round has been verified: ``accepted`` draft tokens of a tree of ``draft_calls`` levels."""


class MemorylessPolicy:
    """Base of policies whose decision is a function of (confidences, depth): they also decide many rows at once."""

    name: str
    pays_decisions: bool = True

    def continues(self, confidences: NDArray[np.float16], depth: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether to make another draft call.

        Args:
            confidences: [N, max_depth, top_k] float16 cumulative log-probabilities; levels above ``depth`` may hold
                anything and must not matter.
            depth: [N] draft calls made.

        Returns:
            [N] bool.
        """
        raise NotImplementedError

    def begin_sequence(self, text: str | None = None) -> None:
        """Nothing is remembered."""

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Nothing is remembered."""

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE for one state."""
        return CONTINUE if self.continues(state.confidences[None], np.array([state.depth]))[0] else STOP

    def stop_depths(self, confidences: NDArray[np.float16]) -> NDArray[np.int64]:
        """The depth at which the policy stops in rounds that start at each row.

        Args:
            confidences: [N, max_depth, top_k] float16.

        Returns:
            [N] int64 in 1 … max_depth.
        """
        rows, max_depth = confidences.shape[:2]
        depths = np.full(rows, max_depth, dtype=np.int64)
        active = np.arange(rows)
        for depth in range(1, max_depth):
            going = self.continues(confidences[active], np.full(len(active), depth))
            depths[active[~going]] = depth
            active = active[going]
        return depths
