"""What settings may be: checked at the door, before a library meets them in its own words."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

from radar_rl.errors import ConfigError

# In words, and whether a number is one of them.
Range = tuple[str, Callable[[Any], bool]]


def at_least(least: int) -> Range:
    """Whole numbers from some smallest one on."""
    return (f"a whole number ≥ {least}", lambda value: isinstance(value, Integral) and int(value) >= least)


COUNT = at_least(1)
SEED: Range = (  # what numpy's global generator takes, which d3rlpy seeds
    "a whole number in [0, 2^32)",
    lambda value: isinstance(value, Integral) and 0 <= int(value) < 2**32,
)
POSITIVE: Range = ("a finite number > 0", lambda value: 0.0 < value < inf)
NOT_NEGATIVE: Range = ("a finite number ≥ 0", lambda value: 0.0 <= value < inf)
SHARE: Range = ("a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)
BELOW_ONE: Range = ("a number in [0, 1)", lambda value: 0.0 <= value < 1.0)
ABOVE_ZERO: Range = ("a number in (0, 1]", lambda value: 0.0 < value <= 1.0)
BETWEEN: Range = ("a number in (0, 1)", lambda value: 0.0 < value < 1.0)

# By name, whichever algorithm has it; of a list, each of its numbers.
RANGES: dict[str, Range] = {
    "learning_rate": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "hidden": COUNT,
    "critic_hidden": COUNT,
    "lstm_hidden": COUNT,
    "mlp_hidden": COUNT,
    "dropout": BELOW_ONE,
    "gamma": SHARE,
    "target_update_interval": COUNT,
    "tau": ABOVE_ZERO,
    "n_critics": COUNT,
    "alpha": NOT_NEGATIVE,
    "beta": NOT_NEGATIVE,
    "action_flexibility": BETWEEN,
    "expectile": BETWEEN,
    "weight_temp": NOT_NEGATIVE,
    "max_weight": POSITIVE,
    "rejection_weight": POSITIVE,
    "n_epochs": COUNT,
    "num_envs": COUNT,
    "clip_range": POSITIVE,
    "entropy": NOT_NEGATIVE,
    "gae_lambda": SHARE,
}
LISTS = ("hidden", "critic_hidden")


def check_ranges(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are out of range, or no numbers.

    Args:
        name: of the algorithm.
        settings: its own, each of ``RANGES``.

    Raises:
        ConfigError: naming the first, what was expected and what came.
    """
    for key, value in settings.items():
        check_value(f"algo={name}: {key}", value, RANGES[key], listed=key in LISTS)


def check_value(name: str, value: Any, allowed: Range, *, listed: bool = False) -> None:
    """Refuse a setting that is out of range, or no number.

    Args:
        name: how the message calls it.
        allowed: where it has to be.
        listed: whether it is a list of such numbers, of one at least.

    Raises:
        ConfigError: saying what was expected and what came.
    """
    words, holds = allowed
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = list(value) if is_list else [value]
    if is_list != listed or not numbers or not all(_is_number(each) and holds(each) for each in numbers):
        raise ConfigError(f"{name}: expected {f'a list, each {words}' if listed else words}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
