import resource
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radar_rl.errors import InputError, TraceError
from radar_rl.rollouts.storage import FileRecord, Store

ROWS = pa.table({"x": list(range(50_000))})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "out")


def test_what_was_written_is_read(store: Store) -> None:
    record = store.write_parquet("trace/rows.parquet", ROWS, "trace", {"top_k": 10})
    assert (record.rows, record.bytes) == (50_000, (Path(store.folder) / "trace/rows.parquet").stat().st_size)
    table, settings = store.read_parquet("trace/rows.parquet", "trace", record=asdict(record))
    assert table.equals(ROWS)
    assert settings == {"top_k": 10}
    assert store.names(".parquet", folder="trace") == ["rows.parquet"]
    assert store.names(".parquet", folder="nowhere") == []


def test_a_full_disk_leaves_the_old_file_and_no_half(store: Store) -> None:
    store.write_parquet("trace/rows.parquet", ROWS, "trace", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*rows.parquet: File too large; finished files are whole"):
            store.write_parquet("trace/rows.parquet", pa.table({"x": list(range(60_000))}), "trace", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.read_parquet("trace/rows.parquet", "trace")[0].equals(ROWS)
    assert [path.name for path in (Path(store.folder) / "trace").iterdir()] == ["rows.parquet"]
    assert [path.name for path in Path(store.folder).iterdir()] == ["trace"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/manifest.json"):
        Store.at(tmp_path / "file").write_json("manifest.json", {})


def test_no_filesystem_of_that_name_is_named() -> None:
    with pytest.raises(InputError, match=r"gopher://somewhere/else: not a folder"):
        Store.at("gopher://somewhere/else")
    with pytest.raises(InputError, match="got nothing"):
        Store.at(" ")


def test_secrets_of_a_uri_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = Store.at("s3://key:secret@bucket/folder?region=us-east-1&endpoint_override=127.0.0.1:1&scheme=http")
    assert store.place == "s3://bucket/folder"
    with pytest.raises(InputError) as refused:
        Store.at("s3://key:secret@bucket/folder?nonsense=1")
    assert "secret" not in str(refused.value)


def test_files_of_others_and_of_other_kinds_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out" / "foreign.parquet")
    with pytest.raises(TraceError, match=r"foreign.parquet: not written by radar-rl"):
        store.read_parquet("foreign.parquet", "trace")
    store.write_parquet("ours.parquet", pa.table({"x": [1]}), "sequences", {})
    with pytest.raises(TraceError, match="expected trace"):
        store.read_parquet("ours.parquet", "trace")
    with pytest.raises(TraceError, match=r"nowhere.parquet: missing"):
        store.read_parquet("nowhere.parquet", "trace")


def test_a_truncated_or_altered_file_is_named(store: Store) -> None:
    record = asdict(store.write_parquet("rows.parquet", ROWS, "trace", {}))
    path = Path(store.folder) / "rows.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(TraceError, match=rf"rows.parquet: holds {len(whole) - 100} bytes, its manifest says"):
        store.read_parquet("rows.parquet", "trace", record=record)
    with pytest.raises(TraceError, match=r"rows.parquet: damaged"):
        store.read_parquet("rows.parquet", "trace")
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(TraceError, match=r"rows.parquet: altered, its checksum"):
        store.read_parquet("rows.parquet", "trace", record=record)
    path.write_bytes(whole)
    wrong = asdict(FileRecord(49_999, record["bytes"], record["sha256"]))
    with pytest.raises(TraceError, match=r"rows.parquet: holds 50000 rows, its manifest says 49999"):
        store.read_parquet("rows.parquet", "trace", record=wrong)
