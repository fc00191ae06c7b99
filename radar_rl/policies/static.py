"""Static depth: EAGLE's preset number of draft calls (EAGLE-2, arXiv 2406.16858; EAGLE-3, arXiv 2503.01840)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, States
from radar_rl.speculative.state import Confidences, DraftState, FeatureValues


@dataclass
class StaticDepth(MemorylessPolicy):
    """Always make ``depth`` draft calls (EAGLE-3's "depth 7" is 8 calls). Decides nothing, so pays for nothing."""

    depth: int = 8
    pays_decisions = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"static depth: expected at least 1 draft call, got {self.depth}")
        self.name = f"static-{self.depth}"

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE, without a look at the confidences: on a GPU, without a read from the device."""
        return CONTINUE if state.depth < self.depth else STOP

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether fewer than ``self.depth`` calls were made."""
        return np.asarray(states.depth < self.depth)

    def stop_depths(self, confidences: Confidences, features: FeatureValues | None = None) -> NDArray[np.int64]:
        """``depth`` at every row, or ``max_depth`` where that is less; the confidences are not looked at."""
        rows, max_depth = confidences.shape[:2]
        return np.full(rows, min(self.depth, max_depth), dtype=np.int64)
