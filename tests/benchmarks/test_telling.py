"""What a benchmark measured is printed and written."""

import json
from pathlib import Path

import pytest
from rich.table import Table

from radar_rl.benchmarks.telling import in_line, machine, tell
from radar_rl.errors import InputError
from radar_rl.speculative import Pair


def test_a_measurement_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], pocket: Pair) -> None:
    out = tmp_path / "new" / "told.json"
    where = machine(pocket)
    shown = [Table("microseconds", title="how long"), in_line({"threads": 1, "torch": "2"})]
    tell("bench thing", shown, where, str(out))
    assert json.loads(out.read_text(encoding="utf-8")) == where
    said = capsys.readouterr().out
    assert "how long" in said
    assert f"threads 1, torch 2\nbench thing: written to {out}" in said


def test_without_a_file_nothing_is_written_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    tell("bench thing", ["words"], {}, None)
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="taken"):
        tell("bench thing", ["words"], {}, str(tmp_path / "taken" / "told.json"))
