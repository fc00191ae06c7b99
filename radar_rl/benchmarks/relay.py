"""A policy that hands over to another between two rounds of a text."""

import random
from collections.abc import Sequence

from radar_rl.policies import ObservationSpec, Policy
from radar_rl.speculative.state import DraftState

MOST_ROUNDS = 4


class Relay:
    """Policies that take turns within a text, each for one to ``MOST_ROUNDS`` rounds.

    Args:
        policies: who takes turns; one whose turn it is begins as at the start of a text.
        spec: features that at least one of them looks at.
        draw: decides who is next, and for how long.

    Attributes:
        swaps: how often one took the place of another.
    """

    name = "relay"
    pays_decisions = True
    asks_from = 1

    def __init__(self, policies: Sequence[Policy], spec: ObservationSpec, draw: random.Random) -> None:
        self.policies, self.spec, self.draw = policies, spec, draw
        self.swaps = 0

    def begin_sequence(self, text: str | None = None) -> None:
        """Somebody begins."""
        self._text = text
        self._take_over()

    def act(self, state: DraftState) -> int:
        """As the policy says whose turn it is."""
        return self._playing.act(state)

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """The policy learns from its round, and may hand over."""
        self._playing.end_round(draft_calls, accepted)
        self._left -= 1
        if self._left == 0:
            self.swaps += 1
            self._take_over()

    def _take_over(self) -> None:
        self._left = self.draw.randint(1, MOST_ROUNDS)
        self._playing = self.draw.choice(self.policies)
        self._playing.begin_sequence(self._text)
