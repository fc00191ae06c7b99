"""One synthetic trace and its outcomes, small enough for seconds."""

from pathlib import Path

import pytest
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts import Trace


@pytest.fixture(scope="session")
def trace() -> Trace:
    return make_trace(prompts=24, new_tokens=40, seed=1)


@pytest.fixture(scope="session")
def outcomes(trace: Trace) -> Outcomes:
    return Outcomes.of(trace, HARDWARE)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    """The trace on disk, as ``collect`` writes it."""
    return write_collection(tmp_path_factory.mktemp("traces"), trace, part_size=10)


@pytest.fixture(scope="session")
def hardware_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardware") / "synthetic.json"
    HARDWARE.save(path)
    return path
