"""Ratios of what was counted, where there may be nothing to count: then None, in a table ``–``.

A text that ends with its first token, which the prefill brings, has no round and no timed second.
"""

import polars as pl

from radar_rl.errors import InputError

NOTHING = "–"


def check_timed(rows: pl.DataFrame) -> None:
    """Refuse rows of which none has a timed token.

    Raises:
        InputError: nothing can be said of them.
    """
    if not rows["tokens"].sum():
        raise InputError(
            "no text has a token after its first one, which comes from the prefill and is not timed: expected texts of "
            "two tokens or more; give other prompts or another model"
        )


def ratio(value: float | None, over: float | None) -> float | None:
    """``value`` / ``over``; None where one is not known, or there is nothing to divide by."""
    return value / over if value is not None and over else None


def relative(value: float | None, base: float | None) -> float | None:
    """``value`` / ``base`` − 1, None where ``ratio`` is."""
    share = ratio(value, base)
    return None if share is None else share - 1


def shown(form: str, *values: float | None) -> str:
    """Values in a format such as ``{:.2f}×``, as a table shows them: ``–`` if one is not known."""
    return NOTHING if None in values else form.format(*values)
