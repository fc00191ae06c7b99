"""Policies with memory: from what earlier rounds of a text brought, they choose the memoryless rule of the next one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.speculative.state import Confidences, DraftState, FeatureValues

Choices = NDArray[Any]

ONE = np.zeros(1, dtype=np.int64)


class SwitchingPolicy:
    """Base of every policy with memory: at the start of a round it makes a choice, which stands for a memoryless rule.

    What is remembered are arrays over texts side by side, so that a walk leads all texts of a trace in step; the
    ``Policy`` protocol is the same with one text. Choices are indices of ``arms`` unless a policy says otherwise
    (``rule``, ``survey``, ``depths``).

    Attributes:
        name, pays_decisions: see ``Policy``.
        remembers: whether a text begins with what earlier ones taught; then they are led through one by one.
        arms: what there is to choose from.
        features: names of the features that the arms look at, beside the confidences.
    """

    name: str
    pays_decisions: bool = False
    remembers: bool = False
    arms: tuple[MemorylessPolicy, ...] = ()
    features: tuple[str, ...] = ()

    _begun = 0
    _choice: Choices | None = None
    _playing: MemorylessPolicy

    def begin_texts(self, names: Sequence[str]) -> None:
        """Texts begin, side by side; they are called 0, 1, … from here on."""
        raise NotImplementedError

    def choose(self, texts: NDArray[np.int64]) -> Choices:
        """What the next round of some texts is played with: [B] → [B]."""
        raise NotImplementedError

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: Choices,
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """What a round of each of some texts came to: [B] each, each text once."""
        raise NotImplementedError

    def rule(self, choice: Any) -> MemorylessPolicy:
        """The rule that a choice stands for."""
        return self.arms[int(choice)]

    def survey(self, confidences: Confidences, features: FeatureValues) -> NDArray[Any]:
        """What ``depths`` reads the stopping depths of any choice from: [N, …], here that of each arm."""
        depths = [arm.stop_depths(confidences, features) for arm in self.arms]
        return np.stack(depths, axis=1).astype(np.int8)

    def depths(self, survey: NDArray[Any], choices: Choices) -> NDArray[np.int64]:
        """The depths at which rounds stop that were played with ``choices``: [B, …], [B] → [B] int64."""
        return np.take_along_axis(survey, choices[:, None], axis=1)[:, 0].astype(np.int64)

    def open_texts(self, names: Sequence[str]) -> None:
        """``begin_texts``, but for a policy that has begun and ``remembers``."""
        if not (self.remembers and self._begun):
            self.begin_texts(names)
        self._begun += 1
        self._choice = None

    def begin_sequence(self, text: str | None = None) -> None:
        """A text begins; one without a name is called by how many were begun."""
        self.open_texts([str(self._begun + 1) if text is None else text])

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE, as the rule says that was chosen when the round began."""
        if state.depth == 1:
            self._begin_round()
        return self._playing.act(state)

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Learn from the round; one without a draft call of the head teaches nothing."""
        if draft_calls == 0:
            return
        if self._choice is None:  # where one call is all there may be, nobody asks
            self._begin_round()
        assert self._choice is not None
        self.learn(ONE, self._choice, np.array([draft_calls]), np.array([accepted]))
        self._choice = None

    def _begin_round(self) -> None:
        self._choice = self.choose(ONE)
        self._playing = self.rule(self._choice[0])
