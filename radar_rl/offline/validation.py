"""What settings are chosen by: exact replay on training prompts that were not learned from, never on held-out ones."""

from typing import Any

from radar_rl.errors import ConfigError, TraceError
from radar_rl.offline.ranges import BELOW_ONE, check_value
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies.protocol import MemorylessPolicy, Policy
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.split import validated_on
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.hardware import HardwareProfile


def check_validation(validation: float, traces: str | None) -> None:
    """Refuse a share out of range, or one of logged rollouts, which cannot tell what another policy would bring.

    Raises:
        ConfigError: naming what was expected.
    """
    check_value("validation", validation, BELOW_ONE)
    if validation and traces is None:
        raise ConfigError("validation= replays the policy and needs traces=; leave it at 0 with rollouts")


def validate(
    policy: MemorylessPolicy,
    baseline: Policy,
    traces: str,
    hardware: HardwareProfile,
    *,
    held_out: float,
    validation: float,
    tree_size: int,
) -> dict[str, Any]:
    """A policy's throughput on the prompts to validate on, and its gain over the baseline there.

    Args:
        policy: what was trained.
        baseline: the static depth tuned on the prompts learned from.
        traces: the folder of the trace.
        hardware: the machine.
        held_out: share of the prompts kept for evaluation.
        validation: share of the others, by the end of the same order.
        tree_size: nodes verified.

    Returns:
        ``validation_tokens_per_second`` and ``validation_gain`` (0.05: five per cent faster), null for none.

    Raises:
        TraceError: no prompt is left to validate on.
    """
    if not validation:
        return {"validation_tokens_per_second": None, "validation_gain": None}
    trace = load_trace(
        traces,
        tree_size=tree_size,
        keep=lambda texts: validated_on(texts.prompt_id, held_out, validation),
        features=columns_of(policy.features),
    )
    if not len(trace):
        raise TraceError(f"{traces}: no prompt to validate on at validation={validation}; collect more, or raise it")
    outcomes = Outcomes.of(trace, hardware)
    reached, base = (walk_policy(outcomes, rule).tokens_per_second for rule in (policy, baseline))
    return {"validation_tokens_per_second": reached, "validation_gain": reached / base - 1.0}
