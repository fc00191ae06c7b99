"""The run folder: what training leaves, and reading it back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.command import typed
from radar_rl.errors import ConfigError, InputError
from radar_rl.offline.provenance import commit, versions
from radar_rl.policies.protocol import Policy
from radar_rl.rollouts.storage import Store
from radar_rl.runtime.artifact import load_policy

RUN_FILE = "run.json"
CURVE_FILE = "curve.parquet"
POLICY_FILES = ("config.json", "policy.safetensors")
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


def write_run(folder: Path, about: dict[str, Any], curve: list[dict[str, float]]) -> None:
    """Write ``run.json`` and the curve; the policy is there already, so a folder with ``run.json`` is complete."""
    pl.DataFrame(curve).write_parquet(folder / CURVE_FILE)
    Store.at(folder).write_json(RUN_FILE, {"argv": typed(), "versions": versions(), "commit": commit(), **about})


def load_run(folder: str | Path) -> Run:
    """Read a run.

    Raises:
        InputError: the folder holds no finished run, or its record lacks something.
        ArtifactError: its policy is damaged.
    """
    path = Path(folder)
    return Run(path, read_record(path), load_policy(path))


def read_record(folder: Path) -> dict[str, Any]:
    """What a run's ``run.json`` holds.

    Raises:
        InputError: there is none, or it lacks something.
    """
    record = folder / RUN_FILE
    if not record.is_file():
        raise InputError(
            f"no finished run in {folder}: expected {RUN_FILE}; train one with: radar-rl train out={folder}"
        )
    try:
        about = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record}: not JSON ({error})") from error
    missing = [key for key in REQUIRED if key not in about] if isinstance(about, dict) else list(REQUIRED)
    if missing:
        raise InputError(f"{record}: not the record of a run, it lacks {', '.join(missing)}; train again")
    return dict(about)


def identity(
    arguments: Mapping[str, Any], held_out: float, data_hash: str, hardware: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run follows from, as plain values: two runs with the same are the same, wherever their data lie."""
    own = {key: value for key, value in arguments.items() if key not in ("traces", "rollouts")}
    values = own | {"held_out": held_out, "data": data_hash, "hardware": dict(hardware)}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def finished(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a run that is trained already; None: there is none yet.

    Args:
        folder: where it would be.
        wanted: its ``identity``.

    Raises:
        ConfigError: the folder holds a run that follows from something else.
        InputError: it holds a damaged record.
    """
    if not (folder / RUN_FILE).is_file():
        return None
    about = read_record(folder)
    held_out = about["split"]["held_out"]
    there = identity(about.get("arguments", {}), held_out, about.get("data_hash", ""), about["hardware"])
    differing = [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]
    if differing:
        said = "; ".join(_difference(key, there.get(key), wanted.get(key)) for key in differing)
        raise ConfigError(f"{folder} holds a run of other settings ({said}): choose another out=, or overwrite=true")
    return about


def _difference(key: str, there: object, wanted: object) -> str:
    short = all(len(str(value)) <= 60 for value in (there, wanted))
    return f"{key}: {there} there, {wanted} now" if short else f"another {key}"
