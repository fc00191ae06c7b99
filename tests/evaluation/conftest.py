"""A trace on disk with enough prompts to hold some out, two trained runs, and the profile they were trained for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl.offline.train import train
from radar_rl.rollouts import Trace


@pytest.fixture(scope="session")
def trace() -> Trace:
    return make_trace(prompts=60, new_tokens=40, seed=2)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    return write_collection(tmp_path_factory.mktemp("traces"), trace, part_size=20)


@pytest.fixture(scope="session")
def hardware_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardware") / "synthetic.json"
    HARDWARE.save(path)
    return path


def training(collection: Path, hardware_file: Path, out: Path, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "traces": str(collection),
        "rollouts": None,
        "algo": {"name": name},
        "behaviour": None,
        "episode": "sequence",
        "reward": {"kind": "throughput"},
        "hardware": str(hardware_file),
        "held_out": 0.3,
        "steps": 40,
        "batch_size": 128,
        "seed": 0,
        "model": {},
        "wandb": "disabled",
        "tree_size": None,
    } | changes


@pytest.fixture(scope="session")
def train_run() -> Callable[..., None]:
    """Trains a small run of an algorithm: (collection, hardware file, folder, name, **changes)."""

    def run(collection: Path, hardware_file: Path, out: Path, name: str, **changes: Any) -> None:
        train(**training(collection, hardware_file, out, name, **changes))

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, collection: Path, hardware_file: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("cql", "bc"):
        train(**training(collection, hardware_file, folder / name, name))
    train(**training(collection, hardware_file, folder / "bc-again", "bc", held_out=0.2, seed=1))
    return {name: folder / name for name in ("cql", "bc", "bc-again")}
