"""``bench decide``: every way of deciding has its time, RADAR's own among them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_weights import make_weights

from radar_rl import cli
from radar_rl.benchmarks.decide import AsPublished, bench_decide, random_radar
from radar_rl.configs import load
from radar_rl.errors import ArtifactError, ConfigError, InputError
from radar_rl.policies import RadarPolicy
from radar_rl.speculative import DraftState

SMALL: dict[str, Any] = {"max_depth": 3, "top_k": 4, "tree_size": 12, "max_new_tokens": 8, "repeats": 1}


def test_the_command_prints_every_way_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = tmp_path / "w.pt", tmp_path / "deep/decide.json"
    torch.save({name: torch.from_numpy(values) for name, values in make_weights(top_k=4).items()}, weights)
    small = [f"{key}={value}" for key, value in SMALL.items()]
    arguments = ["bench", "decide", *small, "messages=[Two plus two?]", f"weights={weights}", f"out={out}"]
    assert cli.main(arguments) == 0
    printed, ways = capsys.readouterr().out, json.loads(out.read_text())["ways"]
    assert len(ways) == 7
    assert len({way["decisions"] for way in ways}) == 1  # all are asked alike often
    assert all(0 < way["median"] <= way["most"] for way in ways)
    assert ways[0]["numbers"] == 4 + 1
    assert ways[1]["numbers"] == 3 * 4 + 1
    assert "learned, 64 × 64, all calls" in printed
    assert "no network" in printed  # what is left to gain
    assert "1.000" in printed  # RADAR's own, beside itself


def test_radar_as_published_has_the_probabilities_of_ours() -> None:
    policy = random_radar(4, seed=1)
    confidences = -np.random.default_rng(0).exponential(3.0, (5, 4)).cumsum(axis=1).astype(np.float16)
    theirs, decided = AsPublished(policy), []
    for depth in range(1, 6):
        state = DraftState(0, depth, 6, confidences)
        np.testing.assert_allclose(theirs.stop_probability(state), policy.stop_probability_of(state), atol=1e-5)
        torch.manual_seed(0)
        decided += [theirs.act(state) for _ in range(50)]
    assert 0 < sum(decided) < len(decided)  # drawn


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    settings = {key: value for key, value in load("bench-decide").items() if key != "defaults"}
    settings |= {"model": load("model", "pocket"), "messages": ["Two plus two?"], **SMALL}
    other = tmp_path / "w.pt"
    torch.save({name: torch.from_numpy(values) for name, values in make_weights(top_k=3).items()}, other)
    assert RadarPolicy("r", make_weights(top_k=3)).top_k == 3
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"messages": []}, ConfigError, "expected at least one"),
        ({"max_depth": 1}, InputError, "max_depth: expected a whole number ≥ 2"),
        ({"feature_dim": 0}, InputError, "feature_dim"),
        ({"repeats": 0}, InputError, "repeats"),
        ({"weights": str(other)}, ConfigError, "reads top_k 3"),
        ({"weights": "no/such.pt"}, ArtifactError, "cannot be read"),
    ]
    for values, error, message in wrong:
        with pytest.raises(error, match=message):
            bench_decide(**settings | values)
