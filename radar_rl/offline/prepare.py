"""What training begins with: a trace or rollouts found and priced for a machine, then made into data to learn from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from radar_rl.errors import ConfigError, TraceError
from radar_rl.offline.behaviour import Behaviour, decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.from_rollouts import RolloutData
from radar_rl.offline.ranges import ABOVE_ZERO, BELOW_ONE, SEED, check_value
from radar_rl.offline.transitions import Episode
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.observation import DEFAULT_FEATURES, ObservationSpec, check_names
from radar_rl.rollouts import load_rollouts, load_trace, rollout_settings, trace_settings
from radar_rl.rollouts.pricing import profile_for
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.split import learned_from
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes


@dataclass(frozen=True)
class Wanted:
    """Which prompts to learn from, what is seen of them, and what an action earns; fields as ``train`` has them.

    Attributes:
        reward: its rate is of no account, λ comes from walks.

    Raises:
        ConfigError: a value is out of range, or the reward rates single rounds and episodes are texts.
    """

    reward: Reward
    episode: Episode
    held_out: float
    share: float
    validation: float
    seed: int
    observation: tuple[str, ...]
    newest: int | None

    def __post_init__(self) -> None:
        check_value("seed", self.seed, SEED)
        check_value("held_out", self.held_out, BELOW_ONE)
        check_value("share", self.share, ABOVE_ZERO)
        if self.reward.kind != "throughput" and self.episode == "sequence":
            raise ConfigError(
                f"reward={self.reward.kind} rates single rounds: summed over a text it pays for making more of them; "
                "add episode=round, or use reward=throughput"
            )


@dataclass(frozen=True)
class Prepared:
    """Data ready to learn from, and what to record about it."""

    data: TraceData | RolloutData
    behaviour: str
    hardware: HardwareProfile
    trace: dict[str, Any]
    tree_size: int
    rules: dict[str, Any]


class Source(Protocol):
    """A data set that has been found, but not been read yet."""

    @property
    def place(self) -> str:
        """Its folder."""

    @property
    def hardware(self) -> HardwareProfile:
        """The machine that it is priced for."""

    @property
    def behaviour(self) -> str:
        """Who acts in it."""

    @property
    def tree_size(self) -> int:
        """Nodes verified."""

    @property
    def max_depth(self) -> int:
        """Draft calls that a round can make."""

    def shows(self, wanted: Wanted) -> tuple[tuple[str, ...], int | None]:
        """Names of the features that the data show, and of how many newest draft calls (None: of all)."""

    def prepare(self, wanted: Wanted) -> Prepared:
        """Read it and make it into data to learn from.

        Raises:
            ConfigError: a feature or the behaviour is unknown, or the data do not do.
            TraceError: the data are damaged, or no prompt is left to train on.
        """


def find(
    traces: str | None,
    rollouts: str | None,
    wanted: Wanted,
    behaviour: Behaviour | None,
    usual: Behaviour,
    tree_size: int | None,
    hardware: str | None,
    folder: Path,
    model: Mapping[str, Any],
) -> Source:
    """The data set that ``train`` is to learn from.

    Args:
        traces, rollouts, behaviour, tree_size, hardware, model: as ``train`` has them.
        wanted: what is wanted of it.
        usual: the behaviour of a trace where none is asked for.
        folder: of the run, for a profile that is measured.

    Raises:
        ConfigError: not exactly one of the two is given, or with rollouts what is for traces.
        TraceError: there is no such data set.
    """
    if (traces is None) == (rollouts is None):
        raise ConfigError("train learns from one of traces=DIR and rollouts=DIR; give exactly one")
    measured = folder / "hardware.json"
    if traces is not None:
        return _TraceSource.found(traces, behaviour or usual, tree_size, hardware, measured, model)
    if behaviour is not None:
        raise ConfigError("behaviour= is for traces; rollouts hold what their own policy did")
    if tree_size is not None:
        raise ConfigError("tree_size= is for traces; rollouts were made with a tree size of their own")
    if wanted.observation != DEFAULT_FEATURES:
        raise ConfigError("observation= is for traces; rollouts hold what their own policy saw")
    return _RolloutSource.found(str(rollouts), hardware, measured, model)


@dataclass(frozen=True)
class _TraceSource:
    place: str
    hardware: HardwareProfile
    behaviour: Behaviour
    tree_size: int
    made: TraceSettings

    @classmethod
    def found(
        cls,
        traces: str,
        behaviour: Behaviour,
        tree_size: int | None,
        hardware: str | None,
        measured: Path,
        model: Mapping[str, Any],
    ) -> "_TraceSource":
        made = trace_settings(traces)
        read = made.read_for(tree_size)
        return cls(traces, profile_for(read, hardware, measured, model), behaviour, read.tree_size, made)

    @property
    def max_depth(self) -> int:
        return self.made.max_depth

    def shows(self, wanted: Wanted) -> tuple[tuple[str, ...], int | None]:
        return wanted.observation, wanted.newest

    def prepare(self, wanted: Wanted) -> Prepared:
        check_names(wanted.observation)
        training = load_trace(
            self.place,
            tree_size=self.tree_size,
            keep=lambda texts: learned_from(texts.prompt_id, wanted.held_out, wanted.share, wanted.validation),
            features=columns_of(wanted.observation),
        )
        if not len(training):
            raise TraceError(
                f"{self.place}: no prompt is left to train on at held_out={wanted.held_out}, share={wanted.share}: "
                "collect more, or hold out fewer"
            )
        outcomes = Outcomes.of(training, self.hardware)
        decisions = decide(self.behaviour, outcomes, wanted.seed)
        data = TraceData.of(outcomes, decisions, wanted.reward, wanted.episode, wanted.observation, wanted.newest)
        rules = {
            "best_static_depth": data.static.static.depth,
            "best_static_tokens_per_second": data.first_rate,
            "positions": len(training),
        }
        return Prepared(data, self.behaviour, self.hardware, asdict(self.made), self.tree_size, rules)


@dataclass(frozen=True)
class _RolloutSource:
    place: str
    hardware: HardwareProfile
    spec: ObservationSpec
    made: Mapping[str, Any]

    @classmethod
    def found(cls, rollouts: str, hardware: str | None, measured: Path, model: Mapping[str, Any]) -> "_RolloutSource":
        made = rollout_settings(rollouts)
        spec = ObservationSpec.from_json(made["spec"])
        if hardware is None:  # the profile that they were logged with
            return cls(rollouts, HardwareProfile.from_mapping(made["hardware"], f"{rollouts}: hardware"), spec, made)
        shape = {"max_depth": spec.max_depth, "top_k": spec.top_k, "tree_size": made["tree_size"]}
        return cls(rollouts, resolve_hardware(hardware, measured, model, **shape), spec, made)

    @property
    def behaviour(self) -> str:
        return f"logged: {self.made['policy']}"

    @property
    def tree_size(self) -> int:
        return int(self.made["tree_size"])

    @property
    def max_depth(self) -> int:
        return self.spec.max_depth

    def shows(self, wanted: Wanted) -> tuple[tuple[str, ...], int | None]:
        return self.spec.features, self.spec.newest if wanted.newest is None else wanted.newest

    def prepare(self, wanted: Wanted) -> Prepared:
        steps = load_rollouts(self.place)
        train_rows = learned_from(steps["prompt_id"].to_list(), wanted.held_out, wanted.share)
        nodes = tree_nodes(self.max_depth, self.spec.top_k, self.tree_size)
        data = RolloutData.of(
            steps, self.hardware, nodes, wanted.reward, wanted.episode, self.spec, train_rows, wanted.newest
        )
        # A replayed rollout says which trace it walked, a live one what it decoded with.
        origin = self.made.get("trace", self.made)
        settings = {key: origin[key] for key in TraceSettings.__dataclass_fields__ if key in origin}
        # A log shows one policy, so no rule can be tuned on it: the fallback is the full depth.
        rules = {"best_static_depth": self.max_depth, "best_static_tokens_per_second": None, "positions": None}
        return Prepared(data, self.behaviour, self.hardware, settings, self.tree_size, rules)
