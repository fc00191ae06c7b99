"""How well estimated values agree with exact ones: as numbers, and as a ranking of policies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

# With fewer policies, a rank correlation says nothing.
MIN_POLICIES = 3


@dataclass(frozen=True)
class Agreement:
    """Estimates beside the truth, over some policies.

    Attributes:
        policies: how many.
        spearman, kendall: rank correlations, Spearman's ρ and Kendall's τ-b; None for fewer than ``MIN_POLICIES``, and
            where all values or all estimates are the same.
        mean_error: of estimate − exact, what all estimates have in common.
        absolute_error: mean of |estimate − exact|.
        spread_error: mean of |estimate − exact − mean_error|, what is left when the common part is taken off.
        regret: regret@1, the value lost by taking the policy whose estimate is highest (of equals the first).
    """

    policies: int
    spearman: float | None
    kendall: float | None
    mean_error: float
    absolute_error: float
    spread_error: float
    regret: float

    @classmethod
    def of(cls, exact: Sequence[float], estimates: Sequence[float]) -> "Agreement":
        """The agreement of exact values with estimates, [n] each."""
        true, told = np.asarray(exact, dtype=np.float64), np.asarray(estimates, dtype=np.float64)
        errors = told - true
        ranked = len(true) >= MIN_POLICIES and np.ptp(true) > 0 and np.ptp(told) > 0
        return cls(
            len(true),
            float(spearmanr(true, told).statistic) if ranked else None,
            float(kendalltau(true, told).statistic) if ranked else None,
            float(errors.mean()),
            float(np.abs(errors).mean()),
            float(np.abs(errors - errors.mean()).mean()),
            float(true.max() - true[told.argmax()]),
        )
