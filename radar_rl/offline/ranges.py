"""What an algorithm's settings may be: checked at the door, before a library meets them in its own words."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

from radar_rl.errors import ConfigError

# In words, and whether a number is one of them.
Range = tuple[str, Callable[[Any], bool]]

COUNT: Range = ("a whole number ≥ 1", lambda value: isinstance(value, Integral) and int(value) >= 1)
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
LISTS = ("hidden",)


def check_ranges(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are out of range, or no numbers.

    Args:
        name: of the algorithm.
        settings: its own, each of ``RANGES``.

    Raises:
        ConfigError: naming the first, what was expected and what came.
    """
    for key, value in settings.items():
        words, holds = RANGES[key]
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        numbers = list(value) if listed else [value]
        if listed != (key in LISTS) or not numbers or not all(_is_number(each) and holds(each) for each in numbers):
            expected = f"a list, each {words}" if key in LISTS else words
            raise ConfigError(f"algo={name}: {key}: expected {expected}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
