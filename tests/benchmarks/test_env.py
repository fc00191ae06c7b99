"""``bench env``: both environments make decisions, and only decisions count."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl import cli
from radar_rl.benchmarks import env as bench
from radar_rl.benchmarks.env import Stepper, bench_env
from radar_rl.configs import load
from radar_rl.envs import DraftTreeReplayVectorEnv
from radar_rl.errors import ConfigError, InputError, TraceError

SMALL: dict[str, Any] = {"num_envs": [1, 3], "seconds": 0.05, "repeats": 2}


def test_the_command_prints_a_line_for_each_number_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/env.json"
    assert cli.main(["bench", "env", "num_envs=[1,3]", "seconds=0.05", "repeats=2", f"out={out}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    figures = json.loads(out.read_text())
    assert [speed["num_envs"] for speed in figures["speeds"]] == [1, 3]
    for speed in figures["speeds"]:
        assert min(speed["native"], speed["sync"]) > 0
        assert speed["times"] == speed["native"] / speed["sync"]
        assert f"{speed['native']:,.0f}" in printed
        assert f"{speed['sync']:,.0f}" in printed
    assert (figures["traces"], figures["episode"]) == ("sample", "sequence")


def test_any_trace_and_any_episode_can_be_measured(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "traces", make_trace(prompts=5, new_tokens=12))
    settings = {key: value for key, value in load("bench-env").items() if key != "defaults"} | SMALL
    settings |= {"traces": str(folder), "episode": "round", "num_envs": [2]}
    assert [speed.num_envs for speed in bench_env(**settings)] == [2]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"num_envs": []}, ConfigError, "at least one"),
        ({"num_envs": [4, 0]}, InputError, "num_envs: expected a whole number ≥ 1, got 0"),
        ({"repeats": 0}, InputError, "repeats"),
        ({"seed": -1}, InputError, "seed"),
        ({"seconds": 0.0}, InputError, "seconds: expected a number > 0"),
        ({"seconds": float("nan")}, InputError, "seconds"),
        ({"continue_probability": 1.5}, InputError, "continue_probability: expected a number in 0 … 1"),
        ({"episode": "day"}, ConfigError, "valid: sequence, round"),
        ({"observation": ["mood"]}, ConfigError, "valid: confidences, depth"),
        ({"observation": ["entropy"]}, TraceError, "entropy"),
    ]
    for values, error, message in wrong:
        with pytest.raises(error, match=message):
            bench_env(**settings | values)


def test_steps_that_only_begin_an_episode_are_no_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every round is an episode that stops at once, so every second step begins anew, and no decision is made in it.
    envs = DraftTreeReplayVectorEnv(4, make_trace(prompts=3, new_tokens=12), hardware=HARDWARE, episode="round")
    seconds = iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(seconds)))
    stepper = Stepper(envs, np.zeros((1, 4), dtype=np.int64), seed=0)
    assert stepper.decisions_per_second(4.0) == pytest.approx(4 * 2 / 4)  # steps 1 and 3 of 3
    assert stepper.decisions_per_second(5.0) == pytest.approx(4 * 2 / 5)  # the first one still begins
