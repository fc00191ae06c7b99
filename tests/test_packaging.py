"""The wheel holds everything: built, installed in an environment of its own, and used there."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from installing import build_wheel, run


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(repository, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; other packages are this environment's, by a path file.

    A path file's folder is searched after the environment's own, and path files within it (the editable install's) are
    not read: ``radar_rl`` can only be the wheel's.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(own, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_what_the_links_lead_to(repository: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    for folder in ("envs", "configs", "datasets"):
        files = [path for path in (repository / folder).rglob("*.*") if path.suffix != ".pyc"]
        assert files
        assert {f"radar_rl/{path.relative_to(repository)}" for path in files} <= held
    assert {f"radar_rl/zoo/pocket/{part}/model.safetensors" for part in ("target", "draft")} <= held
    files = ("py.typed", "benchmarks/published.json", "evaluation/report/page.html.jinja")
    assert {f"radar_rl/{name}" for name in files} <= held
    assert {path for path in held if path.startswith("hydra_plugins/")} == {
        "hydra_plugins/radar_rl_optuna_sweeper.py",
        "hydra_plugins/radar_rl_ray_launcher.py",
        "hydra_plugins/radar_rl_sweeper.py",
    }
    tops = {name.split("/")[0] for name in held}
    assert tops == {"radar_rl", "hydra_plugins", next(top for top in tops if top.endswith(".dist-info"))}


def test_packages_import_from_the_wheel(environment: Path) -> None:
    code = "import radar_rl.configs, radar_rl.envs, radar_rl; print(radar_rl.__file__, radar_rl.envs.__file__)"
    printed = run(environment / "env" / "bin" / "python", "-c", code, cwd=environment)
    assert [path.startswith(str(environment)) for path in printed.split()] == [True, True]


def test_help_and_decode_run_from_the_wheel(environment: Path) -> None:
    radar_rl = environment / "env" / "bin" / "radar-rl"
    assert "collect" in run(radar_rl, "--help", cwd=environment)
    assert run(radar_rl, "decode", "max_new_tokens=12", "--prompt", "Add 2 and 3.", cwd=environment).strip()
    assert sorted(path.name for path in environment.iterdir()) == ["env"]


def test_sweeps_run_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    """Hydra finds the sweeper and the launcher of the namespace package."""
    radar_rl = environment / "env" / "bin" / "radar-rl"
    run(radar_rl, "convert", "-m", "source=pocket", "to=speculators,safeailab", "out=${to}", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"speculators", "safeailab", "runs"}
    shown = run(radar_rl, "convert", "hydra/launcher=ray", "--cfg", "hydra", "-p", "hydra.launcher", cwd=tmp_path)
    assert "hydra_plugins.radar_rl_ray_launcher.RayLauncher" in shown


def test_the_wheel_brings_what_it_needs(repository: Path, wheel: Path, tmp_path: Path) -> None:
    """A really empty environment: base requirements only, at the locked versions."""
    venv.create(tmp_path / "env", with_pip=True)
    lock = repository / "requirements.lock"
    run(tmp_path / "env" / "bin" / "pip", "install", "--quiet", "-c", lock, "torch", cwd=tmp_path)
    run(tmp_path / "env" / "bin" / "pip", "install", "--quiet", "-c", lock, wheel, cwd=tmp_path)
    radar_rl = tmp_path / "env" / "bin" / "radar-rl"
    assert run(radar_rl, "decode", "max_new_tokens=12", "--prompt", "Add 2 and 3.", cwd=tmp_path).strip()
    failed = subprocess.run([radar_rl, "train", "out=x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "pip install 'radar-rl[train]'" in failed.stderr


def test_the_lock_holds_what_is_asked_for(repository: Path) -> None:
    import tomllib

    from packaging.requirements import Requirement

    lines = (repository / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(version[0].isdigit() and "+" not in version for version in locked.values())
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {name.lower().replace("_", "-"): version for name, version in locked.items()}
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        requirement = Requirement(text)
        assert names[requirement.name.lower()] in requirement.specifier


def test_the_citation_is_of_this_version(repository: Path) -> None:
    import tomllib

    import yaml

    from radar_rl import __version__

    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == tomllib.loads((repository / "pyproject.toml").read_text())["project"]["license"]
