"""What ``evaluate`` wrote, read back: its table, the machines that it compares on, the rules that it tuned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.errors import ArtifactError, ConfigError, InputError
from radar_rl.evaluation.compare import ALL_TASKS, FACTS, SCHEMA, headline
from radar_rl.evaluation.evaluate import RULES_FOLDER, TABLE_FILE
from radar_rl.evaluation.profiles import slug
from radar_rl.policies import Policy
from radar_rl.runtime.artifact import load_policy, read_config
from radar_rl.speculative.hardware import HardwareProfile

# What the page calls kinds of policies.
KINDS = {"static": "fixed depth", "rule": "tuned rule", "learned": "learned", "oracle": "oracle"}

# The rule that the page sets beside the best policy: everybody knows it.
THRESHOLD = "threshold-"

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        rows: the table, columns as ``compare.SCHEMA``.
        machines: the profiles that it compares on, in the order of the table.
        rules: where the rules tuned for each of them lie.
        made: what they say of the pair and the trees: ``target``, ``draft``, ``max_depth``, ``top_k``, ``tree_size``.
    """

    rows: pl.DataFrame
    machines: tuple[HardwareProfile, ...]
    rules: tuple[Path, ...]
    made: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Evaluated":
        """Read the folder that ``radar-rl evaluate`` wrote.

        Raises:
            InputError: there is no table, or it lacks a column.
            ArtifactError: a tuned rule is missing or does not say what it was tuned for.
        """
        file = Path(folder) / TABLE_FILE
        try:
            rows = pl.read_parquet(file, glob=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"evaluation: no table at {file}: expected the out= of radar-rl evaluate ({error})"
            ) from error
        if missing := sorted(set(SCHEMA) - set(FACTS) - set(rows.columns)):
            raise InputError(f"evaluation: {file} lacks {', '.join(missing)}: expected what radar-rl evaluate wrote")
        unknown = {name: pl.lit(None, dtype) for name, dtype in FACTS.items() if name not in rows.columns}
        rows = rows.with_columns(**unknown).select(list(SCHEMA))
        baselines = dict(rows.select("hardware", "baseline").unique(maintain_order=True).iter_rows())
        place = Path(folder) / RULES_FOLDER
        rules = tuple(place / slug(name) if len(baselines) > 1 else place for name in baselines)
        about = [read_config(each / baseline) for each, baseline in zip(rules, baselines.values(), strict=True)]
        if not all(isinstance(config.get("hardware"), dict) and config.get("tree_size") for config in about):
            raise ArtifactError(f"{place}: the tuned rules do not say what they were tuned for; evaluate again")
        machines = [HardwareProfile.from_mapping(config["hardware"], str(place)) for config in about]
        return cls(rows, tuple(machines), rules, about[0])

    def machine(self, wanted: HardwareProfile | None) -> HardwareProfile:
        """The machine whose story is told: the one that is wanted, or the first.

        Raises:
            ConfigError: the evaluation has no such machine.
        """
        if wanted is None:
            return self.machines[0]
        found = [machine for machine in self.machines if machine == wanted]
        if not found:
            names = "; ".join(machine.name for machine in self.machines)
            raise ConfigError(
                f"hardware: the evaluation does not compare on {wanted.name!r}, nor with its seconds; it has: {names}"
            )
        return found[0]

    def rule(self, machine: HardwareProfile, name: str) -> Policy:
        """A rule as it was tuned for a machine."""
        return load_policy(self.rules[self.machines.index(machine)] / name)

    def judged(self, machine: HardwareProfile) -> list[Row]:
        """A machine's rows by which policies are judged: means over tasks, or of the only task."""
        return headline(self.rows.filter(pl.col("hardware") == machine.name)).to_dicts()

    def pooled(self, machine: HardwareProfile) -> list[Row]:
        """A machine's rows over all texts."""
        own = (pl.col("hardware") == machine.name) & (pl.col("task") == ALL_TASKS)
        return self.rows.filter(own).to_dicts()

    def learned(self) -> dict[str, str | None]:
        """Names of the learned policies, and where the evaluation found them, if it recorded that."""
        own = self.rows.filter(pl.col("kind") == "learned")
        return dict(own.select("policy", "run").unique("policy", maintain_order=True).iter_rows())

    @property
    def held_out(self) -> float | None:
        """Share of the prompts that was held out, where runs said so."""
        shares = self.rows["held_out"].drop_nulls().to_list()
        return min(shares, default=None)


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """Some policies' rows, from fast to slow."""
    return sorted((row for row in rows if row["kind"] == kind), key=lambda row: -row["speedup_static"])


def at_home(rows: Sequence[Row]) -> list[Row]:
    """The learned policies that were trained for the machine, all of them where none was; from fast to slow."""
    learned = of_kind(rows, "learned")
    return [row for row in learned if row["trained_for"] == row["hardware"]] or learned


def best(rows: Sequence[Row]) -> Row:
    """The policy that a machine's story is about: its fastest learned one, else its fastest rule, else static depth."""
    return (at_home(rows) or of_kind(rows, "rule") or of_kind(rows, "static"))[0]


def the(rows: Sequence[Row], policy: str) -> Row:
    """A policy's row."""
    return next(row for row in rows if row["policy"] == policy)


def name_of(row: Row, judged: Sequence[Row]) -> str:
    """How the page calls the policy that it is about."""
    return label(row, [other for other in at_home(judged) if other["trained_for"] == row["trained_for"]])


def depth_of(static: str) -> int:
    """The depth that a static rule's name says."""
    return int(static.rpartition("-")[2])


def label(row: Row, beside: Sequence[Row]) -> str:
    """How a picture calls a policy: a learned one by its algorithm, as long as that tells it from the others."""
    if row["kind"] == "static":
        return f"depth {depth_of(row['policy'])}" + (", tuned" if row["policy"] == row["baseline"] else "")
    if row["kind"] == "learned" and row["algorithm"]:
        alike = [other for other in beside if other["algorithm"] == row["algorithm"]]
        return str(row["algorithm"] if len(alike) <= 1 else row["policy"])
    return str(row["policy"])
