"""The named errors: each says what was expected, what came, and what to do. The command line exits with 2 on them."""

from collections.abc import Sequence
from numbers import Integral


class RadarError(Exception):
    """Base of every error that radar-rl raises on purpose."""


class InputError(RadarError, ValueError):
    """A file, a row, a prompt or an argument is not what was expected."""


class ConfigError(RadarError, ValueError):
    """A configuration key or value is unknown or contradictory."""


class CheckpointError(RadarError, ValueError):
    """A checkpoint lacks a tensor, has an unexpected one, or does not fit its partner."""


class TraceError(RadarError, ValueError):
    """A trace or rollout is damaged, incomplete, or was made with other settings than asked for."""


class ArtifactError(RadarError, ValueError):
    """An exported policy is damaged, of an unknown version, or made for another pair or specification."""


class ModelOutputError(RadarError, ArithmeticError):
    """A model returned values that no token may be chosen from (NaN or infinite logits)."""


class FallbackWarning(RuntimeWarning):
    """A policy could not decide and a static depth stood in: the text is right, the speed not the policy's."""


class SweepError(RadarError, RuntimeError):
    """A sweep could not be run, or jobs of it failed while the others ran to their end.

    Args:
        message: what happened, all in all.
        failures: name and error of each job that failed.
    """

    def __init__(self, message: str, failures: Sequence[tuple[str, Exception]] = ()) -> None:
        super().__init__(message)
        self.failures = list(failures)


class JobError(RadarError):
    """What went wrong in one job of a sweep, as text: other processes may be unable to unpickle the error itself.

    Args:
        line: the error in one line.
        trace: its traceback.
        mendable: whether the user can mend it.
    """

    def __init__(self, line: str, trace: str, mendable: bool) -> None:
        super().__init__(line, trace, mendable)
        self.line, self.trace, self.mendable = line, trace, mendable

    def __str__(self) -> str:
        return self.line


class LimitError(RadarError, MemoryError):
    """A measurement exceeds the limit that it was to keep."""


def check_whole(name: str, value: object, least: int | None) -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: how the message calls it.
        least: the smallest allowed; None: any.

    Raises:
        InputError: naming what was expected and what came.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or (least is not None and int(value) < least):  # type: ignore[call-overload]
        least_said = "" if least is None else f" ≥ {least}"
        raise InputError(f"{name}: expected a whole number{least_said}, got {value!r}")


def in_words(**found: Sequence[str]) -> str:
    """What is amiss with a set of names, in words: ``missing ['a'], unexpected ['b']``, but only what there is.

    Args:
        found: the names, by how they are wrong.
    """
    return ", ".join(f"{how.replace('_', ' ')} {list(names)}" for how, names in found.items() if names)
