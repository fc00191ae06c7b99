import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from radar_rl.errors import InputError
from radar_rl.rollouts import claim
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.storage import Store


def hold(folder: Path, held: "multiprocessing.synchronize.Event") -> None:
    with claimed(Store.at(folder), "shard-00000-of-00002"):
        held.set()
        time.sleep(600)


def held_by_another(folder: Path) -> multiprocessing.Process:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=hold, args=(folder, held), daemon=True)
    other.start()
    assert held.wait(60)
    return other


def test_the_living_are_not_disturbed_and_the_dead_are_followed(tmp_path: Path) -> None:
    other = held_by_another(tmp_path)
    for same_or_overlapping in ("shard-00000-of-00002", "shard-00000-of-00001", "shard-00002-of-00003"):
        with (
            pytest.raises(InputError, match=rf"shard-00000-of-00002 is being written by another process.*{other.pid}"),
            claimed(Store.at(tmp_path), same_or_overlapping),
        ):
            pass
    with claimed(Store.at(tmp_path), "shard-00001-of-00002"):
        pass  # another share is another matter
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    for name in ("shard-00000-of-00002", "shard-00000-of-00001"):
        with claimed(Store.at(tmp_path), name):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"), claimed(Store.at(tmp_path / "file" / "out"), "shard"):
        pass


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store without locks, as object stores are, whose owners die soon."""
    for name, seconds in (("RENEWED_EVERY", 0.05), ("DEAD_AFTER", 1.0), ("SETTLED_AFTER", 0.01)):
        monkeypatch.setattr(claim, name, seconds)
    store = Store.at(tmp_path)
    return Store(store.place, store.filesystem, store.folder, None)


def test_without_locks_a_lease_is_renewed(leases: Store) -> None:
    with (
        claimed(leases, "shard-00000-of-00001"),
        pytest.raises(InputError, match=rf"shard-00000-of-00001 is being written by another process.*{os.getpid()}"),
        claimed(leases, "shard-00000-of-00001"),
    ):
        pass
    assert not list(Path(leases.folder).iterdir())  # given back
    with claimed(leases, "shard-00000-of-00001"):
        pass


def test_without_locks_the_silent_are_followed(leases: Store) -> None:
    leases.write_json(".shard-00000-of-00001.lease", {"owner": {"process": 1}, "token": "of a dead one", "beat": 7})
    with claimed(leases, "shard-00000-of-00001"):
        assert b"of a dead one" not in (Path(leases.folder) / ".shard-00000-of-00001.lease").read_bytes()


def test_without_locks_other_numbers_of_shards_are_excluded(leases: Store) -> None:
    with (
        claimed(leases, "shard-00000-of-00002"),
        pytest.raises(InputError, match="shard-00000-of-00002 is being written"),
        claimed(leases, "shard-00000-of-00001"),
    ):
        pass
    assert not leases.names(".lease", hidden=True)  # whoever is refused leaves nothing that others would wait for
    with claimed(leases, "shard-00000-of-00002"), claimed(leases, "shard-00001-of-00002"):
        pass


def test_of_two_simultaneous_claims_one_stays(leases: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = time.sleep

    def another_writes_meanwhile(seconds: float) -> None:
        if seconds == claim.SETTLED_AFTER:
            leases.write_json(".shard-00000-of-00001.lease", {"owner": {"process": 2}, "token": "another's", "beat": 0})
        slept(seconds)

    monkeypatch.setattr(claim.time, "sleep", another_writes_meanwhile)
    with pytest.raises(InputError, match="'process': 2"), claimed(leases, "shard-00000-of-00001"):
        pass
