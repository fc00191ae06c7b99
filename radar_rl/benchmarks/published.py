"""Numbers that papers print, to stand beside ours: ``published.json``, by experiment, each with its source."""

import json
from importlib import resources
from typing import Any


def published(experiment: str) -> dict[str, Any]:
    """What is published for an experiment.

    Args:
        experiment: its name, as in ``bench NAME``.

    Returns:
        ``source`` and numbers, nested as the experiment's tables are.
    """
    numbers = json.loads((resources.files(__package__) / "published.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = numbers[experiment]
    return found
