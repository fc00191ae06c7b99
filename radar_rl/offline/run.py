"""The run folder: what training leaves, and reading it back."""

import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl import __version__
from radar_rl.errors import InputError
from radar_rl.policies.protocol import Policy
from radar_rl.rollouts.storage import Store
from radar_rl.runtime.artifact import load_policy

RUN_FILE = "run.json"
CURVE_FILE = "curve.parquet"
PACKAGES = ("d3rlpy", "torch", "numpy", "polars")
REQUIRED = ("name", "algorithm", "split", "trace", "hardware", "training_seconds")


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: where it is.
        about: the whole of ``run.json``.
        policy: the trained policy.
    """

    folder: Path
    about: dict[str, Any]
    policy: Policy

    @property
    def name(self) -> str:
        """How tables call the run."""
        return str(self.about["name"])

    @property
    def held_out(self) -> float:
        """Share of the prompts that was kept from training."""
        return float(self.about["split"]["held_out"])


def versions() -> dict[str, str]:
    """Versions of radar-rl, of Python, and of the packages that results depend on."""
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"radar_rl": __version__, "python": platform.python_version(), **installed}


def write_run(folder: Path, about: dict[str, Any], curve: list[dict[str, float]]) -> None:
    """Write ``run.json`` and the curve; the policy is there already, so a folder with ``run.json`` is complete."""
    pl.DataFrame(curve).write_parquet(folder / CURVE_FILE)
    Store.at(folder).write_json(RUN_FILE, {"argv": sys.argv[1:], "versions": versions(), **about})


def load_run(folder: str | Path) -> Run:
    """Read a run.

    Raises:
        InputError: the folder holds no finished run, or its record lacks something.
        ArtifactError: its policy is damaged.
    """
    path = Path(folder)
    record = path / RUN_FILE
    if not record.is_file():
        raise InputError(f"no finished run in {path}: expected {RUN_FILE}; train one with: radar-rl train out={path}")
    try:
        about = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record}: not JSON ({error})") from error
    missing = [key for key in REQUIRED if key not in about] if isinstance(about, dict) else list(REQUIRED)
    if missing:
        raise InputError(f"{record}: not the record of a run, it lacks {', '.join(missing)}; train again")
    return Run(path, about, load_policy(path))
