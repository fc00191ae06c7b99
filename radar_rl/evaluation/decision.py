"""What a decision of a policy takes on this machine, asked as the decoder asks.

One state at a time, whose numbers are read from where a draft call would have left them. Between two decisions
no model runs, so that code and weights are at hand; ``radar-rl bench decide`` times decisions in a decode loop.
"""

import copy
import time
from functools import partial

import numpy as np
import torch

from radar_rl.policies.protocol import STOP, Policy
from radar_rl.rollouts.trace import Trace
from radar_rl.runtime.decide import decide
from radar_rl.runtime.decoder import features_of
from radar_rl.speculative.features import FEATURES, columns_of
from radar_rl.speculative.history import History, after_round, no_rounds
from radar_rl.speculative.reading import ROOT, RoundReading, as_numbers
from radar_rl.speculative.state import Beams, DraftState

# Decisions that are timed, after some that are not.
TIMED, WARM_UP = 400, 40


def decision_microseconds(trace: Trace, policy: Policy) -> float | None:
    """The median time of a decision along the first texts of a trace: a measurement, another one every time.

    Args:
        trace: read with the feature columns that the policy looks at.
        policy: is copied, so that what it remembers stays as it was.

    Returns:
        Microseconds; None where nothing is ever decided.
    """
    policy, seconds = copy.deepcopy(policy), list[float]()
    made = trace.settings
    reading = RoundReading(1, made.max_depth, made.top_k, features_of(policy).get("features", ()), made.feature_dim)
    for first in trace.first_row:
        row, history = int(first), no_rounds()
        policy.begin_sequence(trace.sequences.sequence_id[trace.sequence[row]])
        while row >= 0:
            depth = _timed_round(trace, reading, policy, row, history, seconds)
            accepted = int(trace.accepted[row, depth - 1])
            policy.end_round(depth, accepted)
            history = after_round(history, accepted)
            row = int(trace.stop(np.array([row]), depth)[1][0])
            if len(seconds) >= WARM_UP + TIMED:
                return 1e6 * float(np.median(seconds[WARM_UP:]))
    return 1e6 * float(np.median(seconds)) if seconds else None


def _timed_round(
    trace: Trace, reading: RoundReading, policy: Policy, row: int, history: History, seconds: list[float]
) -> int:
    """Draft calls of a policy's round at a row; the time of each decision is added to ``seconds``."""
    max_depth = trace.settings.max_depth
    told = {name: torch.tensor(trace.features[name][[row]]) for name in columns_of(tuple(reading.features))}
    confidences = torch.tensor(trace.confidences[[row]]).float()
    beams = Beams(as_numbers(confidences), (max_depth, trace.settings.top_k))
    reading.begin(1)
    reading.note_root({name: values for name, values in told.items() if name == ROOT})
    if "ngram" in told:
        reading.note_matches(told["ngram"].tolist())
    if "history" in reading.features:
        reading.note_history([history])
    for depth in range(1, max_depth):
        calls = {name: values[:, depth - 1] for name, values in told.items() if FEATURES[name].per_call}
        reading.note_call(depth, [0], confidences[:, depth - 1], calls)
        state = DraftState(
            int(trace.position[row]),
            depth,
            max_depth,
            partial(reading.confidences_of, 0, reading.number, depth),
            features=partial(reading.features_of, 0, reading.number, depth),
            look=partial(reading.look, 0, reading.number),
            beams=beams,
        )
        start = time.perf_counter()
        action = decide([policy], [state])[0]
        if depth >= policy.asks_from:
            seconds.append(time.perf_counter() - start)
        if action == STOP:
            return depth
    return max_depth
