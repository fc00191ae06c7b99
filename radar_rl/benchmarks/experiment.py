"""A published experiment run again: rows kept as they are measured, where they come from, and how large it is."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.command import typed
from radar_rl.errors import ConfigError, InputError
from radar_rl.jsonl import read_jsonl
from radar_rl.offline.provenance import commit, versions
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.storage import Store
from radar_rl.runtime.artifact import CONFIG_FILE, WEIGHTS_FILE
from radar_rl.runtime.named import place_of

ROWS, MEASURED, ABOUT = "measured.jsonl", "measurements.parquet", "experiment.json"


class Experiment:
    """What was measured so far, in a folder. A killed experiment goes on where it was.

    Attributes:
        folder: where it lies: ``measured.jsonl`` while it runs, ``measurements.parquet`` and ``experiment.json``
            once it is whole; what else it makes (traces, runs) beside them.
        rows: the measurements, in the order they were made.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self.folder, self.rows = folder, rows

    def has(self, **key: Any) -> bool:
        """Whether a row with these values is measured."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, **row: Any) -> None:
        """Keep a measurement: on disk when this returns."""
        with (self.folder / ROWS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        self.rows.append(row)

    def finish(self, **figures: Any) -> pl.DataFrame:
        """Write the rows as Parquet and add the results, JSON-able, to ``experiment.json``."""
        table = pl.DataFrame(self.rows, infer_schema_length=None)
        table.write_parquet(self.folder / MEASURED)
        about = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        _write(self.folder / ABOUT, about | {"complete": True, "results": figures})
        return table


@contextmanager
def experiment(name: str, out: str, settings: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[Experiment]:
    """An experiment's folder, held while it is worked on; what it has measured already is there.

    Args:
        name: of the experiment.
        out: the folder.
        settings: what the numbers depend on, JSON-able. A folder of other settings is refused.
        about: what else a reader wants to know: pair, machine. Told, not compared.

    Raises:
        ConfigError: the folder holds an experiment of other settings; says which differ.
        InputError: it is held by another process, cannot be written, or its record is damaged.
    """
    folder = Path(out)
    with claimed(Store.at(folder), f"{name}-0-of-1"):
        settings = json.loads(json.dumps(dict(settings)))
        record = folder / ABOUT
        if record.exists():
            try:
                made: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
                before = {"experiment": made["experiment"], **made["settings"]}
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{record}: not the record of an experiment ({error}); choose another out=") from error
            now = {"experiment": name, **settings}
            if other := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
                told = ", ".join(f"{key}={before.get(key)} there, {now.get(key)} here" for key in other)
                raise ConfigError(f"{folder} holds an experiment of other settings ({told}); choose another out=")
        made_by = {"argv": typed(), "versions": versions(), "commit": commit()}
        _write(record, {"experiment": name, "settings": settings, **made_by, **about, "complete": False})
        yield Experiment(folder, _kept(folder / ROWS))


def sized(size: str, sizes: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a size, where none of one's own is given.

    Args:
        size: ``smoke`` or ``full``.
        sizes: each size's settings.
        given: settings by name; None takes the size's.

    Raises:
        ConfigError: there is no such size.
    """
    if size not in sizes:
        raise ConfigError(f"unknown size {size!r}; valid: {', '.join(sizes)}")
    return {name: sizes[size][name] if value is None else value for name, value in given.items()}


def with_contents(value: str | None) -> str | None:
    """A setting that may name a file or a policy's folder, told apart by what lies there: ``weights.pt (sha256 …)``.

    Args:
        value: the setting, which stays as it is where nothing lies there, such as the name of what ships.
    """
    if value is None:
        return None
    place = place_of(value)
    files = [place / CONFIG_FILE, place / WEIGHTS_FILE] if place.is_dir() else [place]
    there = [file.read_bytes() for file in files if file.is_file()]
    return f"{value} (sha256 {hashlib.sha256(b''.join(there)).hexdigest()[:16]})" if there else value


def _kept(path: Path) -> list[dict[str, Any]]:
    """The rows on disk. A last line that was cut off is taken away: it is measured again."""
    if not path.exists():
        return []
    whole, cut, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        path.write_bytes(whole + cut)
    return list(read_jsonl(path))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
