"""The configurations: one YAML file per verb, and a folder for each thing that varies (model, algo, reward, …).

The functions below are how the library reads a file by name; composing them is the command line's, through Hydra.
"""

from importlib import resources
from typing import Any

import yaml


def choices(group: str) -> list[str]:
    """Names of a group's members; none if there is no such group."""
    folder = resources.files(__name__).joinpath(group)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def text(*path: str) -> str:
    """A configuration file as it is written.

    Args:
        path: group and name, or a verb's name; without ``.yaml``.
    """
    return resources.files(__name__).joinpath(*path[:-1], f"{path[-1]}.yaml").read_text(encoding="utf-8")


def load(*path: str) -> dict[str, Any]:
    """A configuration file as plain values, nothing composed.

    Args:
        path: group and name, or a verb's name; without ``.yaml``.
    """
    values: dict[str, Any] = yaml.safe_load(text(*path))
    return values
