"""How the page writes numbers and names: one format for all of them."""

import re

PERCENT = "\u202f%"  # with a narrow space that does not break
MINUS = "−"


def percent(share: float, places: int = 1) -> str:
    """0.077 → ``7.7 %``."""
    return f"{_rounded(100 * share, places):.{places}f}{PERCENT}".replace("-", MINUS)


def signed_percent(gain: float, places: int = 1) -> str:
    """0.077 → ``+7.7 %``; nothing is ``0.0 %``."""
    value = _rounded(100 * gain, places)
    return f"{value:{'+' if value else ''}.{places}f}{PERCENT}".replace("-", MINUS)


def interval(low: float, high: float, places: int = 1) -> str:
    """The ends of an interval of speedups as gains: 1.071, 1.084 → ``+7.1 … +8.4 %``."""
    return f"{signed_percent(low - 1, places).removesuffix(PERCENT)} … {signed_percent(high - 1, places)}"


def speed(gain: float) -> str:
    """0.077 → ``7.7 % faster``."""
    size = percent(abs(gain))
    return "as fast" if size == percent(0.0) else f"{size} {'faster' if gain > 0 else 'slower'}"


def milliseconds(seconds: float) -> str:
    """0.0136 → ``13.6 ms``."""
    return f"{1e3 * seconds:.{1 if seconds >= 0.01 else 2}f}\u202fms"


def count(number: int) -> str:
    """1147 → ``1,147``."""
    return f"{number:,}"


def counted(number: int, thing: str) -> str:
    """1, prompt → ``1 prompt``; 1147, prompt → ``1,147 prompts``."""
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"


def folded(name: str, width: int, lines: int = 2) -> str:
    """A name in at most so many lines of about ``width`` characters, cut where it is longer."""
    parts = [""]
    for piece in re.findall(r"[^-_ ]*[-_ ]?", name):
        if parts[-1] and len(parts[-1]) + len(piece.strip()) > width:
            parts.append("")
        parts[-1] += piece
    if len(parts) > lines or len(parts[-1]) > width + 4:
        parts = [*parts[: lines - 1], "".join(parts[lines - 1 :])[: width - 1].rstrip(" -_,") + "…"]
    return "\n".join(part.strip() for part in parts)


def _rounded(value: float, places: int) -> float:
    return round(value, places) + 0.0  # no negative nothing
