"""What a stop policy is: after each draft call it says continue or stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import InputError
from radar_rl.speculative.state import Confidences, DraftState, FeatureValues

STOP, CONTINUE = 0, 1


@dataclass(frozen=True)
class States:
    """What is seen at N decisions, side by side.

    Attributes:
        confidences: [N, max_depth, top_k] cumulative log-probabilities, float16 or wider numbers rounded to it; levels
            above ``depth`` may hold anything and must not matter.
        depth: [N] draft calls made.
        features: by name, [N, …] of the shapes of ``radar_rl.speculative.features.FEATURES``; of calls above ``depth``
            likewise.
    """

    confidences: Confidences
    depth: NDArray[np.integer]
    features: FeatureValues = field(default_factory=dict)

    @classmethod
    def of(cls, states: Sequence[DraftState], features: Sequence[str] = ()) -> "States":
        """States as the decision loop has them, with some of their features.

        Raises:
            InputError: one lacks a feature, or has it in another shape than the others.
        """
        looks = [state.look() for state in states]
        return cls(
            _side_by_side("confidences", [confidences for confidences, _ in looks]),
            np.array([state.depth for state in states]),
            {name: _side_by_side(name, [feature_of(seen, name) for _, seen in looks]) for name in features},
        )

    def __len__(self) -> int:
        return len(self.depth)


def feature_of(features: FeatureValues, name: str) -> NDArray[Any]:
    """A state's feature.

    Raises:
        InputError: it has none of this name.
    """
    try:
        return features[name]
    except KeyError:
        raise InputError(
            f"the policy looks at {name!r}, which the text is not decoded with (there are: "
            f"{', '.join(features) or 'none'}); decode with features=[{name}]"
        ) from None


def _side_by_side(name: str, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    try:
        return np.stack(values)
    except ValueError:
        shapes = sorted({value.shape for value in values})
        raise InputError(f"{name}: expected one shape in all states, got {shapes}") from None


class Policy(Protocol):
    """A stop rule.

    What it remembers is its own text's: where texts are decoded side by side or logged, each has a copy of the policy
    as it came. One that is to learn across texts says so with an attribute ``remembers = True``; it is led through
    them in order.

    Attributes:
        name: how tables call it.
        pays_decisions: whether a decision costs the hardware profile's ``decide_seconds``.
        asks_from: the first draft call after which it looks and decides; it continues for nothing before.
    """

    name: str
    pays_decisions: bool
    asks_from: int

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
    """Base of policies whose decision is a function of what is seen alone: they also decide many rows at once.

    Attributes:
        features: names of the features that they look at, beside the confidences; not only columns of a trace.
    """

    name: str
    pays_decisions: bool = True
    asks_from: int = 1
    features: tuple[str, ...] = ()

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether to make another draft call: [N] bool."""
        raise NotImplementedError

    def begin_sequence(self, text: str | None = None) -> None:
        """Nothing is remembered."""

    def end_round(self, draft_calls: int, accepted: int) -> None:
        """Nothing is remembered."""

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE for one state."""
        if state.depth < self.asks_from:
            return CONTINUE  # without a look: on a GPU, without a read from the device
        confidences, seen = state.look()
        features = {name: feature_of(seen, name)[None] for name in self.features}
        alone = States(confidences[None], np.array([state.depth]), features)
        return CONTINUE if self.continues(alone)[0] else STOP

    def stop_depths(self, confidences: Confidences, features: FeatureValues | None = None) -> NDArray[np.int64]:
        """The depth at which the policy stops in rounds that start at each row.

        Args:
            confidences: [N, max_depth, top_k] float16.
            features: by name, [N, …]; at least those that the policy looks at.

        Returns:
            [N] int64 in 1 … max_depth.
        """
        rows, max_depth = confidences.shape[:2]
        columns = {name: (features or {})[name] for name in self.features}
        depths = np.full(rows, max_depth, dtype=np.int64)
        active = np.arange(rows)
        for depth in range(self.asks_from, max_depth):
            seen = {name: values[active] for name, values in columns.items()}
            going = self.continues(States(confidences[active], np.full(len(active), depth), seen))
            depths[active[~going]] = depth
            active = active[going]
        return depths
