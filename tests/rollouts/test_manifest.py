import json
from pathlib import Path

import pytest

from radar_rl.errors import ConfigError, TraceError
from radar_rl.rollouts.manifest import DataSet, Manifest, check_shard, part_name
from radar_rl.rollouts.storage import Store

SETTINGS = {"top_k": 10, "tasks": ("a", "b")}


def test_a_manifest_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    manifest = Manifest.open(store, "traces", SETTINGS, 2, notes={"threads": 1})
    manifest.finish("part-00000", {"rows": 5, "files": {}})
    again = Manifest.open(store, "traces", SETTINGS | {"tasks": ["a", "b"]}, 2, notes={"threads": 2})
    assert again.parts == {"part-00000": {"rows": 5, "files": {}}}
    assert again.notes == {"threads": 1}
    with pytest.raises(TraceError, match=r"top_k: 10 there, 8 asked for"):
        Manifest.open(store, "traces", SETTINGS | {"top_k": 8}, 2)
    with pytest.raises(TraceError, match="expected rollouts"):
        Manifest.open(store, "rollouts", SETTINGS, 2)


def test_shards_make_one_data_set_whatever_their_number(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for shard, shards, part in ((1, 2, 1), (0, 3, 3), (2, 3, 2), (0, 2, 0)):
        Manifest.open(store, "traces", SETTINGS, 5, shard, shards).finish(part_name(part), {"rows": part, "files": {}})
    found = DataSet.read(store, "traces")
    assert list(found.parts) == [part_name(i) for i in range(4)]
    assert (found.rows, found.complete) == (6, False)
    assert found.files("trace")[-1] == "trace/part-00003.parquet"
    other = Manifest(store, "traces", {"top_k": 8}, 5, 4, 5)
    other.save()
    with pytest.raises(TraceError, match=r"manifest-00004-of-00005.json differ .*top_k: 10 in one, 8 in the other"):
        DataSet.read(store, "traces")


def test_parts_stand_in_the_order_of_the_work(tmp_path: Path) -> None:
    manifest = Manifest.open(Store.at(tmp_path), "traces", SETTINGS, 200_000)
    for number in (100_000, 99_999, 3):
        manifest.finish(part_name(number), {"rows": 1, "files": {}})
    assert list(DataSet.read(Store.at(tmp_path), "traces").parts) == [part_name(i) for i in (3, 99_999, 100_000)]


WHOLE = {"kind": "traces", "schema_version": 2, "settings": {}, "parts_total": 1, "shard": 0, "shards": 1, "notes": {}}
ODD_PARTS = [[], {"part-00000": {"rows": 1}}, {"part-00000": {"rows": 1, "files": {"f": {"rows": 1, "bytes": 2}}}}]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"kind": "traces"}', "\xff", *(json.dumps(WHOLE | {"parts": parts}) for parts in ODD_PARTS)]
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest-00000-of-00001.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(TraceError, match=r"manifest-00000-of-00001.json is damaged"):
        DataSet.read(Store.at(tmp_path), "traces")


def test_an_old_data_set_is_refused(tmp_path: Path) -> None:
    about = {"kind": "traces", "schema_version": 1}
    (tmp_path / "manifest-00000-of-00001.json").write_text(json.dumps(about))
    with pytest.raises(TraceError, match="schema version 2, got traces of 1"):
        DataSet.read(Store.at(tmp_path), "traces")


@pytest.mark.parametrize(("shard", "shards"), [(-1, 2), (2, 2), (0, 0)])
def test_a_share_that_there_is_not_is_refused(shard: int, shards: int) -> None:
    with pytest.raises(ConfigError, match=f"shard={shard} and shards={shards}"):
        check_shard(shard, shards)
