"""Fixtures that tests of several packages share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import CREDENTIALS, make_bucket, s3_server
from ray_cluster import RayCluster, two_nodes
from tiny_models import write_tiny_pair

from radar_rl.jsonl import read_jsonl
from radar_rl.speculative import Pair, load_pair

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} names no folder: {what} not at hand")
    return Path(value)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Outputs and small weights of other implementations; the test is skipped without them."""
    return _folder("RADAR_RL_REFERENCE", "reference results")


@pytest.fixture(scope="session")
def prompt_data() -> Path:
    """Folder of the benchmark prompt sets; the test is skipped without it."""
    return _folder("RADAR_RL_DATA", "prompt sets")


@pytest.fixture(scope="session")
def pocket() -> Pair:
    """The embedded pair."""
    return load_pair("pocket")


@pytest.fixture(scope="session")
def shipped_prompts() -> list[str]:
    """A few of the prompts that ship, of every family."""
    return [
        str(row["prompt"])
        for path in sorted((ROOT / "datasets" / "prompts").glob("*.jsonl"))
        for row in list(read_jsonl(path))[:4]
        if "prompt" in row
    ]


@pytest.fixture
def tiny_pair(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a tiny random target and head, fresh for every test."""
    return write_tiny_pair(tmp_path)


@pytest.fixture(scope="session")
def _s3_query() -> Iterator[str]:
    pytest.importorskip("moto")
    with s3_server() as query:
        yield query


@pytest.fixture
def object_store(_s3_query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in an S3-compatible store, as a URI for pyarrow; the environment holds the credentials."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.lower().strip("_-").replace("_", "-")
    make_bucket(bucket, _s3_query)
    return f"s3://{bucket}/prefix?{_s3_query}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes on this machine, a CPU each; the test is skipped without Ray."""
    pytest.importorskip("ray")
    with two_nodes() as cluster:
        yield cluster
