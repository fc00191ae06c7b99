from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic_trace import HARDWARE

from radar_rl.evaluation.compare import comparison, contenders
from radar_rl.evaluation.picture import draw_comparison
from radar_rl.offline.tuning import tune_rules
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Trace


@pytest.mark.parametrize("prompts", [60, 4])
def test_the_picture_shows_every_kind_of_policy(trace: Trace, tmp_path: Path, prompts: int) -> None:
    outcomes = Outcomes.of(trace.select(np.arange(60) < prompts), HARDWARE)
    rules = tune_rules(outcomes)
    entries = contenders(outcomes, rules, [("mine", ConfidenceThreshold(0.3), 2.0)])
    rows = comparison(outcomes, entries, rules.static.name, resamples=50, seed=0)
    draw_comparison(rows, rules.static.name, "target + draft", tmp_path / "c.png")
    image = imread(tmp_path / "c.png")
    assert image.shape[1] > image.shape[0] > 400
    colours = {tuple(int(channel * 255) for channel in pixel[:3]) for pixel in image.reshape(-1, image.shape[2])}
    assert (0x1F, 0x6F, 0xB4) in colours  # a learned policy's marker
    assert (0x2B, 0x2D, 0x33) in colours  # the oracle's


def test_many_policies_stand_in_the_order_of_their_gains(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: figures.append(self))
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    learned = [(f"run-{i}", ConfidenceThreshold(0.04 * i), 2.0) for i in range(20)]
    rows = comparison(outcomes, contenders(outcomes, rules, learned), rules.static.name, resamples=20, seed=0)
    draw_comparison(rows, rules.static.name, "target + draft", tmp_path / "c.png")
    (figure,) = figures
    left, right = figure.axes
    labels = [label.get_text() for label in right.get_yticklabels()]
    gains = dict(rows.filter(rows["task"] == "all").select("policy", "speedup_static").iter_rows())
    assert labels == sorted(labels, key=lambda name: -gains[name])
    assert {"oracle", *(name for name, _, _ in learned)} <= set(labels)
    best = max((name for name, _, _ in learned), key=gains.__getitem__)
    named = {text.get_text() for text in left.texts}
    assert best in named
    assert len(named) == 3  # the tuned depth, the best rule, the best run
    assert figure.get_figheight() > 20 * 0.25  # room for the labels
