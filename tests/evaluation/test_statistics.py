import numpy as np
import pytest

from radar_rl.evaluation import statistics
from radar_rl.evaluation.statistics import MIN_PROMPTS, mean_speedup_interval, per_prompt, speedup_interval


def test_the_interval_holds_the_speedup_and_pairs_the_prompts() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.uniform(1.0, 20.0, size=40)  # prompts differ far more than policies do
    seconds = baseline / 1.05 * rng.normal(1.0, 0.01, size=40)
    low, high = speedup_interval(seconds, baseline, resamples=1000, seed=0) or (0.0, 0.0)
    assert low < baseline.sum() / seconds.sum() < high
    assert low > 1.03
    assert high - low < 0.02  # unpaired, the spread of the prompts would make it tens of percent


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        baseline = rng.uniform(1.0, 3.0, size=40)
        interval = speedup_interval(baseline / 1.1 * rng.normal(1.0, 0.1, size=40), baseline, 300, seed)
        covered += interval is not None and interval[0] <= 1.1 <= interval[1]
    assert 85 <= covered <= 100


def test_the_seed_decides_and_equal_policies_are_equal() -> None:
    baseline = np.random.default_rng(0).uniform(1.0, 2.0, size=20)
    noisy = baseline * np.random.default_rng(1).normal(1.0, 0.1, size=20)
    assert speedup_interval(noisy, baseline, 200, seed=1) == speedup_interval(noisy, baseline, 200, seed=1)
    assert speedup_interval(noisy, baseline, 200, seed=1) != speedup_interval(noisy, baseline, 200, seed=2)
    assert speedup_interval(baseline, baseline, 200, seed=1) == pytest.approx((1.0, 1.0))


def test_too_few_prompts_give_no_interval() -> None:
    few = np.ones(MIN_PROMPTS - 1)
    assert speedup_interval(few, few, 100, seed=0) is None


def test_the_samples_of_a_prompt_are_one() -> None:
    np.testing.assert_array_equal(per_prompt(np.array([1.0, 2.0, 4.0]), np.array([0, 1, 0])), [5.0, 2.0])


def test_the_batch_of_resamples_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    policy, base = rng.random(30) + 1, rng.random(30) + 1
    whole = speedup_interval(policy, base, resamples=500, seed=1)
    monkeypatch.setattr(statistics, "RESAMPLED", 100)
    assert speedup_interval(policy, base, resamples=500, seed=1) == whole


def test_the_mean_of_tasks_is_surer_than_its_tasks_and_pairs_their_prompts() -> None:
    rng = np.random.default_rng(0)
    baseline = [rng.uniform(1.0, 20.0, size=40) * scale for scale in (1, 100)]
    seconds = [base / gain * rng.normal(1.0, 0.02, size=40) for base, gain in zip(baseline, (1.1, 1.0), strict=True)]
    low, high = mean_speedup_interval(seconds, baseline, resamples=1000, seed=0) or (0.0, 0.0)
    assert low < 1.05 < high  # pooled, the second task would outweigh the first
    assert high - low < 0.02
    alone = speedup_interval(seconds[0], baseline[0], resamples=1000, seed=0) or (0.0, 0.0)
    assert high - low < alone[1] - alone[0]
    assert mean_speedup_interval(seconds, baseline, 100, seed=1) == mean_speedup_interval(
        seconds, baseline, 100, seed=1
    )
    assert mean_speedup_interval([*seconds, seconds[0][:9]], [*baseline, baseline[0][:9]], 100, seed=1) is None


def test_memory_does_not_bound_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    baseline = [rng.uniform(1.0, 2.0, size=30), rng.uniform(1.0, 2.0, size=20)]
    seconds = [base * rng.normal(1.0, 0.1, size=len(base)) for base in baseline]
    whole = mean_speedup_interval(seconds, baseline, 500, seed=0)
    monkeypatch.setattr(statistics, "RESAMPLED", 700)
    assert mean_speedup_interval(seconds, baseline, 500, seed=0) == pytest.approx(whole)
