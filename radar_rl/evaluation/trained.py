"""The trained runs in a comparison: whether they fit the trace, what tables call them, what is known of them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.compare import FACTS, Contender
from radar_rl.evaluation.decision import decision_microseconds
from radar_rl.offline.results import record_row
from radar_rl.offline.run import Run
from radar_rl.offline.walk import Outcomes, policy_depths, walk
from radar_rl.policies import LearnedPolicy, MemorylessPolicy
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.speculative.features import FEATURES, columns_of

log = logging.getLogger(__name__)


def agreed_tree_size(runs: Sequence[Run], made: TraceSettings, asked: int | None) -> int:
    """Nodes verified: what was asked for, else the runs', else the trace's.

    Args:
        runs: the trained runs to compare.
        made: what the trace was made with.
        asked: nodes asked for; None: none.

    Raises:
        TraceError: the trace cannot be read for trees of that size, or a run was trained for another one.
    """
    size = int(runs[0].about["tree_size"]) if runs and asked is None else made.read_for(asked).tree_size
    for run in runs:
        trained = int(run.about["tree_size"])
        if trained != size:
            other = f"tree_size={asked}" if asked is not None else f"{runs[0].folder} for {size}"
            raise TraceError(
                f"{run.folder}: trained for trees of {trained} nodes, but {other}; evaluate each tree size by itself, "
                "or train again with tree_size="
            )
        if trained > made.tree_size:
            raise TraceError(
                f"{run.folder}: trained for trees of {trained} nodes, the trace was collected with {made.tree_size}; "
                f"collect with tree_size={trained}, or train again with tree_size={made.tree_size}"
            )
    return size


def check_fits(run: Run, made: TraceSettings, allow_other_pair: bool) -> None:
    """Refuse a trace that a run's policy cannot read, or that another pair made.

    Args:
        run: the trained run.
        made: what the trace was made with.
        allow_other_pair: let a trace of another pair pass.

    Raises:
        TraceError: saying what differs.
    """
    trained, given = run.about["trace"], asdict(made)
    for key in ("max_depth", "top_k"):
        if trained[key] != given[key]:
            raise TraceError(
                f"{run.folder}: trained with {key}={trained[key]}, the trace was collected with {given[key]}; "
                "evaluate on a trace of the same shape"
            )
    others = [key for key in ("target", "draft") if trained[key] != given[key]]
    if others and not allow_other_pair:
        key = others[0]
        raise TraceError(
            f"{run.folder}: trained on {key} {trained[key]}, the trace is of {given[key]}; "
            "use that pair's trace, or allow_other_pair=true to try the policy on another pair"
        )
    columns = _columns(run)
    missing = [name for name in columns if name not in made.features]
    if missing:
        raise TraceError(
            f"{run.folder}: its policy looks at {', '.join(missing)}, the trace was collected with "
            f"{', '.join(made.features) or 'no features'}; collect with features=[{','.join(columns)}]"
        )
    if isinstance(run.policy, LearnedPolicy):
        made.check_projections(run.policy.spec, str(run.folder))
    projected = [name for name in columns if FEATURES[name].projected]
    if others and projected:
        log.warning(
            "%s: looks at %s, projected from the space of the models that it was trained on; the trace's are of other "
            "models' spaces, of which it knows nothing",
            run.folder,
            " and ".join(projected),
        )


def seen_features(runs: Sequence[Run]) -> list[str]:
    """The feature columns that the runs' policies look at."""
    return [name for name in FEATURES if any(name in _columns(run) for run in runs)]


def _columns(run: Run) -> tuple[str, ...]:
    return columns_of(run.policy.features) if isinstance(run.policy, MemorylessPolicy) else ()


@dataclass(frozen=True)
class Trained:
    """A run that has been asked: where it stops does not depend on what a machine's rounds cost.

    Attributes:
        name: how tables call it.
        run: the run.
        depths: [N] int8, calls after which it stops at each row of the held-out texts.
        decision_microseconds: as measured here.
    """

    name: str
    run: Run
    depths: NDArray[np.int8]
    decision_microseconds: float | None

    @classmethod
    def of(cls, name: str, run: Run, outcomes: Outcomes) -> "Trained":
        """A run, asked about every row of the held-out texts.

        Args:
            name: what the tables call it.
            run: the trained run.
            outcomes: of the held-out texts, on whichever machine.
        """
        depths = policy_depths(outcomes, run.policy)
        return cls(name, run, depths, decision_microseconds(outcomes.trace, run.policy))

    def on(self, outcomes: Outcomes) -> Contender:
        """Its walk over the held-out texts on one machine."""
        return Contender(
            self.name,
            "learned",
            walk(outcomes, self.depths, self.run.policy.pays_decisions, self.run.policy.asks_from),
            self.run.about["training_seconds"],
            self.decision_microseconds,
            run_facts(self.run),
        )


def run_names(runs: Sequence[Run]) -> list[str]:
    """The runs' own names; where two share one, as much of the ends of their paths as tells them apart.

    Raises:
        ConfigError: a folder is given twice.
    """
    names = [run.name for run in runs]
    longest = max((len(run.folder.parts) for run in runs), default=0)
    for length in range(1, longest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(run.folder.parts[-length:]) for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs: a folder is there twice, got {names}")
    return names


def run_facts(run: Run) -> dict[str, Any]:
    """What ``run.json`` says of a run, by the names of ``compare.FACTS``; what it does not say is None."""
    row, arguments = record_row(run.about), run.about.get("arguments", {})
    observation = arguments.get("observation") or (DEFAULT_FEATURES if arguments else None)
    return {name: row.get(name) for name in FACTS} | {
        "trained_for": row["hardware"],
        "observation": ",".join(observation) if observation else None,
        "run": run.folder.as_posix(),
    }
