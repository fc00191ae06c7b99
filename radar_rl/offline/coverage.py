"""Which actions the data hold: one that was never taken is told, with what that means for the algorithm."""

import logging

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import Decisions, EveryDecision
from radar_rl.offline.transitions import Transitions
from radar_rl.policies.protocol import CONTINUE, STOP

log = logging.getLogger(__name__)

WORDS = {STOP: "stop", CONTINUE: "continue"}

FITTED_Q = "fitted Q evaluation"

WITHOUT = {
    "bc": "there is nothing to imitate there but the other one",
    "bcq": "its imitator rules the missing one out, so the policy copies the behaviour there",
    "cql": "its conservative term pushes the missing one's value down, so the policy copies the behaviour there",
    "ddqn": "the missing one's value there is a guess that nothing corrects; rather use cql, iql or bcq",
    FITTED_Q: "a policy that takes the missing one there is valued by a guess that nothing corrects",
    "iql": "its policy learns from actions taken alone, so it keeps to the behaviour there",
}
"""What an action that is missing after some draft call means there, by what learns."""

PIECE = 1_000_000  # decisions counted at once: bincount works on copies of eight bytes each


def actions_taken(decisions: Decisions | Transitions, max_depth: int) -> NDArray[np.int64]:
    """How often each action was taken after each draft call.

    Args:
        decisions: what was decided, or transitions written out.
        max_depth: draft calls a round can make; after the last nothing is decided.

    Returns:
        [max_depth − 1, 2] int64: after call ℓ = 1 …, stop and continue.
    """
    if isinstance(decisions, EveryDecision):
        return np.full((max_depth - 1, 2), len(decisions.rows))
    counts = np.zeros((max_depth - 1) * 2, dtype=np.int64)
    for start in range(0, len(decisions), PIECE):
        here = slice(start, start + PIECE)
        cell = (decisions.depth[here].astype(np.int64) - 1) * 2 + decisions.action[here]
        counts += np.bincount(cell, minlength=len(counts))
    return counts.reshape(max_depth - 1, 2)


def check_actions(taken: NDArray[np.int64], learner: str, behaviour: str) -> None:
    """Warn where only one of the two actions was ever taken, and say what the learner makes of that.

    Args:
        taken: [max_depth − 1, 2], as ``actions_taken`` counts.
        learner: an algorithm's name, or ``FITTED_Q``.
        behaviour: who acted.

    Raises:
        ConfigError: one action was never taken at all, so nothing can be learned about when to take it.
    """
    total = taken.sum(axis=0)
    if not total.all():
        raise ConfigError(
            f"behaviour {behaviour}: expected both actions in the data, got only {WORDS[int(total.argmax())]}; nothing "
            "can be learned about an action that was never taken: choose behaviour=full or uniform, or log a policy "
            "that explores (policy=random:0.8)"
        )
    for action, word in WORDS.items():
        calls = np.flatnonzero((taken[:, action] == 0) & (taken[:, 1 - action] > 0)) + 1
        if len(calls):
            log.warning(
                "behaviour %s never takes %s after draft call %s; %s: %s",
                behaviour,
                word,
                ", ".join(map(str, calls)),
                learner if learner == FITTED_Q else f"algo={learner}",
                WITHOUT.get(learner, "nothing is known of the missing one there"),
            )
