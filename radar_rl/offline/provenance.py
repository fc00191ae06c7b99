"""What made a result: versions of what it depends on, and the commit of the code."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import radar_rl

PACKAGES = ("d3rlpy", "torch", "numpy", "polars")


def versions() -> dict[str, str]:
    """Versions of radar-rl, of Python, and of the packages that results depend on."""
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"radar_rl": radar_rl.__version__, "python": platform.python_version(), **installed}


def commit() -> str | None:
    """The commit that the code was checked out at, ``-dirty`` if files differ from it; None outside a checkout."""
    folder = Path(radar_rl.__file__).parent
    if not (folder.parent / ".git").exists():  # an installed package may lie within somebody else's checkout
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
