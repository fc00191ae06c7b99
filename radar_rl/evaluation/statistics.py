"""How sure a speedup is: a paired bootstrap over prompts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

MIN_PROMPTS = 10

# Fewer samples leave the ends of a 95 % interval to one or two of them.
MIN_RESAMPLES = 100

# Prompts drawn at a time; bounds the memory that resampling takes, and changes nothing else.
RESAMPLED = 2_000_000


def per_prompt(values: NDArray[np.float64], prompt: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the texts of each prompt: [S] and prompt numbers 0 … P − 1 [S] → [P]."""
    return np.asarray(np.bincount(prompt, weights=values), dtype=np.float64)


def speedup_interval(
    seconds: NDArray[np.float64], baseline: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of Σ baseline / Σ seconds over resampled prompts.

    Both policies emit the same texts, so the ratio of their seconds is the ratio of their throughputs; prompts are
    drawn in pairs (a prompt's two figures stay together), since most of the spread is between prompts.

    Args:
        seconds: [P], a policy's seconds per prompt.
        baseline: [P], those of what it is compared with.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Lower and upper end, None for fewer than ``MIN_PROMPTS`` prompts. Prompts with no seconds at all, whose texts
        end with their first token, don't count.
    """
    told = (seconds > 0) | (baseline > 0)
    seconds, baseline = seconds[told], baseline[told]
    if len(seconds) < MIN_PROMPTS:
        return None

    def ratio(policy: NDArray[np.float64], base: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(base.sum(axis=axis) / policy.sum(axis=axis))

    interval = bootstrap(
        (seconds, baseline),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, RESAMPLED // len(seconds)),
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mean_speedup_interval(
    seconds: Sequence[NDArray[np.float64]], baseline: Sequence[NDArray[np.float64]], resamples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean over tasks of Σ baseline / Σ seconds.

    Prompts are drawn in pairs and within their task (a stratified bootstrap): each sample has every task, with as many
    prompts as it has here.

    Args:
        seconds: of each task [P of the task], a policy's seconds per prompt.
        baseline: of each task, those of what it is compared with.
        resamples: bootstrap samples.
        seed: of the resampling; equal seeds draw the same prompts.

    Returns:
        Lower and upper end, None where a task has fewer than ``MIN_PROMPTS`` prompts.
    """
    if min(len(values) for values in seconds) < MIN_PROMPTS:
        return None
    rng = np.random.default_rng(seed)
    totals = np.zeros(resamples)
    for policy, base in zip(seconds, baseline, strict=True):
        batch = max(1, RESAMPLED // len(policy))
        for start in range(0, resamples, batch):
            drawn = rng.integers(len(policy), size=(min(batch, resamples - start), len(policy)))
            totals[start : start + batch] += base[drawn].sum(axis=1) / policy[drawn].sum(axis=1)
    low, high = np.percentile(totals / len(seconds), [2.5, 97.5])
    return float(low), float(high)
