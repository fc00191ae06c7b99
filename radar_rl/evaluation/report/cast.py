"""Whose rounds a report draws: the best policy of each machine and its threshold rules, found where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radar_rl.errors import ConfigError
from radar_rl.evaluation.report.evaluated import THRESHOLD, Evaluated, Row, best, depth_of
from radar_rl.offline.results import runs_in
from radar_rl.offline.run import Run, load_run
from radar_rl.policies import Policy, StaticDepth
from radar_rl.speculative.features import FEATURES, columns_of


@dataclass(frozen=True)
class Cast:
    """Who is drawn.

    Attributes:
        leads: of each machine of the evaluation, the policy that its story is about.
        runs: the learned ones among them, by name.
        rules: the others, by machine and name.
    """

    leads: tuple[Row, ...]
    runs: dict[str, Run]
    rules: dict[tuple[str, str], Policy]

    @classmethod
    def of(cls, evaluated: Evaluated, given: Sequence[str]) -> "Cast":
        """The policies of an evaluation that are drawn, with the runs that are given, or that it recorded.

        Raises:
            ConfigError: it is not known where one lies.
        """
        leads = tuple(best(evaluated.judged(machine)) for machine in evaluated.machines)
        names = [row["policy"] for row in leads if row["kind"] == "learned"]
        found = _named([load_run(folder) for folder in runs_in(given)], evaluated.learned())
        for name, place in evaluated.learned().items():
            if name in names and name not in found and place is not None and Path(place).is_dir():
                found[name] = load_run(place)
        if lost := sorted(set(names) - set(found)):
            raise ConfigError(
                f"runs: give the folders of {', '.join(lost)}, whose rounds are to be drawn; the evaluation does not "
                "say where they lie, or they are gone"
            )
        rules = {
            (machine.name, row["policy"]): evaluated.rule(machine, row["policy"])
            for machine, lead in zip(evaluated.machines, leads, strict=True)
            for row in evaluated.judged(machine)
            if row["kind"] == "rule" and (row["policy"].startswith(THRESHOLD) or row["policy"] == lead["policy"])
        }
        return cls(leads, {name: found[name] for name in dict.fromkeys(names)}, rules)

    def policy(self, row: Row) -> Policy:
        """The policy of a row."""
        if row["kind"] == "static":
            return StaticDepth(depth_of(row["policy"]))
        if row["kind"] == "learned":
            return self.runs[row["policy"]].policy
        return self.rules[row["hardware"], row["policy"]]

    def held_out(self, evaluated: Evaluated) -> list[float]:
        """What the runs say about the share of prompts that was held out."""
        known = [run.held_out for run in self.runs.values()]
        return known if evaluated.held_out is None else [*known, evaluated.held_out]

    def columns(self) -> list[str]:
        """The feature columns that they look at."""
        policies = [*(run.policy for run in self.runs.values()), *self.rules.values()]
        seen = {name for policy in policies for name in columns_of(getattr(policy, "features", ()))}
        return [name for name in FEATURES if name in seen]


def _named(runs: Sequence[Run], there: Mapping[str, str | None]) -> dict[str, Run]:
    """Runs by what a table calls them: their own name, or as much of the end of their path as tells them apart."""
    found = {}
    for run in runs:
        parts = run.folder.parts
        called = [*("/".join(parts[-length:]) for length in range(len(parts), 0, -1)), run.name]
        name = next((each for each in called if each in there), None)
        if name is not None:
            found[name] = run
    return found
