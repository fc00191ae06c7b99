"""Files that are either whole or absent, in a folder of this machine or on any filesystem that pyarrow knows.

A file of a local folder is written under a temporary name, synced and renamed; an object store publishes an object when
its upload is complete. So a file under its final name is whole. The Parquet key/value ``radar_rl`` of each file holds
its kind, the schema version, the code version and the settings.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from radar_rl import __version__
from radar_rl.errors import InputError, TraceError

SCHEMA_VERSION = 2
METADATA_KEY = b"radar_rl"


@dataclass(frozen=True)
class FileRecord:
    """What a manifest remembers of a file, to find it truncated or altered: rows, bytes and a checksum."""

    rows: int
    bytes: int
    sha256: str


class Store:
    """A folder to read and write.

    Attributes:
        place: the folder as messages call it: as the user wrote it, without what of a URI may hold secrets.
        filesystem, folder: pyarrow's filesystem, and the folder's path on it.
        local: the folder, where it is one of this machine; else None.
    """

    def __init__(self, place: str, filesystem: fs.FileSystem, folder: str, local: Path | None) -> None:
        self.place, self.filesystem, self.folder, self.local = place, filesystem, folder, local

    @classmethod
    def at(cls, place: "str | Path | Store") -> "Store":
        """The folder at a path or a URI (``s3://bucket/folder``, ``gs://…``, ``file:///…``).

        Raises:
            InputError: nothing is named, or pyarrow knows no such filesystem.
        """
        if isinstance(place, Store):
            return place
        text = str(place)
        if not text.strip():
            raise InputError("expected a folder or a URI, got nothing; . is the current folder")
        if "://" not in text:
            return cls(text, fs.LocalFileSystem(), str(Path(text).absolute()), Path(text))
        try:
            filesystem, folder = fs.FileSystem.from_uri(text)
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = str(error).replace(text, _shown(text))
            raise InputError(f"{_shown(text)}: not a folder that pyarrow can open ({reason})") from error
        folder = folder.rstrip("/")
        local = Path(folder) if isinstance(filesystem, fs.LocalFileSystem) else None
        return cls(_shown(text), filesystem, folder, local)

    def path(self, name: str) -> str:
        """A file's path on ``filesystem``."""
        return f"{self.folder}/{name}"

    def show(self, name: str) -> str:
        """A file as messages call it."""
        return f"{self.place.rstrip('/')}/{name}"

    def names(self, suffix: str, *, folder: str = "", hidden: bool = False) -> list[str]:
        """Names of the files in a folder below this one that end in ``suffix``, sorted; none if there is no folder.

        Args:
            hidden: those that begin with a dot, which are no data, instead of the others.

        Raises:
            InputError: the folder cannot be read.
        """
        selector = fs.FileSelector(self.path(folder).rstrip("/"), allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {self.place}: {error}") from error
        names = [info.base_name for info in found if info.base_name.endswith(suffix)]
        return sorted(name for name in names if name.startswith(".") == hidden)

    def read(self, name: str) -> pa.Buffer:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.filesystem.open_input_stream(self.path(name)) as file:
            return file.read_buffer()

    def write(self, name: str, data: "pa.Buffer | bytes") -> None:
        """Write a file so that it is whole or absent, whenever the process dies.

        Raises:
            InputError: it cannot be written; files written before are whole.
        """
        try:
            if self.local is not None:
                _write_local(self.local, name, data)
            else:
                stream = self.filesystem.open_output_stream(self.path(name))
                stream.write(data)
                stream.close()  # which publishes it; no ``with``, as leaving one after an error would publish half
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            mend = (
                "make room and run it again" if self.local is not None else "run it again when the store can be written"
            )
            raise InputError(
                f"cannot write {self.show(name)}: {reason}; finished files are whole: {mend}, or choose another out="
            ) from error

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write JSON so that the file holds the old values or the new ones, never half of them."""
        self.write(name, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())

    def write_parquet(self, name: str, table: pa.Table, kind: str, settings: Mapping[str, Any]) -> FileRecord:
        """Write a table.

        Args:
            name: of the file, below the folder.
            table: the rows.
            kind: ``sequences``, ``trace`` or ``rollouts``.
            settings: what the rows were made with, JSON-able.

        Returns:
            What the manifest is to remember.
        """
        about = {"kind": kind, "schema_version": SCHEMA_VERSION, "code_version": __version__}
        about |= {"settings": dict(settings)}
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue()
        self.write(name, data)
        return FileRecord(len(table), data.size, hashlib.sha256(data).hexdigest())

    def checked(self, name: str, record: Mapping[str, Any] | None) -> pa.Buffer:
        """A file's bytes, which must be those that its manifest's ``record`` (if there is one) remembers.

        Raises:
            TraceError: the file is missing, truncated or altered.
        """
        shown = self.show(name)
        try:
            data = self.read(name)
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"{shown}: missing or unreadable ({error}); {_again(name)}") from error
        if record is None:
            return data
        if data.size != record["bytes"]:
            raise TraceError(f"{shown}: holds {data.size} bytes, its manifest says {record['bytes']}; {_again(name)}")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise TraceError(f"{shown}: altered, its checksum is not the manifest's; {_again(name)}")
        return data

    def read_parquet(
        self, name: str, kind: str, columns: list[str] | None = None, record: Mapping[str, Any] | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """A file's rows and its settings.

        Args:
            columns: which to read; None reads all.
            record: the manifest's ``FileRecord`` of the file, as plain values, to check it against.

        Raises:
            TraceError: the file is missing, truncated, altered, of another kind, or of an unknown schema version.
        """
        shown, data = self.show(name), self.checked(name, record)
        try:
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                about = file.schema_arrow.metadata or {}
                rows = file.metadata.num_rows
                table = file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"{shown}: damaged ({error}); {_again(name)}") from error
        if record is not None and rows != record["rows"]:
            raise TraceError(f"{shown}: holds {rows} rows, its manifest says {record['rows']}; {_again(name)}")
        if METADATA_KEY not in about:
            raise TraceError(f"{shown}: not written by radar-rl (no {METADATA_KEY.decode()!r} in the file's metadata)")
        values = json.loads(about[METADATA_KEY])
        if values["kind"] != kind or values["schema_version"] != SCHEMA_VERSION:
            raise TraceError(
                f"{shown}: expected {kind} of schema version {SCHEMA_VERSION}, "
                f"got {values['kind']} of version {values['schema_version']}"
            )
        settings: dict[str, Any] = values["settings"]
        return table, settings


def _again(name: str) -> str:
    return f"restore it, or delete {Path(name).stem!r} from its manifest and run the same command again"


def _shown(uri: str) -> str:
    """A URI without user and password, and without its query, which may hold keys."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _write_local(folder: Path, name: str, data: "pa.Buffer | bytes") -> None:
    path = folder / name
    temporary = folder / f".{name.replace('/', '-')}.tmp"  # not beside the data, which other tools read by folder
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk has no room for halves
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself must survive a power cut too
    finally:
        os.close(descriptor)
