from pathlib import Path

import numpy as np
import pytest
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
