"""Rules tuned on training texts: of each kind the setting that is fastest there, by exact walks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.walk import Outcomes, Walk, choices, walk, walk_policy
from radar_rl.policies import (
    AcceptanceAverage,
    AdaEdl,
    ConfidenceThreshold,
    Exp3Spec,
    ExpectedGain,
    JointConfidence,
    LearnedPolicy,
    MemorylessPolicy,
    MinProbability,
    PlusTwo,
    Policy,
    StaticDepth,
    Svip,
    TapOut,
    UcbSpec,
)
from radar_rl.policies.levels import LevelRule, first_below
from radar_rl.runtime.kinds import KINDS

log = logging.getLogger(__name__)

THRESHOLDS = tuple(round(float(value), 3) for value in np.r_[0.005, 0.01, 0.02, 0.035, np.arange(0.05, 1.0, 0.05)])
ROOT_ENTROPIES = tuple(round(float(value), 2) for value in np.arange(0.1, 3.25, 0.1))
FIRST_LAMBDAS = tuple(round(float(value), 2) for value in np.arange(0.0, 0.95, 0.1))
TARGETS = (0.9, 0.6, 0.3)
RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
SCALES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.0)
LEARNING_SCALES = (1.0, 0.3, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class TunedStatic:
    """The fastest static depth on the texts it was tuned on.

    Attributes:
        static: the rule.
        walk: its walk over those texts; its throughput is the first λ.
    """

    static: StaticDepth
    walk: Walk


@dataclass(frozen=True)
class TunedRules:
    """The fastest rule of each kind on the texts they were tuned on.

    Attributes:
        static: the best static depth.
        static_walk: its walk over those texts.
        rules: the best of every other kind, in the order of ``RULES``; those whose features the trace lacks left out.
    """

    static: StaticDepth
    static_walk: Walk
    rules: tuple[Policy, ...]


def tune_static(outcomes: Outcomes) -> TunedStatic:
    """The static depth with the highest tokens per second; of equally fast ones the smallest."""
    statics = [StaticDepth(depth) for depth in range(1, outcomes.max_depth + 1)]
    walks = [walk_policy(outcomes, rule) for rule in statics]
    best = int(np.argmax([run.tokens_per_second for run in walks]))
    return TunedStatic(statics[best], walks[best])


def tune_rules(outcomes: Outcomes, names: Sequence[str] | None = None) -> TunedRules:
    """Of each kind of rule the setting with the highest tokens per second; of equally fast ones the first.

    Args:
        outcomes: of the training texts; the trace read with ``RULE_FEATURES`` as far as it was collected with them.
        names: kinds of rules, of ``RULES``; None: all. Those whose features the trace was not read with are left out,
            which a warning says.

    Raises:
        ConfigError: a name is unknown.
    """
    if unknown := set(names or ()) - set(RULES):
        raise ConfigError(f"unknown rules {sorted(unknown)}; valid: {', '.join(RULES)}")
    wanted = [name for name in RULES if names is None or name in names]
    lacking = {name: looked_at(name) - set(outcomes.trace.features) for name in wanted}
    if left_out := [name for name in wanted if lacking[name]]:
        asked = ",".join(sorted(set().union(*lacking.values())))
        log.warning(
            "rules left out: %s; they look at features that the trace was not read with: collect with features=[%s]",
            ", ".join(left_out),
            asked,
        )
    tuning = _Tuning(outcomes)
    rules = tuple(tuning.best(name) for name in wanted if not lacking[name])
    return TunedRules(tuning.static.static, tuning.static.walk, rules)


def looked_at(rule: str) -> set[str]:
    """Feature columns that a rule looks at, by its name."""
    return set(RULE_FEATURES.get(rule, ()))


def tune_first_decision(outcomes: Outcomes, policy: LearnedPolicy) -> LearnedPolicy:
    """The policy, asked from the draft call on with which it is fastest over the texts; of equally fast ones the first.

    The fewer decisions the less they cost; but what is decided too late costs draft calls.
    """
    calls = range(1, outcomes.max_depth)
    if "history" in policy.features:  # where it stops depends on where it stopped before
        speeds = [walk_policy(outcomes, policy.asking_from(call)).tokens_per_second for call in calls]
        return policy.asking_from(int(np.argmax(speeds)) + 1)
    stops = ~choices(policy.asking_from(1), outcomes.trace)
    stops = np.pad(stops, ((0, 0), (0, 1)), constant_values=True)  # [N, L]
    speeds = [
        walk(outcomes, stops[:, call - 1 :].argmax(axis=1) + call, policy.pays_decisions, call).tokens_per_second
        for call in calls
    ]
    return policy.asking_from(int(np.argmax(speeds)) + 1)


class _Tuning:
    """Texts that rules are tuned on, and what was found so far."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self._found: dict[str, Policy] = {}

    @cached_property
    def static(self) -> TunedStatic:
        return tune_static(self.outcomes)

    @property
    def rate(self) -> float:
        """Tokens per second of the best static depth."""
        return self.static.walk.tokens_per_second

    @property
    def depths(self) -> range:
        return range(1, self.outcomes.max_depth + 1)

    def best(self, name: str) -> Policy:
        """The fastest of a kind's settings."""
        if name not in self._found:
            settings = RULES[name](self)
            judging = [rule for rule in settings if isinstance(rule, LevelRule)]
            if judging:  # a machine whose decisions are dear wants rules that make few of them
                calls = self.depths[:-1] or (1,)
                settings = judging = [replace(rule, asks_from=call) for call in calls for rule in judging]
            speeds = self._judged(judging) if judging else self._speeds(settings)
            self._found[name] = settings[int(np.argmax(speeds))]
        return self._found[name]

    def at_hand(self) -> list[MemorylessPolicy]:
        """The best of every memoryless kind whose features there are, static depth first."""
        there = set(self.outcomes.trace.features)
        found = [self.best(name) for name in MEMORYLESS if looked_at(name) <= there]
        return [self.static.static, *(rule for rule in found if isinstance(rule, MemorylessPolicy))]

    def _speeds(self, settings: Sequence[Policy]) -> list[float]:
        """Tokens per second of each setting over the texts."""
        if len(settings) == 1:  # nothing to compare
            return [0.0]
        return [walk_policy(self.outcomes, rule).tokens_per_second for rule in settings]

    def _judged(self, settings: Sequence[LevelRule]) -> list[float]:
        """The same of rules that differ in the bound alone, and in the call from which on they look."""
        levels = self._levels(settings[0])
        stops = ((rule, first_below(levels, rule.bound, rule.asks_from)) for rule in settings)
        return [
            walk(self.outcomes, depths, rule.pays_decisions, rule.asks_from).tokens_per_second for rule, depths in stops
        ]

    def _levels(self, rule: LevelRule) -> NDArray[np.float32]:
        """What a rule judges levels by, at every row: [N, max_depth] float32, the same for all its bounds."""
        trace = self.outcomes.trace
        levels = np.empty((len(trace), self.outcomes.max_depth), dtype=np.float32)
        for piece in trace.pieces():
            seen = {name: trace.features[name][piece] for name in rule.features}
            levels[piece] = rule.levels(trace.confidences[piece], seen)
        return levels


def _gains(tuning: _Tuning) -> list[Policy]:
    outcomes = tuning.outcomes
    seconds = np.diff(outcomes.seconds) + outcomes.hardware.decide_seconds
    return [ExpectedGain(rate * tuning.rate, tuple(seconds.tolist())) for rate in RATES]


def _averages(tuning: _Tuning) -> list[Policy]:
    depths = tuple(tuning.depths)
    start = tuning.static.static.depth
    return [
        AcceptanceAverage(start, candidates, alpha, interval, warmup, up)
        for candidates, alpha, (interval, warmup), up in product(
            dict.fromkeys((depths[::2], depths)), (0.1, 0.2, 0.4), ((5, 10), (1, 0)), (0.0, -0.5, -1.0)
        )
    ]


def _ucbs(tuning: _Tuning) -> list[Policy]:
    depths, seconds = len(tuning.depths), tuple(tuning.outcomes.seconds.tolist())
    return [UcbSpec(depths, scale=scale, seconds=reward) for reward, scale in product(((), seconds), SCALES)]


RULES: dict[str, Callable[[_Tuning], Sequence[Policy]]] = {
    "threshold": lambda tuning: [ConfidenceThreshold(value) for value in THRESHOLDS],
    "joint": lambda tuning: [JointConfidence(value) for value in THRESHOLDS],
    "p-min": lambda tuning: [MinProbability(value) for value in THRESHOLDS],
    "svip": lambda tuning: [Svip(value) for value in ROOT_ENTROPIES],
    "adaedl": lambda tuning: [
        AdaEdl(value, target=target, max_depth=len(tuning.depths)) for target, value in product(TARGETS, FIRST_LAMBDAS)
    ],
    "gain": _gains,
    "plus-two": lambda tuning: [PlusTwo(start, len(tuning.depths)) for start in tuning.depths],
    "ema": _averages,
    "ucbspec": _ucbs,
    "exp3spec": lambda tuning: [Exp3Spec(len(tuning.depths), scale) for scale in LEARNING_SCALES],
    "tapout": lambda tuning: [TapOut(tuple(tuning.at_hand()), len(tuning.depths))],
}
# What a kind is says its class: those that remember nothing, and the feature columns that they look at.
MEMORYLESS = tuple(name for name in RULES if issubclass(KINDS[name].make, MemorylessPolicy))
RULE_FEATURES: dict[str, tuple[str, ...]] = {
    name: KINDS[name].make.features for name in RULES if getattr(KINDS[name].make, "features", ())
}
"""Feature columns that a rule looks at, by its name; the others look at none."""
