"""Manifests: which parts of a data set are done, by whom and with which settings.

A data set is a folder of *parts*, files that hold a few texts each. A *shard* is the share of one worker: of ``shards``
workers, number ``shard`` makes every ``shards``-th part, and records each in a manifest of its own. The parts do not
depend on how many workers there are, so the folder is the data set, whoever made which part of it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from radar_rl import __version__
from radar_rl.errors import ConfigError, TraceError
from radar_rl.rollouts.storage import SCHEMA_VERSION, Store

Kind = Literal["traces", "rollouts"]
MADE_BY: dict[Kind, str] = {"traces": "collect", "rollouts": "rollout"}
PREFIX, SUFFIX = "manifest-", ".json"


def part_name(number: int) -> str:
    """Name of a part's files."""
    return f"part-{number:05d}"


def check_shard(shard: int, shards: int) -> None:
    """Refuse a share that there is not.

    Raises:
        ConfigError: naming both numbers.
    """
    if shards < 1 or not 0 <= shard < shards:
        raise ConfigError(f"expected shards ≥ 1 and shard in 0 … shards − 1, got shard={shard} and shards={shards}")


@dataclass
class Manifest:
    """What one worker has finished.

    Attributes:
        store: the data set's folder.
        kind: ``traces`` or ``rollouts``.
        settings: everything that determines the rows.
        parts_total: parts the data set will have when it is complete.
        shard, shards: which share this is, of how many.
        notes: what else is worth remembering of this run.
        parts: of each finished part its rows, texts, files and whatever else is worth knowing.
    """

    store: Store
    kind: Kind
    settings: dict[str, Any]
    parts_total: int
    shard: int = 0
    shards: int = 1
    notes: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """What a worker claims: its share, as messages call it."""
        return f"shard-{self.shard:05d}-of-{self.shards:05d}"

    @property
    def name(self) -> str:
        """Name of the manifest's file."""
        return f"{PREFIX}{self.shard:05d}-of-{self.shards:05d}{SUFFIX}"

    def add(
        self, part: str, tables: Mapping[str, pa.Table], settings: Mapping[str, Any], entry: Mapping[str, Any]
    ) -> None:
        """Write a part's files and record it as done.

        Args:
            part: its name.
            tables: by kind: ``sequences``, ``trace`` or ``rollouts``, which is the folder of the file too.
            settings: what goes into the files' metadata.
            entry: what else to remember of it.
        """
        files = {
            f"{kind}/{part}.parquet": asdict(self.store.write_parquet(f"{kind}/{part}.parquet", table, kind, settings))
            for kind, table in tables.items()
        }
        self.finish(part, {**entry, "files": files})

    def finish(self, part: str, entry: Mapping[str, Any]) -> None:
        """Record a part as done; its files must be in place."""
        self.parts[part] = dict(entry)
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        about = {"kind": self.kind, "schema_version": SCHEMA_VERSION, "code_version": __version__}
        mine = {"shard": self.shard, "shards": self.shards, "parts_total": self.parts_total}
        self.store.write_json(
            self.name, about | mine | {"settings": self.settings, "notes": self.notes, "parts": self.parts}
        )

    @classmethod
    def load(cls, store: Store, name: str, kind: Kind | None) -> "Manifest":
        """A manifest that lies in a folder, of a kind or (None) of any.

        Raises:
            TraceError: it is damaged, or of another kind or version.
        """
        shown = store.show(name)
        try:
            values = json.loads(bytes(store.read(name)))
            found = (values["kind"], values["schema_version"])
            kind = found[0] if kind is None and found[0] in MADE_BY else kind
            if kind is not None and found == (kind, SCHEMA_VERSION):
                _check_parts(values["settings"], values["parts"])
                own = (values[key] for key in ("settings", "parts_total", "shard", "shards", "notes", "parts"))
                return cls(store, kind, *own)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"{shown} is damaged ({error!r}); choose another folder") from error
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"{shown}: unreadable ({error})") from error
        wanted = kind or "traces or rollouts"
        raise TraceError(f"{shown}: expected {wanted} of schema version {SCHEMA_VERSION}, got {found[0]} of {found[1]}")

    @classmethod
    def open(
        cls,
        store: Store,
        kind: Kind,
        settings: Mapping[str, Any],
        parts_total: int,
        shard: int = 0,
        shards: int = 1,
        notes: Mapping[str, Any] | None = None,
    ) -> "Manifest":
        """The manifest to go on with: the share's own if there is one, else a new one, which is written.

        A manifest of the same share that has no parts binds nobody to its settings.

        Args:
            notes: of a new data set; those of one that is there stay.

        Raises:
            TraceError: the folder holds something made with other settings; names them.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        mine = cls(store, kind, wanted, parts_total, shard, shards, dict(notes or {}))
        names = manifest_names(store)
        for name in names:
            there = cls.load(store, name, kind)
            if name == mine.name and not there.parts:
                continue
            if differences := _differences(there.settings, wanted, "there", "asked for"):
                raise TraceError(f"{store.place} was made with other settings ({differences}); choose another out=")
            mine.notes = there.notes
            if name == mine.name:
                mine.parts = there.parts
        if not mine.parts:
            mine.save()
        return mine


@dataclass(frozen=True)
class DataSet:
    """What a folder holds.

    Attributes:
        store: the folder.
        kind: ``traces`` or ``rollouts``.
        settings: what all of it was made with.
        parts_total: parts there will be.
        parts: the finished ones, in order, each as ``Manifest.parts`` has it.
    """

    store: Store
    kind: Kind
    settings: dict[str, Any]
    parts_total: int
    parts: dict[str, dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether every part is done."""
        return len(self.parts) == self.parts_total

    @property
    def rows(self) -> int:
        """Rows of the finished parts."""
        return sum(int(entry["rows"]) for entry in self.parts.values())

    @property
    def digest(self) -> str:
        """Hash of settings and files: equal digests mean equal data."""
        about = json.dumps([self.settings, [entry["files"] for entry in self.parts.values()]], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def files(self, folder: str) -> list[str]:
        """Names of the parts' files in a folder: ``sequences``, ``trace`` or ``rollouts``."""
        return [f"{folder}/{part}.parquet" for part in self.parts]

    @classmethod
    def read(cls, place: "str | Path | Store", kind: Kind | None = None) -> "DataSet":
        """What a folder holds, by its manifests.

        Args:
            place: a folder or a URI.
            kind: what it must hold; None: either.

        Raises:
            TraceError: there is none, or one is damaged or of other settings than the rest.
        """
        store = Store.at(place)
        names = manifest_names(store)
        manifests = [Manifest.load(store, name, kind) for name in names]
        if not manifests:
            what = kind or "traces"
            raise TraceError(
                f"no {what} in {store.place} (no {PREFIX}…{SUFFIX}); "
                f"make them with: radar-rl {MADE_BY[what]} out={store.place}"
            )
        first = manifests[0]
        for name, other in zip(names[1:], manifests[1:], strict=True):
            if differences := _differences(first.settings, other.settings, "in one", "in the other"):
                raise TraceError(f"{store.place}: the manifests {names[0]} and {name} differ ({differences})")
        parts = {name: entry for manifest in manifests for name, entry in manifest.parts.items()}
        total = max(manifest.parts_total for manifest in manifests)
        ordered = dict(sorted(parts.items(), key=lambda item: (len(item[0]), item[0])))
        return cls(store, first.kind, first.settings, total, ordered)


def manifest_names(store: Store) -> list[str]:
    """Names of the manifests in a folder."""
    return [name for name in store.names(SUFFIX) if name.startswith(PREFIX)]


def _check_parts(settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Look at all that readers of a manifest rely on; raises KeyError, TypeError or AttributeError."""
    settings.items()
    for entry in parts.values():
        int(entry["rows"])
        for record in entry["files"].values():
            int(record["rows"]), int(record["bytes"]), str(record["sha256"])


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], in_one: str, in_other: str) -> str:
    keys = [key for key in sorted(set(one) | set(other)) if one.get(key) != other.get(key)]
    digests = {"works_digest": "the prompts are others", "policy_digest": "the policy was trained anew"}
    return "; ".join(
        digests.get(key, f"{key}: {one.get(key)!r} {in_one}, {other.get(key)!r} {in_other}") for key in keys
    )
