"""Entropy rules: stop where the draft's newest distribution says that the next token will be rejected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.levels import LevelRule, first_below
from radar_rl.policies.switching import SwitchingPolicy
from radar_rl.speculative.state import Confidences, FeatureValues


@dataclass
class Svip(LevelRule):
    """Continue while the root of the newest distribution's entropy is at most ``limit``.

    SVIP (arXiv 2411.18462): the acceptance probability of the draft's next token is bounded below by a falling
    function of √H, H the entropy in nats of the distribution that it is drawn from.
    """

    limit: float = 1.0

    features = ("entropy",)

    def __post_init__(self) -> None:
        if not self.limit >= 0.0:
            raise ConfigError(f"svip: expected a limit of √entropy ≥ 0, got {self.limit}")
        self.name = f"svip-{self.limit:g}"

    @property
    def bound(self) -> float:
        """The limit, negated."""
        return -self.limit

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """−√entropy: [N, max_depth] float32."""
        return np.asarray(-np.sqrt(features["entropy"].astype(np.float32)))


@dataclass
class EntropyBound(LevelRule):
    """AdaEDL's criterion with a threshold that stays: continue while 1 − √(γ H) ≥ ``threshold``.

    1 − √(γ H) is the paper's approximate lower bound on the probability that the next token is accepted (``AdaEdl``).
    """

    threshold: float = 0.5
    gamma: float = 0.2

    features = ("entropy",)

    def __post_init__(self) -> None:
        if not np.isfinite(self.threshold) or not self.gamma > 0:
            raise ConfigError(
                f"entropy-bound: expected a finite threshold and gamma > 0, got {self.threshold} and {self.gamma}"
            )
        self.name = f"entropy-bound-{self.threshold:g}"

    @property
    def bound(self) -> float:
        """The threshold."""
        return self.threshold

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """1 − √(γ entropy): [N, max_depth] float32."""
        return np.asarray(1 - np.sqrt(np.float32(self.gamma) * features["entropy"].astype(np.float32)))


@dataclass
class AdaEdl(SwitchingPolicy):
    """AdaEDL (arXiv 2410.18351): stop where 1 − √(γ H) < λ, λ steered towards a target acceptance rate.

    Its Algorithm 1, after a round that accepted n of d draft tokens, L being the most that can be drafted:

        rate ← β₁ · rate + (1 − β₁) · n / d
        λ'  =  λ + ε where rate < α,  else λ − ε where n ≠ L,  else λ
        λ   ← β₂ · λ + (1 − β₂) · λ'

    with the paper's γ = 0.2, α = 0.9, β₁ = 0.5, β₂ = 0.9, ε = 0.01; it tries first λs from 0.3 to 0.9. Of a tree, d
    is its levels. The moving rate starts at its target, each text at the first λ.

    Args:
        threshold: the first λ.
        gamma, target, beta_rate, beta_threshold, step: γ, α, β₁, β₂, ε.
        max_depth: L.
    """

    threshold: float = 0.5
    gamma: float = 0.2
    target: float = 0.9
    beta_rate: float = 0.5
    beta_threshold: float = 0.9
    step: float = 0.01
    max_depth: int = 8

    features = ("entropy",)
    pays_decisions = True

    def __post_init__(self) -> None:
        shares = (self.threshold, self.target, self.beta_rate, self.beta_threshold, self.step)
        if not all(0.0 <= share <= 1.0 for share in shares) or not self.gamma > 0 or self.max_depth < 1:
            raise ConfigError(
                f"adaedl: expected threshold, target, betas and step in [0, 1], gamma > 0 and max_depth ≥ 1, got {self}"
            )
        self.name = f"adaedl-{self.threshold:g}"

    def begin_texts(self, names: Sequence[str]) -> None:
        """Every text begins with the first λ."""
        self._thresholds = np.full(len(names), self.threshold)
        self._rates = np.full(len(names), self.target)

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.float64]:
        """λ of each text."""
        return self._thresholds[texts]

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.float64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """Algorithm 1."""
        rates = self.beta_rate * self._rates[texts] + (1 - self.beta_rate) * accepted / draft_calls
        below = np.where(accepted != self.max_depth, choices - self.step, choices)
        wanted = np.where(rates < self.target, choices + self.step, below)
        self._rates[texts] = rates
        self._thresholds[texts] = self.beta_threshold * choices + (1 - self.beta_threshold) * wanted

    def rule(self, choice: float) -> EntropyBound:
        """The criterion with λ as it stands."""
        return EntropyBound(float(choice), self.gamma)

    def survey(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """1 − √(γ H) after each call: [N, max_depth]."""
        return self.rule(self.threshold).levels(confidences, features)

    def depths(self, survey: NDArray[np.float32], choices: NDArray[np.float64]) -> NDArray[np.int64]:
        """The first call after which the bound is below λ."""
        return first_below(survey, choices)
