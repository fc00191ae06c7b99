"""The command line that a result comes from, as its user typed it: what records keep."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_typed: ContextVar[tuple[str, ...] | None] = ContextVar("typed", default=None)


def typed() -> list[str]:
    """The arguments after the program's name; of a program that is not ours, its own."""
    words = _typed.get()
    return sys.argv[1:] if words is None else list(words)


@contextmanager
def typed_as(words: Sequence[str]) -> Iterator[None]:
    """What runs inside comes from this command line, whatever ``sys.argv`` says, and in whichever process.

    Hydra reads its words from ``sys.argv``, so those stand there rewritten; a job of a sweep may run elsewhere.
    """
    before = _typed.set(tuple(words))
    try:
        yield
    finally:
        _typed.reset(before)
