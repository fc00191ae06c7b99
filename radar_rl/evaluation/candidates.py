"""The policies whose values are estimated: trained runs, saved policies, rules by name, and folders of these."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ArtifactError, ConfigError, InputError
from radar_rl.evaluation.trained import run_facts, run_names
from radar_rl.offline.run import RUN_FILE, Run, load_run
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import LearnedPolicy, MemorylessPolicy, StaticDepth
from radar_rl.policies.observation import OBSERVATION_FLOOR, ObservationSpec
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.runtime.artifact import load_policy, read_config
from radar_rl.runtime.kinds import KINDS
from radar_rl.runtime.named import SAMPLED, policy_from_string

log = logging.getLogger(__name__)

# What a saved policy's folder has.
CONFIG_FILE = "config.json"

# What a saved policy must say of what it was made with.
MADE_WITH = ("target", "draft", "max_depth", "top_k", "tree_size")


@dataclass(frozen=True)
class Candidate:
    """A policy whose value is estimated.

    Attributes:
        name: how tables call it.
        policy: without memory: a value is a function of the state.
        run: where it comes from; None for a rule given by its name, which fits any trace.
        facts: what is known of a trained run, by the names of ``compare.FACTS``.
    """

    name: str
    policy: MemorylessPolicy
    run: Run | None
    facts: dict[str, Any]

    def spec(self, made: TraceSettings) -> ObservationSpec:
        """What the estimator sees: the policy's own observation, or for a rule all calls' confidences, and depth."""
        if isinstance(self.policy, LearnedPolicy):
            return self.policy.spec
        return ObservationSpec(made.max_depth, made.top_k, floor=OBSERVATION_FLOOR)

    def check_depth(self, max_depth: int) -> None:
        """Refuse a static depth that rounds of a trace cannot have: it would pass for their last one.

        Raises:
            ConfigError: naming it.
        """
        if isinstance(self.policy, StaticDepth) and self.policy.depth > max_depth:
            raise ConfigError(f"runs: {self.name}: rounds of the trace have at most {max_depth} draft calls")

    def paid(self, outcomes: Outcomes) -> NDArray[np.bool_]:
        """After which draft calls it pays for a decision: [L] bool."""
        return outcomes.paid(self.policy.pays_decisions, self.policy.asks_from)


def candidates(asked: Sequence[str]) -> list[Candidate]:
    """The policies that ``runs=`` names.

    Args:
        asked: folders of runs or of saved policies, folders of such folders, and rules (``static:4``).

    Raises:
        ConfigError: there is none, two have one name, or one remembers rounds.
        InputError: a folder holds neither a policy nor folders that do.
        ArtifactError: a policy is damaged, or does not say what it was made with.
    """
    rules = [policy_from_string(text) for text in asked if _is_rule(text)]
    folders = [folder for text in asked if not _is_rule(text) for folder in _folders(Path(text))]
    runs = [load_run(folder) if (folder / RUN_FILE).is_file() else _saved(folder) for folder in folders]
    found = [
        Candidate(name, _memoryless(name, run.policy), run, run_facts(run) if run.about.get("arguments") else {})
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    found += [Candidate(rule.name, _memoryless(rule.name, rule), None, {}) for rule in rules]
    if not found:
        raise ConfigError("runs: give policies to evaluate, runs=[FOLDER,static:4,…]")
    names = [each.name for each in found]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ConfigError(f"runs: two policies are called {', '.join(double)}; give each once, or rename a folder")
    return found


def _is_rule(text: str) -> bool:
    """Whether it names a rule (``static:4``) rather than a folder."""
    return text.partition(":")[0] in (*KINDS, SAMPLED) and not Path(text).is_dir()


def _folders(path: Path) -> list[Path]:
    """The folder itself if a policy is in it, else those in it that hold one whose value can be estimated."""
    if _holds_policy(path):
        return [path]
    inside = sorted(folder for folder in path.iterdir() if _holds_policy(folder)) if path.is_dir() else []
    if not inside:
        raise InputError(f"runs: no policy in {path}, nor in folders in it; train one with: radar-rl train out={path}")
    fit = [folder for folder in inside if _is_memoryless(load_policy(folder))]
    if len(fit) < len(inside):
        others = ", ".join(folder.name for folder in inside if folder not in fit)
        log.warning("%s: left out %s, which remember rounds or draw by chance", path, others)
    return fit


def _holds_policy(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or (folder / CONFIG_FILE).is_file()


def _saved(folder: Path) -> Run:
    """A saved policy as a run of which little is known, so that the same checks hold for it."""
    about = read_config(folder)
    missing = [key for key in MADE_WITH if about.get(key) is None]
    if missing:
        raise ArtifactError(f"{folder}: does not say with which {', '.join(missing)} it was made; give the run instead")
    policy = load_policy(folder)
    trace = {key: about[key] for key in MADE_WITH}
    split = about.get("training", {}).get("split")
    return Run(folder, {"name": policy.name, "trace": trace, "tree_size": about["tree_size"], "split": split}, policy)


def _is_memoryless(policy: Any) -> TypeGuard[MemorylessPolicy]:
    """Whether it decides by the state alone, which a policy that looks at the accepted history does not."""
    return isinstance(policy, MemorylessPolicy) and "history" not in policy.features


def _memoryless(name: str, policy: Any) -> MemorylessPolicy:
    if not _is_memoryless(policy):
        raise ConfigError(
            f"runs: {name} looks back at rounds, or draws by chance; fitted Q evaluation is for policies that are "
            "functions of the state: leave it out"
        )
    return policy
