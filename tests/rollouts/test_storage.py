from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radar_rl.errors import InputError, TraceError
from radar_rl.rollouts.storage import MANIFEST, Manifest, read_parquet, write_json, write_parquet


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, pa.table({"x": [1, 2]}), "trace", {"top_k": 10})

    def full_disk(table: pa.Table, where: Path, **settings: object) -> None:
        where.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        write_parquet(path, pa.table({"x": [3]}), "trace", {"top_k": 10})
    table, settings = read_parquet(path, "trace")
    assert table["x"].to_pylist() == [1, 2]
    assert settings == {"top_k": 10}


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "file" / "manifest.json", {})


def test_files_of_others_and_of_other_kinds_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"x": [1]}), foreign)
    with pytest.raises(TraceError, match="not written by radar-rl"):
        read_parquet(foreign, "trace")
    write_parquet(tmp_path / "ours.parquet", pa.table({"x": [1]}), "sequences", {})
    with pytest.raises(TraceError, match="expected trace"):
        read_parquet(tmp_path / "ours.parquet", "trace")
    with pytest.raises(TraceError, match="missing or damaged"):
        read_parquet(tmp_path / "nowhere.parquet", "trace")


def test_a_manifest_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, "traces", {"top_k": 10, "tasks": ("a", "b")}, 2)
    manifest.finish("shard-00000", {"rows": 5})
    again = Manifest.open(tmp_path, "traces", {"top_k": 10, "tasks": ["a", "b"]}, 2)
    assert again.shards == {"shard-00000": {"rows": 5}}
    assert not again.complete
    with pytest.raises(TraceError, match=r"top_k: 10 there, 8 asked for"):
        Manifest.open(tmp_path, "traces", {"top_k": 8, "tasks": ["a", "b"]}, 2)
    with pytest.raises(TraceError, match="expected rollouts"):
        Manifest.open(tmp_path, "rollouts", {"top_k": 10, "tasks": ["a", "b"]}, 2)


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "traces"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(TraceError, match="damaged"):
        Manifest.read(tmp_path, "traces")
