"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere. All of it goes to stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0

_job: ContextVar[str] = ContextVar("job", default="")


@contextmanager
def beside_others(job: str) -> Iterator[None]:
    """Several jobs share the terminal: within, progress is plain lines that begin with the job's name."""
    token = _job.set(f"{job}: ")
    try:
        yield
    finally:
        _job.reset(token)


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items`` and show how far they are.

    Args:
        items: what is worked on, one step each.
        total: how many there will be.
        label: what is done, a few words.
    """
    if sys.stderr.isatty() and not _job.get():
        yield from _bar(items, total, label)
    else:
        yield from _lines(items, total, _job.get() + label)


def _bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, total=total, description=label, console=Console(stderr=True), transient=False)


def _lines(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    start = said = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and done < total:
            said = now
            left = (now - start) / done * (total - done)
            print(f"{label}: {done}/{total}, {now - start:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)
    print(f"{label}: {done}/{total}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
