"""A collection on disk that needs no model, and a real pair where one is at hand."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from synthetic_trace import make_trace, write_collection

from radar_rl.rollouts import Trace


@pytest.fixture
def trace() -> Trace:
    return make_trace(prompts=10, new_tokens=20, seed=3)


@pytest.fixture
def collection(tmp_path: Path, trace: Trace) -> Path:
    """Three parts of a synthetic trace."""
    return write_collection(tmp_path / "traces", trace)


@pytest.fixture(scope="session")
def model() -> dict[str, Any]:
    """The reference pair, else the embedded one, as the group ``model`` describes it; skipped without either."""
    reference = os.environ.get("RADAR_RL_REFERENCE")
    if reference and Path(reference).is_dir():
        names = {"target": f"{reference}/pair/target", "draft": f"{reference}/pair/draft"}
    elif resources.files("radar_rl.zoo").joinpath("pocket", "draft", "config.json").is_file():
        names = {"target": "pocket", "draft": "pocket"}
    else:
        pytest.skip("neither RADAR_RL_REFERENCE nor the embedded pair is at hand")
    return {"name": "tested", "dtype": "float32", "device": "cpu", **names}


@pytest.fixture(name="write_collection")
def _write_collection() -> Any:
    return write_collection
