"""How a benchmark tells what it measured: on what machine, as tables on the terminal, as JSON in a file.

Needs no more than a serving machine has.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.table import Table

from radar_rl import __version__
from radar_rl.console import wide_console
from radar_rl.folders import made_folder
from radar_rl.speculative import Pair


def machine(pair: Pair) -> dict[str, Any]:
    """What a pair's seconds depend on, by name."""
    device = pair.target.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({kind})",
        "dtype": str(pair.target.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "radar-rl": __version__,
    }


def in_line(values: Mapping[str, Any]) -> str:
    """Names and values in one line: ``threads 1, torch 2.9``."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def tell(verb: str, shown: Iterable[Table | str], figures: Mapping[str, Any], out: str | None) -> None:
    """Print a measurement, and write it.

    Args:
        verb: that measured, to say who wrote the file.
        shown: tables and lines.
        figures: the measurement, JSON-able.
        out: the JSON file to write, its folder made if it is not there; None: none.

    Raises:
        InputError: there is a file where the folder is to be.
    """
    console = wide_console()
    for part in shown:
        console.print(part)
    if out is not None:
        made_folder(Path(out).parent)
        Path(out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"{verb}: written to {out}")
