import logging

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.errors import ConfigError
from radar_rl.offline.tuning import RATES, ROOT_ENTROPIES, RULE_FEATURES, RULES, THRESHOLDS, tune_rules, tune_static
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import ConfidenceThreshold, ExpectedGain, Policy, StaticDepth, Svip, TapOut
from radar_rl.runtime.kinds import build_rule, describe_rule


@pytest.fixture(scope="module")
def featured() -> Outcomes:
    return Outcomes.of(with_features(make_trace(prompts=24, new_tokens=40, seed=1)), HARDWARE)


def speed(outcomes: Outcomes, rule: Policy) -> float:
    return walk_policy(outcomes, rule).tokens_per_second


def test_the_tuned_static_depth_is_the_fastest(outcomes: Outcomes) -> None:
    tuned = tune_static(outcomes)
    speeds = [speed(outcomes, StaticDepth(depth)) for depth in range(1, 9)]
    assert tuned.static.depth == int(np.argmax(speeds)) + 1
    assert tuned.walk.tokens_per_second == max(speeds)


def test_the_tuned_rules_are_the_fastest_of_their_kind(featured: Outcomes) -> None:
    tuned = tune_rules(featured)
    assert len(tuned.rules) == len(RULES)
    rate = tune_static(featured).walk.tokens_per_second
    assert tuned.static_walk.tokens_per_second == rate
    rules = dict(zip(RULES, tuned.rules, strict=True))
    gain = rules["gain"]
    assert isinstance(gain, ExpectedGain)
    # A call costs itself, its decision, and after the first one the verification of 49 more nodes.
    np.testing.assert_allclose(gain.seconds, [0.00151] + [0.00101] * 6)
    for kind, settings in {
        "threshold": [ConfidenceThreshold(value) for value in THRESHOLDS],
        "svip": [Svip(value) for value in ROOT_ENTROPIES],
        "gain": [ExpectedGain(value * rate, gain.seconds) for value in RATES],
    }.items():
        speeds = [speed(featured, rule) for rule in settings]
        assert rules[kind] == settings[int(np.argmax(speeds))]
    tapout = rules["tapout"]
    assert isinstance(tapout, TapOut)
    arms = [tuned.static, *(rules[kind] for kind in ("threshold", "joint", "p-min", "svip", "gain"))]
    assert list(tapout.rules) == arms
    for rule in tuned.rules:  # what was tuned can be saved
        assert build_rule(*describe_rule(rule)) == rule
        assert walk_policy(featured, rule).emitted.sum() == tuned.static_walk.emitted.sum()


def test_rules_without_their_features_are_left_out_and_named(
    outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tuned = tune_rules(outcomes)
    assert len(tuned.rules) == len(RULES) - len(RULE_FEATURES)
    assert [record.message for record in caplog.records] == [
        "rules left out: p-min, svip, adaedl; they look at features that the trace was not read with: "
        "collect with features=[entropy,log_probs]"
    ]


def test_rules_are_chosen_by_name(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    tuned = tune_rules(outcomes, ["plus-two", "threshold"])
    assert [rule.name.rpartition("-")[0] for rule in tuned.rules] == ["threshold", "plus-two"]
    assert not caplog.records
    assert tune_rules(outcomes, []).rules == ()
    with pytest.raises(ConfigError, match="valid: threshold, joint"):
        tune_rules(outcomes, ["treshold"])
