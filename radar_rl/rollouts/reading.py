"""Reading what collect and rollout wrote: whole in memory, or lazily with polars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.trace import Sequences, Trace, TraceSettings, accepted_tokens

SEQUENCE_COLUMNS = ["sequence_id", "task", "prompt_id", "token_ids", "prompt_length"]


def load_trace(path: str | Path, *, expect: Mapping[str, Any] | None = None) -> Trace:
    """Load a collected trace into memory.

    Args:
        path: the folder that ``radar-rl collect`` wrote, or its URI; only finished parts are read.
        expect: fields of ``TraceSettings`` that the trace must have been made with, e.g. ``{"top_k": 10}``.

    Raises:
        TraceError: the folder holds no trace, a file is truncated or altered, parts were made with different settings,
            or a setting is not the expected one.
    """
    found = _traces(path)
    settings = _settings(found)
    loaded = []
    for name in found.parts:
        table = _part(found, "trace", name, settings)
        sequences = _part(found, "sequences", name, settings, SEQUENCE_COLUMNS)
        loaded.append(_shard(found.store.show(name), settings, table, sequences))
    for key, value in (expect or {}).items():
        if getattr(settings, key) != value:
            raise TraceError(
                f"{path}: made with {key}={getattr(settings, key)!r}, expected {value!r}; collect with that setting"
            )
    return _concatenate(settings, loaded)


def _traces(path: str | Path) -> DataSet:
    """The finished parts of a trace, of which there must be some."""
    found = DataSet.read(path, "traces")
    if not found.parts:
        raise TraceError(f"{path}: no part is finished; run the same radar-rl collect again")
    return found


def _settings(found: DataSet) -> TraceSettings:
    """What a trace was made with: those of a manifest's settings that its files carry too."""
    return TraceSettings(**{name: found.settings[name] for name in TraceSettings.__dataclass_fields__})


def _part(
    found: DataSet, kind: str, name: str, settings: TraceSettings, columns: list[str] | None = None
) -> pa.Table:
    """One file of a trace, checked against its manifest."""
    file = f"{kind}/{name}.parquet"
    table, made_with = found.store.read_parquet(file, kind, columns, found.parts[name]["files"][file])
    if TraceSettings(**made_with) != settings:
        raise TraceError(f"{found.store.show(file)}: made with other settings than the rest: {made_with}")
    return table


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    """The values of a fixed-size-list column, one after the other."""
    values: NDArray[Any] = pa.concat_arrays([chunk.flatten() for chunk in column.chunks]).to_numpy()
    return values


def _shard(name: str, settings: TraceSettings, table: pa.Table, sequences: pa.Table) -> Trace:
    """One shard as a trace, checked: the rows must be exactly the roots of its sequences, in order."""
    texts = Sequences(
        sequence_id=sequences["sequence_id"].to_pylist(),
        task=sequences["task"].to_pylist(),
        prompt_id=sequences["prompt_id"].to_pylist(),
        prompt_length=sequences["prompt_length"].to_numpy().astype(np.int64),
        length=pc.list_value_length(sequences["token_ids"]).to_numpy().astype(np.int64),
    )
    roots = (texts.length - 1 - texts.prompt_length).clip(min=0)
    sequence = np.repeat(np.arange(len(texts)), roots)
    position = np.arange(len(sequence)) - np.repeat(np.cumsum(roots) - roots, roots) + texts.prompt_length[sequence]
    expected_ids = sequences["sequence_id"].combine_chunks().take(pa.array(sequence)) if len(sequences) else None
    if (
        len(table) != len(sequence)
        or not np.array_equal(table["position"].to_numpy(), position)
        or (expected_ids is not None and not table["sequence_id"].combine_chunks().equals(expected_ids))
    ):
        raise TraceError(f"{name}: rows are missing, doubled or out of order; it was altered")
    depth, top_k = settings.max_depth, settings.top_k
    if len(table) == 0:
        confidences, ranks = np.empty(0, np.float16), np.empty(0, np.uint16)
    else:
        confidences, ranks = _flat(table["confidences"]), _flat(table["ranks"])
    if np.isnan(confidences).any():
        raise TraceError(f"{name}: confidences hold NaN; it was altered, or the draft head is damaged")
    return Trace(
        settings=settings,
        sequences=texts,
        sequence=sequence,
        position=position,
        confidences=confidences.reshape(-1, depth, top_k),
        ranks=ranks.reshape(-1, depth, depth),
        censored=table["censored"].to_numpy().astype(bool),
    )


def _concatenate(settings: TraceSettings, shards: list[Trace]) -> Trace:
    texts = [shard.sequences for shard in shards]
    first = np.cumsum([0, *(len(t) for t in texts)])
    sequences = Sequences(
        sequence_id=[i for t in texts for i in t.sequence_id],
        task=[i for t in texts for i in t.task],
        prompt_id=[i for t in texts for i in t.prompt_id],
        prompt_length=np.concatenate([t.prompt_length for t in texts]),
        length=np.concatenate([t.length for t in texts]),
    )
    if len(set(sequences.sequence_id)) != len(sequences):
        raise TraceError("a sequence_id occurs twice: a part's files were copied under a second name")
    return Trace(
        settings=settings,
        sequences=sequences,
        sequence=np.concatenate([shard.sequence + start for shard, start in zip(shards, first, strict=False)]),
        position=np.concatenate([shard.position for shard in shards]),
        confidences=np.concatenate([shard.confidences for shard in shards]),
        ranks=np.concatenate([shard.ranks for shard in shards]),
        censored=np.concatenate([shard.censored for shard in shards]),
    )


def trace_settings(path: str | Path) -> TraceSettings:
    """What the trace in a folder was made with.

    Raises:
        TraceError: the folder holds no trace, or its manifests disagree.
    """
    return _settings(_traces(path))


def read_traces(path: str | Path) -> pl.LazyFrame:
    """Scan a collected trace without loading it.

    Args:
        path: the folder that ``radar-rl collect`` wrote; only finished parts are read.

    Returns:
        One row a root token: ``sequence_id``, ``task``, ``prompt_id`` (the prompt row's ``id``), ``position`` (index
        of the root token in prompt + completion), ``confidences`` (array float16, ``max_depth × top_k``, level by
        level), ``accepted`` (list: tokens accepted when stopping after call 1 … ``max_depth`` at the collected
        ``tree_size``), ``censored``.

    Raises:
        TraceError: the folder holds no trace, or its manifests disagree.
    """
    found = _traces(path)
    settings = _settings(found)
    trace = _scan(found, "trace")
    texts = _scan(found, "sequences").select(
        "sequence_id", "task", "prompt_id", length=pl.col("token_ids").list.len()
    )

    def accepted(rows: pl.Series) -> pl.Series:
        ranks = rows.struct.field("ranks").to_numpy().reshape(-1, settings.max_depth, settings.max_depth)
        remaining = (rows.struct.field("length").cast(pl.Int64) - 1 - rows.struct.field("position")).to_numpy()
        counted = accepted_tokens(ranks, remaining, top_k=settings.top_k, tree_size=settings.tree_size)
        return pl.Series("accepted", counted.astype(np.int16)).arr.to_list()

    rows = pl.struct("ranks", "length", "position")
    return trace.join(texts, on="sequence_id", how="left", maintain_order="left").select(
        "sequence_id",
        "task",
        "prompt_id",
        "position",
        "confidences",
        rows.map_batches(accepted, return_dtype=pl.List(pl.Int16), is_elementwise=True).alias("accepted"),
        "censored",
    )


def data_digest(path: str | Path) -> str:
    """Hash of collected traces or logged rollouts: equal digests mean equal data.

    Raises:
        TraceError: the folder holds neither.
    """
    return DataSet.read(path).digest


def _scan(found: DataSet, kind: str) -> pl.LazyFrame:
    """The files of one kind, lazily, wherever they lie."""
    paths = [found.store.path(name) for name in found.files(kind)]
    if found.store.local is not None:
        return pl.scan_parquet(paths)
    return pl.scan_pyarrow_dataset(pads.dataset(paths, filesystem=found.store.filesystem, format="parquet"))


def load_rollouts(path: str | Path) -> pl.DataFrame:
    """Load logged rollouts, in the order in which they were made.

    Args:
        path: the folder that ``radar-rl rollout`` wrote, or its URI.

    Returns:
        One row a transition; columns as ``radar_rl.rollouts.columns.rollouts_schema`` describes them.

    Raises:
        TraceError: the folder holds no rollouts, they are not finished, or a file is truncated or altered.
    """
    found = DataSet.read(path, "rollouts")
    if not found.complete or not found.parts:
        raise TraceError(f"{path}: the rollouts are not finished; run the same radar-rl rollout again")
    tables = []
    for name, entry in found.parts.items():
        file = f"rollouts/{name}.parquet"
        table, _ = found.store.read_parquet(file, "rollouts", record=entry["files"][file])
        tables.append(pl.DataFrame(table))
    return pl.concat(tables)


def rollout_settings(path: str | Path) -> dict[str, Any]:
    """What rollouts were made with: policy, environment, models, observation ``spec``, ``hardware`` and ``reward``."""
    return DataSet.read(path, "rollouts").settings
