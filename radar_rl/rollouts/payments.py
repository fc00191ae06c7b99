"""What each step earns and costs, tabulated once: environments and rollouts only look up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes


@dataclass(frozen=True)
class Payments:
    """Rewards and seconds by draft calls made (ℓ, counted from 1) and tokens emitted.

    The seconds of call 1, of verification and of the rest of the round are charged at the stop, those of each further
    call at its continue, and a decision at whichever action it chose; at ``max_depth`` nothing is decided.

    Attributes:
        going_reward, going_seconds: [max_depth − 1] float64, of continuing after call ℓ.
        stop_reward: [max_depth + 2, max_depth] float64, of stopping after call ℓ (column ℓ − 1) when the round emits
            as many tokens as the row's index.
        stop_seconds: [max_depth] float64.
        draft_seconds: [max_depth] float64, of call ℓ.
        verify_seconds: [max_depth] float64, of verification after call ℓ.
        decide_seconds: of one decision.
    """

    going_reward: NDArray[np.float64]
    going_seconds: NDArray[np.float64]
    stop_reward: NDArray[np.float64]
    stop_seconds: NDArray[np.float64]
    draft_seconds: NDArray[np.float64]
    verify_seconds: NDArray[np.float64]
    decide_seconds: float

    @classmethod
    def of(
        cls,
        hardware: HardwareProfile,
        reward: Reward,
        *,
        max_depth: int,
        top_k: int,
        tree_size: int,
        widen_first_level: bool = False,
    ) -> "Payments":
        """The tables of one machine, reward and tree shape."""
        nodes = tree_nodes(max_depth, top_k, tree_size, widen_first_level)
        emitted = np.broadcast_to(np.arange(max_depth + 2)[:, None], (max_depth + 2, max_depth))
        draft, verify = hardware.draft(max_depth), hardware.verify(nodes)
        decided = np.full(max_depth, hardware.decide_seconds)
        decided[-1] = 0.0
        return cls(
            going_reward=reward.going(hardware, max_depth),
            going_seconds=draft[1:] + hardware.decide_seconds,
            stop_reward=reward.stopping(hardware, nodes, emitted),
            stop_seconds=draft[0] + verify + hardware.rest_seconds + decided,
            draft_seconds=draft,
            verify_seconds=verify,
            decide_seconds=hardware.decide_seconds,
        )
