"""Asking the policies of texts side by side: the one place where a decode loop, live or logged, decides."""

from collections.abc import Sequence

from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, Policy, States
from radar_rl.speculative.state import DraftState

FEW = 4
"""Texts; so many decide faster one by one in a network's own arrays than all at once in new ones."""


def decide(policies: Sequence[Policy], states: Sequence[DraftState]) -> list[int]:
    """STOP or CONTINUE for each text.

    Args:
        policies: each text's; copies of one policy.
        states: each text's, all of one depth.

    Raises:
        InputError, ModelOutputError: a policy cannot decide from what it sees.
    """
    if len(states) == 1:
        return [policies[0].act(states[0])]
    first = policies[0]
    if not isinstance(first, MemorylessPolicy) or not _together(first, len(states), states[0]):
        return [policy.act(state) for policy, state in zip(policies, states, strict=True)]
    if states[0].depth < first.asks_from:
        return [CONTINUE] * len(states)
    going = first.continues(States.of(states, first.features))
    return [CONTINUE if go else STOP for go in going]


def _together(policy: MemorylessPolicy, texts: int, state: DraftState) -> bool:
    """Whether one look at all texts decides as ``act`` does for each, and sooner; not where it is decided already."""
    if isinstance(policy, LearnedPolicy):
        return texts > FEW and state.verdict(policy.layers) is None
    return type(policy).act is MemorylessPolicy.act
