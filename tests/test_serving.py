"""A serving machine: torch, transformers, safetensors, numpy, and radar-rl without what it declares besides."""

import importlib.metadata
import json
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installing import build_wheel, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from radar_rl.policies import ObservationSpec
from radar_rl.runtime import autoregressive, save_policy
from radar_rl.runtime.profiler import random_network
from radar_rl.speculative import Pair

SERVING = ("torch", "transformers", "safetensors", "numpy")
NOT_NEEDED = (
    "d3rlpy",
    "gymnasium",
    "hydra",
    "omegaconf",
    "polars",
    "pyarrow",
    "wandb",
    "matplotlib",
    "scipy",
    "psutil",
)
NOT_IMPORTED = (*NOT_NEEDED, "rich", "radar_rl.configs", "radar_rl.cli", "radar_rl.rollouts", "radar_rl.offline")

SERVE = f"""
import importlib.util, json, sys
from radar_rl.runtime import SpeculativeDecoder, load_policy
from radar_rl.speculative import load_pair

pair = load_pair("pocket")
decoder = SpeculativeDecoder(pair, policy=load_policy(sys.argv[1]))
out = decoder.generate(pair.encode_prompt("Name three colours."), max_new_tokens=16)
found = [name for name in {NOT_NEEDED} if importlib.util.find_spec(name)]
imported = [name for name in {NOT_IMPORTED} if name in sys.modules]
print(json.dumps(dict(text=out.token_ids, found=found, imported=imported, of=sys.modules["radar_rl"].__file__)))
"""


def needed(
    name: str, extras: frozenset[str] = frozenset(), seen: set[tuple[str, frozenset[str]]] | None = None
) -> set[str]:
    """Names of a distribution and of all that it requires here, directly or not."""
    seen = set() if seen is None else seen
    if (canonicalize_name(name), extras) in seen:
        return set()
    seen.add((canonicalize_name(name), extras))
    found = {canonicalize_name(name)}
    for text in importlib.metadata.requires(name) or []:
        wanted = Requirement(text)
        wants = [wanted.marker.evaluate({"extra": extra}) if wanted.marker else True for extra in {"", *extras}]
        if any(wants):
            found |= needed(wanted.name, frozenset(wanted.extras), seen)
    return found


def parts(name: str) -> Iterator[Path]:
    """What of a distribution lies directly in this environment's folder of packages."""
    files = importlib.metadata.files(name) or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        yield Path(sysconfig.get_path("purelib"), top)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(repository, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    spec = ObservationSpec(features=("confidences", "depth", "entropy"), newest=2)
    save_policy(tmp_path / "policy", random_network(spec, "random"), {})
    return tmp_path / "policy"


def served(python: Path, policy: Path, pair: Pair) -> dict[str, Any]:
    """What the program above says in an environment; its text is the target's own."""
    said: dict[str, Any] = json.loads(run(python, "-c", SERVE, policy, cwd=policy.parent).splitlines()[-1])
    assert said["text"] == list(autoregressive(pair, pair.encode_prompt("Name three colours."), max_new_tokens=16))
    return said


def test_decoding_needs_four_packages_and_imports_no_other(
    tmp_path: Path, wheel: Path, policy: Path, pocket: Pair
) -> None:
    """In an environment that links to their distributions here, and to those that they require."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    for name in set().union(*map(needed, SERVING)):
        for part in parts(name):
            if not (packages / part.name).exists():
                (packages / part.name).symlink_to(part)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    said = served(python, policy, pocket)
    assert (said["found"], said["imported"]) == ([], [])
    assert said["of"].startswith(str(packages))


@pytest.mark.slow
def test_decoding_works_where_pip_installed_the_four(
    tmp_path: Path, repository: Path, wheel: Path, policy: Path, pocket: Pair
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    pip = (tmp_path / "env" / "bin" / "pip", "install", "--quiet")
    lock = repository / "requirements.lock"
    run(*pip, "-c", lock, "torch", cwd=tmp_path)
    run(*pip, "-c", lock, *SERVING, cwd=tmp_path)
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    said = served(tmp_path / "env" / "bin" / "python", policy, pocket)
    assert (said["found"], said["imported"]) == ([], [])
