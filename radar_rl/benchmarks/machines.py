"""The machines of ``bench hardware``: their seconds, how tables call them, and where those seconds come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from radar_rl.configs import choices, text
from radar_rl.errors import ConfigError
from radar_rl.evaluation.profiles import slug
from radar_rl.rollouts.pricing import profile_for
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.speculative.hardware import HardwareProfile

HERE = "this machine"


@dataclass(frozen=True)
class Machine:
    """A machine to train for and to run on.

    Attributes:
        label: how tables call it.
        given: what the verbs' ``hardware=`` takes.
        profile: its seconds.
        origin: where they come from.
    """

    label: str
    given: str
    profile: HardwareProfile
    origin: str

    @property
    def here(self) -> bool:
        """Whether it is this machine, measured by this experiment."""
        return self.label == HERE


def machines_of(
    wanted: Sequence[str | None], measured: Path, model: Mapping[str, Any], made: TraceSettings
) -> list[Machine]:
    """The machines that ``hardware=`` names.

    Args:
        wanted: FILE or NAME of each; None: this machine, measured once.
        measured: where its profile is kept.
        model: the pair to measure.
        made: what the trace was made with.

    Raises:
        ConfigError: one is neither file nor name, or two are called alike.
        ArtifactError: ``model`` is not the trace's pair.
    """
    found = []
    for value in wanted:
        profile = profile_for(made, value, measured, model)
        if value is None:
            found.append(Machine(HERE, str(measured), profile, f"measured in this run with {profile.name}; {measured}"))
        elif value in choices("hardware"):
            found.append(Machine(value, value, profile, f"{_about(value)} (configs/hardware/{value}.yaml)"))
        else:
            found.append(Machine(Path(value).stem, value, profile, f"{profile.name}; {value}"))
    for called in ("label", "profile's name"):  # tables go by the one, folders and matrices by the other
        names = [machine.label if called == "label" else machine.profile.name for machine in found]
        slugs = [slug(name) for name in names]
        double = sorted({name for name in names if slugs.count(slug(name)) > 1})
        if double:
            raise ConfigError(f"hardware: two machines are called {', '.join(double)}; rename a file or its profile")
    return found


def _about(name: str) -> str:
    """What a profile's file begins with."""
    lines = takewhile(lambda line: line.startswith("# "), text("hardware", name).splitlines())
    return " ".join(line.removeprefix("# ") for line in lines).rstrip(".")
