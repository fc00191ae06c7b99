"""Building the wheel, and running programs outside the repository."""

import os
import subprocess
import sys
from pathlib import Path


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, outside the repository and without its paths."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RADAR_RL"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(repository: Path, folder: Path) -> Path:
    """The wheel, built from a copy of what a clone has: the build leaves nothing in the repository."""
    clone = folder / "clone"
    clone.mkdir()
    kept = ("pyproject.toml", "README.md", "LICENSE", "radar_rl", "hydra_plugins", "envs", "configs", "datasets")
    run("cp", "-a", *(repository / name for name in kept), clone, cwd=folder)
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(*build, clone, cwd=folder)
    return next(folder.glob("radar_rl-*.whl"))
