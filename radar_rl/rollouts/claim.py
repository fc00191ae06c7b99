"""Claims: one writer per shard. A second one is refused while the first lives, and takes over when it is dead.

In a folder of this machine a claim is a file lock, which the system lets go of when its process ends, however it ends.
An object store has no locks: there a claim is a small object that its owner rewrites every few seconds, and an object
that has not changed for a while belongs to a dead one. Clocks are not compared. Two that claim at the same moment both
write, wait and look whose object stayed.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from radar_rl.errors import InputError
from radar_rl.rollouts.storage import Store

RENEWED_EVERY = 5.0
"""Seconds between two signs of life in an object store."""

DEAD_AFTER = 20.0
"""Seconds without a sign of life after which an owner counts as dead."""

SETTLED_AFTER = 1.0
"""Seconds after which the last of two simultaneous claims has surely been written."""


@contextmanager
def claimed(store: Store, what: str) -> Iterator[None]:
    """Hold the claim on a shard while working on it.

    Args:
        store: the folder.
        what: the shard, ``shard-K-of-N``. Claims of another N exclude it too: their shards share parts with it.

    Raises:
        InputError: another process holds it, or a shard of another N (which one is said), or the folder cannot be
            written.
    """
    if store.local is not None:
        with _locked(store, what):
            yield
    else:
        with _leased(store, what):
            yield


def _me() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _refusal(store: Store, what: str, owner: object) -> InputError:
    return InputError(
        f"{store.place}: {what} is being written by another process ({owner}); "
        "wait for it, stop it, or choose another out="
    )


@contextmanager
def _locked(store: Store, what: str) -> Iterator[None]:
    assert store.local is not None
    lock = FileLock(store.local / f".{what}.lock")
    owner = store.local / f".{what}.owner"  # beside the lock, which filelock empties
    try:
        store.local.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise _refusal(store, what, _owner(store.local, what)) from None
    except OSError as error:
        raise InputError(f"cannot write {store.place}: {error.strerror or error}; choose another out=") from error
    try:
        with suppress(OSError):  # who holds it is only told in messages
            owner.write_text(json.dumps(_me()), encoding="utf-8")
        for name in _of_another_number(store, what, ".lock"):
            try:
                FileLock(store.local / name).acquire(timeout=0).lock.release()
            except Timeout:
                other = name[1:].removesuffix(".lock")
                raise _refusal(store, other, _owner(store.local, other)) from None
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _leased(store: Store, what: str) -> Iterator[None]:
    name = f".{what}.lease"
    _refuse_the_living(store, name)
    mine = {"owner": _me(), "token": uuid.uuid4().hex, "beat": 0}
    store.write_json(name, mine)
    time.sleep(SETTLED_AFTER)
    kept = _lease(store, name)
    if kept is None or kept["token"] != mine["token"]:
        raise _refusal(store, what, kept and kept["owner"])
    over = threading.Event()

    def renew() -> None:
        beat = 0
        while not over.wait(RENEWED_EVERY):
            beat += 1
            now = _lease(store, name)
            if now is not None and now["token"] != mine["token"]:
                return  # taken for dead, after a long pause: what both write is the same
            with suppress(InputError):  # a missed beat is no reason to stop; a lasting failure shows in the next part
                store.write_json(name, mine | {"beat": beat})

    renewing = threading.Thread(target=renew, daemon=True, name=f"lease of {what}")
    renewing.start()
    try:
        for other in _of_another_number(store, what, ".lease"):
            _refuse_the_living(store, other)
        yield
    finally:
        over.set()
        renewing.join()
        with suppress(OSError, pa.ArrowException):
            store.filesystem.delete_file(store.path(name))


def _owner(folder: Path, what: str) -> str:
    """Who holds a lock, as far as it is known."""
    with suppress(OSError):
        return (folder / f".{what}.owner").read_text(encoding="utf-8") or "unknown"
    return "unknown"


def _of_another_number(store: Store, what: str, suffix: str) -> list[str]:
    """Claims on shards of another number of shards than ``what`` is one of."""
    number = what.rpartition("-of-")[2]
    return [name for name in store.names(suffix, hidden=True) if not name.endswith(f"-of-{number}{suffix}")]


def _refuse_the_living(store: Store, name: str) -> None:
    """Watch a lease that is there until it changes or has been still for too long.

    Raises:
        InputError: it changed.
    """
    found = _lease(store, name)
    if found is None:
        return
    what = name[1:].removesuffix(".lease")
    print(
        f"{store.place}: waiting up to {DEAD_AFTER:g} s to see whether {what} is still being written", file=sys.stderr
    )
    waited = 0.0
    while waited < DEAD_AFTER:
        time.sleep(RENEWED_EVERY / 4)
        waited += RENEWED_EVERY / 4
        now = _lease(store, name)
        if now is None:
            return
        if now != found:
            raise _refusal(store, what, found.get("owner"))


def _lease(store: Store, name: str) -> dict[str, object] | None:
    try:
        values: dict[str, object] = json.loads(bytes(store.read(name)))
    except (OSError, pa.ArrowException, ValueError):
        return None
    return values
