"""Bandits: each round pulls an arm, a depth (BanditSpec) or a stop rule (TapOut), and learns from its reward."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.policies.random import text_key, uniform
from radar_rl.policies.schedules import depth_arms
from radar_rl.policies.switching import SwitchingPolicy


def _called(bandit: SwitchingPolicy, name: str, *parameters: str) -> str:
    """How tables call a bandit: as the command line names it, with hyphens, seeds and seconds left out.

    Args:
        bandit: a dataclass.
        name: its kind and first value.
        parameters: the others that a name tells, where they are not their defaults.
    """
    defaults = {field.name: field.default for field in fields(bandit)}  # type: ignore[arg-type]
    told = {key: value for key in parameters if (value := getattr(bandit, key)) != defaults[key]}
    return "-".join([name, *(f"{key}-{value:g}" for key, value in told.items())])


class _Pulls:
    """How often the arms of texts were pulled, and what that brought on average."""

    def __init__(self, texts: int, arms: int) -> None:
        self.count = np.zeros((texts, arms), dtype=np.int64)
        self.total = np.zeros((texts, arms))

    def add(self, texts: NDArray[np.int64], arms: NDArray[np.int64], reward: NDArray[np.float64]) -> None:
        """A pull of each of some texts."""
        self.count[texts, arms] += 1
        self.total[texts, arms] += reward

    def best(self, texts: NDArray[np.int64], radius: NDArray[np.float64]) -> NDArray[np.int64]:
        """The arm with the highest upper confidence bound, mean + radius [B, arms]; first each arm once, in order."""
        count = self.count[texts]
        mean = self.total[texts] / np.maximum(count, 1)
        return np.asarray(np.where(count == 0, np.inf, mean + radius).argmax(axis=1))


@dataclass
class UcbSpec(SwitchingPolicy):
    """UCBSpec of BanditSpec (arXiv 2505.15141, Algorithm 4): the depth with the highest upper confidence bound.

    Arms are the depths 1 … L = ``max_depth``, each pulled once in order. After t rounds, n_i of them with depth i,

        UCB_i = mean reward of i + L/2 · √((1 + n_i) / n_i² · (1 + 2 log(K t² √(1 + n_i) / δ))),    K = L arms.

    The reward of Algorithm 4 is what a round emits, accepted tokens and bonus, in [1, L + 1]: it ignores what draft
    calls cost, and a deeper tree never emits fewer. With depths as arms the paper therefore takes throughput (§6.2):
    with ``seconds``, the reward is emitted tokens over the round's seconds, times the seconds of the cheapest round,
    which keeps it in (0, L + 1] and so fits the same radius.

    Args:
        max_depth: L.
        delta: confidence parameter δ in (0, 1].
        scale: of the radius; 1 is the paper's, whose bound is wide for texts of some dozens of rounds.
        seconds: [L], of a round with 1 … L draft calls; none: the reward is the emitted tokens.
    """

    max_depth: int = 8
    delta: float = 0.1
    scale: float = 1.0
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.seconds = tuple(float(value) for value in self.seconds)
        if self.max_depth < 1 or not 0.0 < self.delta <= 1.0 or not 0.0 <= self.scale < np.inf:
            raise ConfigError(f"ucbspec: expected max_depth ≥ 1, delta in (0, 1] and a finite scale ≥ 0, got {self}")
        if self.seconds and (len(self.seconds) != self.max_depth or not min(self.seconds) > 0):
            raise ConfigError(f"ucbspec: expected {self.max_depth} seconds > 0, got {self.seconds}")
        self.name = _called(self, f"ucbspec-{self.max_depth}", "delta", "scale")
        self.name += "-throughput" if self.seconds else ""
        self.arms = depth_arms(range(1, self.max_depth + 1))
        ones = np.ones(self.max_depth)
        self._worth = min(self.seconds) / np.array(self.seconds) if self.seconds else ones  # of a token, by arm

    def begin_texts(self, names: Sequence[str]) -> None:
        """Nothing is known of any depth."""
        self._pulls = _Pulls(len(names), len(self.arms))

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The arm with the highest bound."""
        return self._pulls.best(texts, self.scale * self.radius(self._pulls.count[texts]))

    def radius(self, pulls: NDArray[np.int64]) -> NDArray[np.float64]:
        """The paper's confidence radius (6): [B, K] pulls → [B, K]."""
        rounds = np.maximum(pulls.sum(axis=1, keepdims=True), 1)
        n = np.maximum(pulls, 1)
        log = np.log(len(self.arms) * rounds**2 * np.sqrt(1 + n) / self.delta)
        return np.asarray(self.max_depth / 2 * np.sqrt((1 + n) / n**2 * (1 + 2 * log)))

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.int64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """Add the rounds' rewards."""
        self._pulls.add(texts, choices, (accepted + 1) * self._worth[choices])


@dataclass
class Exp3Spec(SwitchingPolicy):
    """EXP3Spec of BanditSpec (arXiv 2505.15141, Algorithm 5): depths drawn by exponential weights.

    Arms are the depths 1 … L = ``max_depth``. Round t draws depth i with probability

        p_t,i ∝ exp(−η_t Σ_{s<t} Ẑ_i,s),    Ẑ_i,s = [i was drawn] · (L + 1 − emitted tokens) / (L · p_s,i),

    η_t = √(log K / (t K)), K = L. Like UCBSpec's, its reward ignores what draft calls cost; the paper has no other for
    it. The draw is a function of ``seed``, the text's name and the round, so it is the same live and replayed.

    Args:
        max_depth: L.
        scale: of the learning rate η; 1 is the paper's.
        seed: of the draws.
    """

    max_depth: int = 8
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_depth < 1 or not 0.0 <= self.scale < np.inf:
            raise ConfigError(f"exp3spec: expected max_depth ≥ 1 and a finite scale ≥ 0, got {self}")
        self.name = _called(self, f"exp3spec-{self.max_depth}", "scale")
        self.arms = depth_arms(range(1, self.max_depth + 1))

    def begin_texts(self, names: Sequence[str]) -> None:
        """Every depth is as likely as another."""
        self._keys = np.array([text_key(self.seed, name) for name in names], dtype=np.uint64)
        self._losses = np.zeros((len(names), len(self.arms)))
        self._rounds = np.zeros(len(names), dtype=np.int64)

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """A draw."""
        drawn = uniform(self._keys[texts], self._rounds[texts])
        passed = self.probabilities(texts).cumsum(axis=1) <= drawn[:, None]
        return np.asarray(np.minimum(passed.sum(axis=1), len(self.arms) - 1))

    def probabilities(self, texts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each arm in the next round of some texts: [B] → [B, K]."""
        arms = len(self.arms)
        eta = self.scale * np.sqrt(np.log(arms) / ((self._rounds[texts] + 1) * arms))
        losses = self._losses[texts]
        weights = np.exp(-eta[:, None] * (losses - losses.min(axis=1, keepdims=True)))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.int64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """Add the rounds' losses, each over the probability that it was seen with."""
        seen = self.probabilities(texts)[np.arange(len(texts)), choices]
        self._losses[texts, choices] += (self.max_depth - accepted) / (self.max_depth * seen)
        self._rounds[texts] += 1


@dataclass
class TapOut(SwitchingPolicy):
    """TapOut (arXiv 2511.02017): UCB1 over stop rules, an arm for a whole round, learning on from text to text.

    UCB1 (Auer, Cesa-Bianchi and Fischer, 2002): each arm once, then the highest mean + √(2 log t / n). The reward
    blends how much and how surely was accepted, as descriptions of the paper have it (its own text was not at hand, so
    the blend's form is to be checked): ``blend`` · accepted / L + (1 − ``blend``) · accepted / draft calls, both in
    [0, 1]; it sees draft calls as a share, not as seconds. The paper's arms are rules with fixed
    thresholds; here they are any memoryless rules, such as tuned ones.

    Args:
        rules: the arms.
        max_depth: L.
        blend: weight of the accepted length.
        across: whether texts go on with what was learned on earlier ones; else each begins anew.
    """

    rules: tuple[MemorylessPolicy, ...]
    max_depth: int = 8
    blend: float = 0.5
    across: bool = True

    def __post_init__(self) -> None:
        self.rules = tuple(self.rules)
        if not self.rules or not all(isinstance(rule, MemorylessPolicy) for rule in self.rules):
            raise ConfigError(f"tapout: expected memoryless rules to choose from, got {list(self.rules)}")
        if self.max_depth < 1 or not 0.0 <= self.blend <= 1.0:
            raise ConfigError(
                f"tapout: expected max_depth ≥ 1 and a blend in [0, 1], got {self.max_depth} and {self.blend}"
            )
        rules = "+".join(rule.name for rule in self.rules)
        self.name = _called(self, f"tapout-{rules}", "max_depth", "blend", "across")
        self.arms, self.remembers = self.rules, self.across
        self.features = tuple(dict.fromkeys(name for rule in self.rules for name in rule.features))
        paid = [rule.asks_from for rule in self.rules if rule.pays_decisions]
        self.pays_decisions, self.asks_from = bool(paid), min(paid, default=1)  # as dear as its dearest rule

    def begin_texts(self, names: Sequence[str]) -> None:
        """Nothing is known of any rule."""
        self._pulls = _Pulls(len(names), len(self.arms))

    def choose(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rule with the highest bound."""
        count = self._pulls.count[texts]
        rounds = np.maximum(count.sum(axis=1, keepdims=True), 1)
        return self._pulls.best(texts, np.sqrt(2 * np.log(rounds) / np.maximum(count, 1)))

    def learn(
        self,
        texts: NDArray[np.int64],
        choices: NDArray[np.int64],
        draft_calls: NDArray[np.int64],
        accepted: NDArray[np.int64],
    ) -> None:
        """Add the rounds' rewards."""
        reward = self.blend * accepted / self.max_depth + (1 - self.blend) * accepted / draft_calls
        self._pulls.add(texts, choices, reward)
