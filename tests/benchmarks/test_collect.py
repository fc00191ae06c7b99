"""``bench collect``: three ways over the same prompts, each counted by what it finds out."""

import json
from pathlib import Path
from typing import Any

import pytest

from radar_rl import cli
from radar_rl.benchmarks.collect import LIVE, RADAR, TRACES, bench_collect
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError


def settings(**other: Any) -> dict[str, Any]:
    values = load("bench-collect") | {"model": load("model", "pocket"), "tasks": ["dialogue", "python"], "limit": 2}
    del values["defaults"]
    return values | {"slow_limit": 1, "max_new_tokens": 10, "max_depth": 3} | other


def test_rows_and_outcomes_are_those_of_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces, live, radar = bench_collect(**settings(out=str(tmp_path / "deep/rates.json")))
    assert [rate.name for rate in (traces, live, radar)] == [TRACES, LIVE, RADAR]
    assert traces.rows == 5 * 9  # dialogue-001 has a second turn; of 10 tokens each but the last is a root
    assert (traces.outcomes, live.outcomes, radar.outcomes) == (3 * traces.rows, live.rows, 3 * radar.rows)
    assert 2 <= radar.rows <= live.rows <= 2 * 9  # the deeper the tree, the fewer the rounds
    assert min(rate.seconds for rate in (traces, live, radar)) > 0
    printed = capsys.readouterr().out
    assert "What bounds the traces" in printed
    assert "RADAR's way" in printed
    written = json.loads((tmp_path / "deep/rates.json").read_text())
    assert [rate["rows"] for rate in written["rates"]] == [traces.rows, live.rows, radar.rows]
    assert written["bounds"]["head_tokens"] == traces.rows * 21


def test_an_eagle2_head_is_measured_too() -> None:
    rates = bench_collect(**settings(model=load("model", "pocket_eagle2"), tasks=["python"], limit=1))
    assert rates[0].rows == 9


def test_bad_arguments_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="slow_limit: expected at most limit=2, got 3"):
        bench_collect(**settings(slow_limit=3))
    with pytest.raises(InputError, match="texts_per_batch"):
        bench_collect(**settings(texts_per_batch=0))
    assert cli.main(["bench", "collect", "tasks=[nowhere]"]) == 2
    assert "unknown task 'nowhere'" in capfd.readouterr().err
