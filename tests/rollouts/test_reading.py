import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_trace import MadeTrace, make_trace, with_features, write_collection

from radar_rl.errors import TraceError
from radar_rl.rollouts import Trace, load_rollouts, load_trace, read_traces, trace_parts, trace_settings
from radar_rl.speculative.features import COLUMNS


def test_what_was_written_is_read(collection: Path, trace: Trace) -> None:
    loaded = load_trace(collection)
    assert loaded.settings == trace.settings == trace_settings(collection)
    for name in ("sequence_id", "task", "prompt_id"):
        assert getattr(loaded.sequences, name) == getattr(trace.sequences, name)
    for name in ("prompt_length", "length"):
        np.testing.assert_array_equal(getattr(loaded.sequences, name), getattr(trace.sequences, name))
    for name in ("sequence", "position", "confidences", "accepted", "censored"):
        array, expected = getattr(loaded, name), getattr(trace, name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_the_lazy_frame_says_the_same(collection: Path, trace: Trace) -> None:
    frame = read_traces(collection)
    expected = ["sequence_id", "task", "prompt_id", "position", "confidences", "accepted", "censored"]
    assert frame.collect_schema().names() == expected
    rows = frame.collect()
    np.testing.assert_array_equal(np.array(rows["accepted"].to_list()), trace.accepted)
    np.testing.assert_array_equal(rows["position"].to_numpy(), trace.position)
    assert rows["prompt_id"].to_list() == [trace.sequences.prompt_id[i] for i in trace.sequence]
    some = read_traces(collection).filter(pl.col("task") == "second").select("position").collect()
    assert len(some) == sum(trace.sequences.task[i] == "second" for i in trace.sequence)


def test_only_the_texts_to_keep_are_loaded(collection: Path, trace: Trace) -> None:
    loaded = load_trace(collection, keep=lambda texts: np.array([task == "second" for task in texts.task]))
    expected = trace.select(np.array([task == "second" for task in trace.sequences.task]))
    assert loaded.sequences.sequence_id == expected.sequences.sequence_id
    for name in ("sequence", "position", "confidences", "accepted", "censored"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(expected, name))
    assert not len(load_trace(collection, keep=lambda texts: np.zeros(len(texts), dtype=bool)))


@pytest.mark.parametrize("widen", [False, True])
def test_a_smaller_tree_size_is_read_back(collection: Path, trace: MadeTrace, widen: bool) -> None:
    loaded = load_trace(collection, tree_size=20, widen_first_level=widen)
    expected = trace.at(20, widen_first_level=widen)
    assert loaded.settings == expected.settings
    assert loaded.widen_first_level is widen
    np.testing.assert_array_equal(loaded.accepted, expected.accepted)
    for size in (1, 61):
        with pytest.raises(TraceError, match=f"expected 2 … 60 .as collected., got {size}"):
            load_trace(collection, tree_size=size)


def test_a_trace_is_read_part_by_part(collection: Path, trace: Trace) -> None:
    parts = list(trace_parts(collection))
    assert [len(part.sequences) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part.accepted for part in parts]), trace.accepted)


def test_further_columns_are_passed_on_and_must_be_in_every_file(collection: Path, trace: Trace) -> None:
    files = sorted((collection / "trace").glob("*.parquet"))
    for file in files[:2]:
        rewrite(file, lambda table: table.append_column("entropy", pa.array(np.arange(len(table), dtype=np.float16))))
        remember(collection, f"trace/{file.name}")
    with pytest.raises(TraceError, match=r"part-00002.parquet: other columns than trace/part-00000.parquet .*entropy"):
        read_traces(collection)
    rewrite(files[2], lambda table: table.append_column("entropy", pa.array(np.arange(len(table), dtype=np.float16))))
    remember(collection, f"trace/{files[2].name}")
    frame = read_traces(collection)
    assert frame.collect_schema()["entropy"] == pl.Float16
    first = frame.select("entropy").head(3).collect()
    assert first["entropy"].to_list() == [0, 1, 2]
    np.testing.assert_array_equal(load_trace(collection).confidences, trace.confidences)


def test_features_are_read_on_request(tmp_path: Path) -> None:
    made = with_features(make_trace(prompts=10, new_tokens=20, seed=3))
    folder = write_collection(tmp_path / "traces", made)
    assert load_trace(folder).features == {}
    names = list(COLUMNS)
    loaded = load_trace(folder, features=names)
    parts = list(trace_parts(folder, features=names))
    for name, values in made.features.items():
        assert loaded.features[name].dtype == COLUMNS[name].dtype
        np.testing.assert_array_equal(loaded.features[name], values)
        np.testing.assert_array_equal(np.concatenate([part.features[name] for part in parts]), values)
    even = np.arange(10) % 2 == 0
    kept = made.select(even)
    some = load_trace(folder, features=["mass"], keep=lambda texts: np.isin(texts.prompt_id, kept.sequences.prompt_id))
    assert list(some.features) == ["mass"]
    np.testing.assert_array_equal(some.features["mass"], kept.features["mass"])
    piece = slice(3, 9)
    np.testing.assert_array_equal(loaded.rows_of(piece).features["hidden"], made.features["hidden"][piece])


def test_features_that_cannot_be_read_are_named(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no column for the feature entropy \(collected: none\).*features=\[entr"):
        load_trace(collection, features=["entropy"])
    folder = write_collection(tmp_path / "more", with_features(make_trace(prompts=4, new_tokens=10)))
    load_trace(folder, tree_size=20, features=["entropy"])
    with pytest.raises(TraceError, match=r"mass is of the collected trees of 60 nodes, not of tree_size=20"):
        load_trace(folder, tree_size=20, features=["entropy", "mass"])


def test_nan_in_a_feature_is_named(tmp_path: Path) -> None:
    made = with_features(make_trace(prompts=4, new_tokens=10))
    made.features["margin"][5, 2] = np.nan
    folder = write_collection(tmp_path / "traces", made)
    load_trace(folder, features=["entropy"])
    with pytest.raises(TraceError, match=r"trace.part-00000.parquet: the feature margin holds NaN"):
        load_trace(folder, features=["margin"])


def test_unexpected_settings_are_named(collection: Path) -> None:
    load_trace(collection, expect={"top_k": 10, "max_depth": 8})
    with pytest.raises(TraceError, match=r"top_k=10, expected 8"):
        load_trace(collection, expect={"top_k": 8})


def test_no_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="radar-rl collect out="):
        load_trace(tmp_path / "nowhere")


def rewrite(path: Path, change: object) -> None:
    """Change a file's table, keeping its metadata."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)  # type: ignore[operator]


def remember(collection: Path, file: str) -> None:
    """Put a file's present size and checksum into the manifest."""
    manifest = collection / "manifest-00000-of-00001.json"
    values, data = json.loads(manifest.read_text()), (collection / file).read_bytes()
    record = values["parts"][Path(file).stem]["files"][file]
    record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(values))


def test_damage_is_found(collection: Path) -> None:
    path = collection / "trace" / "part-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for read in (load_trace, read_traces):
        with pytest.raises(TraceError, match=r"trace/part-00001.parquet: holds \d+ bytes, its manifest says"):
            read(collection)
    flipped = bytearray(whole)
    flipped[200] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(TraceError, match=r"trace/part-00001.parquet: altered"):
        read_traces(collection)
    assert len(read_traces(collection, verify=False).collect_schema()) == 7  # the footer is whole
    for change in (lambda table: table.slice(1), lambda table: pa.concat_tables([table.slice(1), table.slice(0, 1)])):
        path.write_bytes(whole)
        rewrite(path, change)
        with pytest.raises(TraceError, match=r"trace/part-00001.parquet: (holds|altered)"):
            load_trace(collection)
        remember(collection, "trace/part-00001.parquet")  # whoever alters the manifest too
        with pytest.raises(TraceError, match=r"part-00001: rows are missing, doubled or out of order|holds"):
            load_trace(collection)
    path.write_bytes(whole)
    remember(collection, "trace/part-00001.parquet")
    load_trace(collection)


def test_nan_is_found(collection: Path, trace: Trace, write_collection: object, tmp_path: Path) -> None:
    confidences = trace.confidences.copy()
    confidences[7, 2, 3] = np.nan
    write_collection(tmp_path / "bad", replace(trace, confidences=confidences))  # type: ignore[operator]
    with pytest.raises(TraceError, match="NaN"):
        load_trace(tmp_path / "bad")


def test_files_of_other_settings_are_refused(
    collection: Path, trace: Trace, write_collection: object, tmp_path: Path
) -> None:
    other = replace(trace, settings=replace(trace.settings, draft="another@1"))
    write_collection(tmp_path / "other", other)  # type: ignore[operator]
    for part in ("trace", "sequences"):
        name = f"{part}/part-00002.parquet"
        (collection / name).write_bytes((tmp_path / "other" / name).read_bytes())
        remember(collection, name)
    expected = r"part-00002.parquet: made with other settings.*draft 'another@1' instead of 'draft@0'"
    for read in (load_trace, read_traces):
        with pytest.raises(TraceError, match=expected):
            read(collection)
    shutil.copy(tmp_path / "other" / "manifest-00000-of-00001.json", collection / "manifest-00001-of-00002.json")
    for read in (load_trace, read_traces, trace_settings):
        with pytest.raises(TraceError, match=r"draft: 'draft@0' in one, 'another@1' in the other"):
            read(collection)


def test_only_finished_parts_are_read(collection: Path, trace: Trace) -> None:
    manifest = collection / "manifest-00000-of-00001.json"
    values = json.loads(manifest.read_text())
    del values["parts"]["part-00002"]
    manifest.write_text(json.dumps(values))
    assert load_trace(collection).sequences.sequence_id == trace.sequences.sequence_id[:8]
    assert read_traces(collection).collect()["sequence_id"].n_unique() == 8
    values["parts"] = {}
    manifest.write_text(json.dumps(values))
    with pytest.raises(TraceError, match="no part is finished"):
        load_trace(collection)


def test_traces_are_no_rollouts(collection: Path) -> None:
    with pytest.raises(TraceError, match="expected rollouts"):
        load_rollouts(collection)
