"""The files are plain Parquet: other tools read them without radar-rl."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from radar_rl.rollouts import Trace

SHIPPED = Path(__file__).parents[2] / "datasets" / "sample"

KINDS = ("trace", "sequences", "rollouts")


@pytest.fixture(params=KINDS)
def files(request: pytest.FixtureRequest, collection: Path) -> list[Path]:
    folder = SHIPPED / "rollouts" / "rollouts" if request.param == "rollouts" else collection / request.param
    return sorted(folder.glob("*.parquet"))


def test_polars_pyarrow_and_hugging_face_read_the_same_rows(files: list[Path], tmp_path: Path) -> None:
    table = pq.read_table(files)
    assert len(table) > 0
    assert pyarrow.dataset.dataset(files).to_table().equals(table)
    scanned = pl.scan_parquet(files).collect()
    assert scanned.columns == table.column_names
    hub = pytest.importorskip("datasets")
    loaded = hub.load_dataset(
        "parquet", data_files=[str(file) for file in files], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == table.column_names
    assert len(loaded) == len(scanned) == len(table)
    last = table.slice(len(table) - 1).to_pylist()[0]
    for row in (scanned.row(-1, named=True), loaded[len(loaded) - 1]):
        for name, value in last.items():
            np.testing.assert_array_equal(np.array(row[name]), np.array(value))


def test_the_columns_hold_what_they_say(collection: Path, trace: Trace) -> None:
    rows = pl.scan_parquet(collection / "trace" / "*.parquet").collect()
    confidences = rows["confidences"].to_numpy().reshape(-1, trace.settings.max_depth, trace.settings.top_k)
    np.testing.assert_array_equal(confidences, trace.confidences)
    np.testing.assert_array_equal(rows["position"].to_numpy(), trace.position)
