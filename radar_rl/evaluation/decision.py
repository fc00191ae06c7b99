"""What a decision of a policy takes on this machine, asked as the decoder asks: one state at a time."""

import copy
import time

import numpy as np

from radar_rl.policies.protocol import STOP, Policy
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.history import History, after_round, no_rounds
from radar_rl.speculative.reading import features_after
from radar_rl.speculative.state import DraftState

# Decisions that are timed, after some that are not.
TIMED, WARM_UP = 400, 40


def decision_microseconds(trace: Trace, policy: Policy) -> float | None:
    """The median time of ``policy.act`` along the first texts of a trace: a measurement, another one every time.

    Args:
        trace: read with the feature columns that the policy looks at.
        policy: is copied, so that what it remembers stays as it was.

    Returns:
        Microseconds; None where nothing is ever decided.
    """
    policy, seconds = copy.deepcopy(policy), list[float]()
    for first in trace.first_row:
        row, history = int(first), no_rounds()
        policy.begin_sequence(trace.sequences.sequence_id[trace.sequence[row]])
        while row >= 0:
            depth = _timed_round(trace, policy, row, history, seconds)
            accepted = int(trace.accepted[row, depth - 1])
            policy.end_round(depth, accepted)
            history = after_round(history, accepted)
            row = int(trace.stop(np.array([row]), depth)[1][0])
            if len(seconds) >= WARM_UP + TIMED:
                return 1e6 * float(np.median(seconds[WARM_UP:]))
    return 1e6 * float(np.median(seconds)) if seconds else None


def _timed_round(trace: Trace, policy: Policy, row: int, history: History, seconds: list[float]) -> int:
    """Draft calls of a policy's round at a row; the time of each decision is added to ``seconds``."""
    max_depth, position, confidences = trace.settings.max_depth, int(trace.position[row]), trace.confidences[row]
    features = {name: values[row] for name, values in trace.features.items()} | {"history": history}
    for depth in range(1, max_depth):
        state = DraftState(position, depth, max_depth, confidences, features=features_after(depth, features))
        start = time.perf_counter()
        action = policy.act(state)
        if depth >= policy.asks_from:
            seconds.append(time.perf_counter() - start)
        if action == STOP:
            return depth
    return max_depth
