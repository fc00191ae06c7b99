"""Parquet files that are either whole or absent, and the manifest that says which are done.

Every file is written under a temporary name, synced and renamed, so a file under its final name is complete. The
Parquet key/value ``radar_rl`` of each file holds its kind, the schema version, the code version and the settings.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radar_rl import __version__
from radar_rl.errors import InputError, TraceError

SCHEMA_VERSION = 1
METADATA_KEY = b"radar_rl"
MANIFEST = "manifest.json"


def write_parquet(path: Path, table: pa.Table, kind: str, settings: Mapping[str, Any]) -> None:
    """Write a table so that ``path`` is whole or absent, whenever the process dies.

    Args:
        path: where; its folder is made.
        table: the rows.
        kind: ``sequences``, ``trace`` or ``rollouts``.
        settings: what the rows were made with, JSON-able.

    Raises:
        InputError: the folder cannot be written.
    """
    about = {"kind": kind, "schema_version": SCHEMA_VERSION, "code_version": __version__, "settings": dict(settings)}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})

    def write(temporary: Path) -> None:
        pq.write_table(table, temporary, compression="zstd")

    _write_whole(path, write)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON so that ``path`` holds the old values or the new ones, never half of them."""

    def write(temporary: Path) -> None:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    _write_whole(path, write)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; finished files are whole: "
            "make room and run it again, or choose another out="
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself must survive a power cut too
    finally:
        os.close(descriptor)


def read_parquet(path: Path, kind: str, columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """A file's rows and its settings.

    Raises:
        TraceError: the file is missing, truncated, of another kind, or of an unknown schema version.
    """
    try:
        with pq.ParquetFile(path) as file:
            about = file.schema_arrow.metadata or {}
            table = file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise TraceError(
            f"{path}: missing or damaged ({error}); delete its shard from the manifest and collect again"
        ) from error
    if METADATA_KEY not in about:
        raise TraceError(f"{path}: not written by radar-rl (no {METADATA_KEY.decode()!r} in the file's metadata)")
    values = json.loads(about[METADATA_KEY])
    if values["kind"] != kind or values["schema_version"] != SCHEMA_VERSION:
        raise TraceError(
            f"{path}: expected {kind} of schema version {SCHEMA_VERSION}, "
            f"got {values['kind']} of version {values['schema_version']}"
        )
    settings: dict[str, Any] = values["settings"]
    return table, settings


def shard_name(number: int) -> str:
    """Name of a shard's files."""
    return f"shard-{number:05d}"


@dataclass
class Manifest:
    """What a folder holds and with which settings it was made.

    Attributes:
        folder: where ``manifest.json`` lies.
        kind: ``traces`` or ``rollouts``.
        settings: everything that determines the rows.
        shards_total: shards the folder will have when it is complete.
        shards: of each finished shard its row count and whatever else is worth knowing.
    """

    folder: Path
    kind: str
    settings: dict[str, Any]
    shards_total: int
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)

    def finish(self, name: str, entry: Mapping[str, Any]) -> None:
        """Record a shard as done; its files must be in place."""
        self.shards[name] = dict(entry)
        self.save()

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return len(self.shards) == self.shards_total

    def save(self) -> None:
        """Write the manifest."""
        about = {"kind": self.kind, "schema_version": SCHEMA_VERSION, "code_version": __version__}
        write_json(
            self.folder / MANIFEST,
            about | {"settings": self.settings, "shards_total": self.shards_total, "shards": self.shards},
        )

    @classmethod
    def read(cls, folder: Path, kind: str) -> "Manifest":
        """The manifest of a folder.

        Raises:
            TraceError: there is none, or it is damaged or of another kind or version.
        """
        path = folder / MANIFEST
        verb = "collect" if kind == "traces" else "rollout"
        if not path.is_file():
            raise TraceError(
                f"no {kind} in {folder} ({MANIFEST} is missing); make them with: radar-rl {verb} out={folder}"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = (values["kind"], values["schema_version"])
            manifest = cls(folder, kind, values["settings"], values["shards_total"], dict(values["shards"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(f"{path} is damaged ({error}); choose another folder") from error
        if found != (kind, SCHEMA_VERSION):
            raise TraceError(
                f"{path}: expected {kind} of schema version {SCHEMA_VERSION}, got {found[0]} of {found[1]}"
            )
        return manifest

    @classmethod
    def open(cls, folder: Path, kind: str, settings: Mapping[str, Any], shards_total: int) -> "Manifest":
        """The manifest to go on with: the folder's own if it was made with the same settings, else a new one.

        Raises:
            TraceError: the folder holds something made with other settings; names them.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        if not (folder / MANIFEST).is_file():
            manifest = cls(folder, kind, wanted, shards_total)
            manifest.save()
            return manifest
        manifest = cls.read(folder, kind)
        differences = [
            f"{key}: {manifest.settings.get(key)!r} there, {wanted.get(key)!r} asked for"
            for key in sorted(set(manifest.settings) | set(wanted))
            if manifest.settings.get(key) != wanted.get(key)
        ]
        if differences:
            raise TraceError(f"{folder} was made with other settings ({'; '.join(differences)}); choose another out=")
        return manifest
