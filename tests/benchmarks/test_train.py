"""``bench train``: every way draws the same transitions, and every figure is printed and written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl import cli
from radar_rl.benchmarks.train import as_episodes, bench_train, walked
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError
from radar_rl.offline.walk import Outcomes

SMALL: dict[str, Any] = {"algos": ["bc", "iql"], "batch_size": 16, "updates": 2, "repeats": 2}


def test_the_command_prints_a_line_for_each_algorithm_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/train.json"
    assert cli.main(["bench", "train", "algos=[bc,iql]", "batch_size=16", "updates=2", "repeats=2", f"out={out}"]) == 0
    printed, figures = capsys.readouterr().out, json.loads(out.read_text())
    assert [speed["algo"] for speed in figures["algorithms"]] == ["bc", "iql"]
    for speed in figures["algorithms"]:
        assert min(speed["alone"], speed["buffer"], speed["mdp_dataset"], speed["share"]) > 0
        assert f"{speed['alone']:,.0f}" in printed
    assert f"a batch takes {figures['buffer_ms']:.2f} ms" in printed
    assert (figures["traces"], figures["batch_size"]) == ("sample", 16)


@pytest.mark.parametrize("cut", [True, False])
def test_episodes_hold_the_transitions_of_the_buffer(cut: bool) -> None:
    data = walked(Outcomes.of(make_trace(prompts=9, new_tokens=30, cut=cut), HARDWARE), seed=1)
    transitions = data.transitions(data.first_rate)
    every = transitions.take(np.arange(len(transitions)))
    ours = np.column_stack([data.source.observe(every.row, every.depth), every.action, every.reward, every.terminal])
    ahead = data.source.observe(np.maximum(every.next_row, 0), every.next_depth)
    dataset = as_episodes(data)
    # d3rlpy drops the last step of a text that was cut.
    assert len(every) - dataset.transition_count == sum(not episode.terminated for episode in dataset.episodes)
    assert (len(every) == dataset.transition_count) == (not cut)
    for _ in range(60):
        drawn = dataset.sample_transition()
        theirs = np.r_[drawn.observation, drawn.action, drawn.reward, drawn.terminal]
        found = np.flatnonzero((ours == theirs.astype(ours.dtype)).all(axis=1))
        assert len(found)
        if not drawn.terminal:
            assert (ahead[found] == drawn.next_observation).all(axis=1).any()


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "traces", make_trace(prompts=5, new_tokens=12))
    settings = {key: value for key, value in load("bench-train").items() if key != "defaults"} | SMALL
    settings |= {"traces": str(folder), "algos": ["bc"]}
    assert [speed.algo for speed in bench_train(**settings).algorithms] == ["bc"]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"algos": []}, ConfigError, "algos: expected some of cql, iql, bc, bcq, ddqn.*; got none"),
        ({"algos": ["sac"]}, ConfigError, "got sac"),
        ({"batch_size": 0}, InputError, "batch_size: expected a whole number ≥ 1, got 0"),
        ({"updates": 0}, InputError, "updates"),
        ({"repeats": 0}, InputError, "repeats"),
        ({"seed": -1}, ConfigError, "seed"),
    ]
    for values, error, message in wrong:
        with pytest.raises(error, match=message):
            bench_train(**settings | values)
