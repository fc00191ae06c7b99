"""What training reads: a trace under a behaviour (rollouts have their own class), priced at a rate λ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.behaviour import Decisions
from radar_rl.offline.buffer import ObservationSource, TraceObservations
from radar_rl.offline.history import history_along
from radar_rl.offline.shaping import potential
from radar_rl.offline.transitions import Episode, TraceTransitions, TransitionSource
from radar_rl.offline.tuning import TunedStatic, tune_static
from radar_rl.offline.walk import Outcomes, Walk, policy_depths, walk, walk_policy
from radar_rl.policies.observation import DEFAULT_FEATURES, OBSERVATION_FLOOR, ObservationSpec
from radar_rl.policies.protocol import Policy
from radar_rl.rollouts.reward import Reward


class TrainingData(Protocol):
    """Transitions whose rewards follow λ, and the exact value of a policy where the data can give it."""

    @property
    def source(self) -> ObservationSource:
        """Where observations come from."""

    @property
    def spec(self) -> ObservationSpec:
        """Their layout."""

    @property
    def first_rate(self) -> float:
        """λ to start from, tokens per second."""

    def transitions(self, rate: float) -> TransitionSource:
        """The transitions, rewards priced at ``rate`` tokens per second."""

    def replay(self, policy: Policy) -> Walk | None:
        """A policy's walk over the training texts; None where the data cannot tell."""


@dataclass(frozen=True)
class TraceData:
    """Training data made from a trace.

    Attributes:
        outcomes: what stopping brings at the rows of the training prompts.
        decisions: where which action is taken.
        reward: what an action earns; its rate is replaced by λ.
        episode: ``sequence`` or ``round``.
        spec: layout of the observations.
        source: where they come from.
        static: static depth tuned on these rows.
    """

    outcomes: Outcomes
    decisions: Decisions
    reward: Reward
    episode: Episode
    spec: ObservationSpec
    source: TraceObservations
    static: TunedStatic

    @classmethod
    def of(
        cls,
        outcomes: Outcomes,
        decisions: Decisions,
        reward: Reward,
        episode: Episode,
        observation: Sequence[str] = DEFAULT_FEATURES,
        newest: int | None = None,
    ) -> "TraceData":
        """Training data of outcomes and decisions, of which the ``observation`` shows these features.

        Args:
            newest: shown of so many newest draft calls; None: of all.

        Raises:
            ConfigError: a feature is unknown, or there are not so many calls.
            TraceError: the trace was read without one.

        Accepted history, where the ``observation`` has it, is that of the tuned static depth (``look_back``).
        """
        trace = outcomes.trace
        made = trace.settings
        spec = ObservationSpec(
            made.max_depth,
            made.top_k,
            tuple(observation),
            OBSERVATION_FLOOR,
            made.feature_dim,
            made.feature_seed,
            newest,
        )
        trace.check_features(spec.columns)
        static, features = tune_static(outcomes), dict(trace.features)
        if "history" in spec.features:
            features["history"] = history_along(trace, np.full(len(trace), static.static.depth))
        source = TraceObservations(spec, trace.confidences, features)
        return cls(outcomes, decisions, reward, episode, spec, source, static)

    def look_back(self, depths: NDArray[np.integer]) -> None:
        """From now on observations show the accepted history of a walk that stops at ``depths`` [N], if they show any.

        Data made from a trace begin with the history of the tuned static depth.
        """
        if "history" in self.spec.features:
            self.source.features["history"] = history_along(self.outcomes.trace, depths)

    def follow(self, policy: Policy) -> tuple[NDArray[np.int8], Walk]:
        """A policy's stopping depths [N] and its walk over the training texts.

        From now on observations look back along that walk.
        """
        depths = policy_depths(self.outcomes, policy)
        self.look_back(depths)
        return depths, walk(self.outcomes, depths, policy.pays_decisions, policy.asks_from)

    @property
    def first_rate(self) -> float:
        """Throughput of the best static depth over the training texts, tokens per second."""
        return self.static.walk.tokens_per_second

    def priced(self, rate: float) -> Reward:
        """The reward at ``rate`` tokens per second."""
        return replace(self.reward, rate=rate)

    def transitions(self, rate: float) -> TraceTransitions:
        """The transitions, rewards priced at ``rate`` tokens per second and shaped."""
        reward = self.priced(rate)
        phi = potential(self.outcomes, reward, self.episode)
        return TraceTransitions.of(self.outcomes, self.decisions, reward, self.episode, phi)

    def replay(self, policy: Policy) -> Walk:
        """A policy's walk over the training texts."""
        return walk_policy(self.outcomes, policy)


def sample_observations(
    data: TrainingData, transitions: TransitionSource, seed: int, count: int = 20_000
) -> NDArray[np.float32]:
    """Observations of up to ``count`` states of the data, for statistics: [count, size]."""
    rng = np.random.default_rng(seed)
    drawn = transitions.take(rng.integers(len(transitions), size=min(count, len(transitions))))
    return data.source.observe(drawn.row, drawn.depth)
