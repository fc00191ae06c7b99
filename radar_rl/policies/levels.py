"""Rules that judge the newest level by one number, and the depth at which they stop."""

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.protocol import MemorylessPolicy, States
from radar_rl.speculative.state import Confidences, FeatureValues


class LevelRule(MemorylessPolicy):
    """Base of rules that continue while a number, by which the newest level is judged, is at least ``bound``.

    The number does not depend on the bound, so rules that differ in it alone are tuned on the same ``levels``.
    """

    @property
    def bound(self) -> float:
        """What the number is compared with."""
        raise NotImplementedError

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """The number after each draft call.

        Args:
            confidences: [N, max_depth, top_k] float16.
            features: by name, [N, …]; at least those that the rule looks at.

        Returns:
            [N, max_depth] float32; column ℓ − 1 looks at the calls up to ℓ alone. NaN stops.
        """
        raise NotImplementedError

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether the newest level's number is at least the bound."""
        levels = self.levels(states.confidences, states.features)
        return np.asarray(levels[np.arange(len(states)), states.depth - 1] >= np.float32(self.bound))

    def stop_depths(self, confidences: Confidences, features: FeatureValues | None = None) -> NDArray[np.int64]:
        """The first depth whose number falls below the bound, else ``max_depth``; all levels at once."""
        return first_below(self.levels(confidences, features or {}), self.bound)


def first_below(levels: NDArray[np.float32], bound: float | NDArray[np.float64]) -> NDArray[np.int64]:
    """The depth at which rounds stop that go on while a level's number is at least ``bound``.

    Args:
        levels: [N, max_depth].
        bound: one for all, or [N].

    Returns:
        [N] int64 in 1 … max_depth.
    """
    stops = ~(levels >= np.asarray(bound, dtype=levels.dtype)[..., None])
    stops[:, -1] = True
    return np.asarray(stops.argmax(axis=1) + 1)
