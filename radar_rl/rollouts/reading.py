"""Reading what collect and rollout wrote: whole in memory, or lazily with polars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.rollouts.storage import Manifest, read_parquet
from radar_rl.rollouts.trace import Sequences, Trace, TraceSettings, accepted_tokens

SEQUENCE_COLUMNS = ["sequence_id", "task", "prompt_id", "token_ids", "prompt_length"]


def load_trace(path: str | Path, *, expect: Mapping[str, Any] | None = None) -> Trace:
    """Load a collected trace into memory.

    Args:
        path: the folder that ``radar-rl collect`` wrote; only finished shards are read.
        expect: fields of ``TraceSettings`` that the trace must have been made with, e.g. ``{"top_k": 10}``.

    Raises:
        TraceError: the folder holds no trace, a file is damaged, shards were made with different settings, or a
            setting is not the expected one.
    """
    folder = Path(path)
    manifest = Manifest.read(folder, "traces")
    shards = []
    settings: TraceSettings | None = None
    for name, entry in manifest.shards.items():
        table, found = read_parquet(folder / "trace" / f"{name}.parquet", "trace")
        sequences, also = read_parquet(folder / "sequences" / f"{name}.parquet", "sequences", SEQUENCE_COLUMNS)
        settings = settings or TraceSettings(**found)
        if TraceSettings(**found) != settings or also != found:
            raise TraceError(f"{folder}: shard {name} was made with other settings than the rest: {found}")
        if (len(table), len(sequences)) != (entry["rows"], entry["sequences"]):
            raise TraceError(
                f"{folder}: shard {name} holds {len(table)} rows of {len(sequences)} sequences, the manifest says "
                f"{entry['rows']} of {entry['sequences']}; it was altered"
            )
        shards.append(_shard(name, settings, table, sequences))
    if settings is None:
        raise TraceError(f"{folder}: no shard is finished; run the same radar-rl collect again")
    for key, value in (expect or {}).items():
        if getattr(settings, key) != value:
            raise TraceError(
                f"{folder}: made with {key}={getattr(settings, key)!r}, expected {value!r}; collect with that setting"
            )
    return _concatenate(settings, shards)


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
        raise TraceError(f"shard {name}: rows are missing, doubled or out of order; it was altered")
    depth, top_k = settings.max_depth, settings.top_k
    if len(table) == 0:
        confidences, ranks = np.empty(0, np.float16), np.empty(0, np.uint16)
    else:
        confidences, ranks = _flat(table["confidences"]), _flat(table["ranks"])
    if np.isnan(confidences).any():
        raise TraceError(f"shard {name}: confidences hold NaN; it was altered, or the draft head is damaged")
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
        raise TraceError("a sequence_id occurs twice: a shard's files were copied under a second name")
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
        TraceError: the folder holds no trace, or shards were made with different settings.
    """
    folder = Path(path)
    manifest = Manifest.read(folder, "traces")
    names = list(manifest.shards)
    if not names:
        raise TraceError(f"{folder}: no shard is finished; run the same radar-rl collect again")
    found = [read_parquet(folder / "trace" / f"{name}.parquet", "trace", ["position"])[1] for name in names]
    for name, values in zip(names, found, strict=True):
        if values != found[0]:
            raise TraceError(f"{folder}: shard {name} was made with other settings than {names[0]}: {values}")
    return TraceSettings(**found[0])


def read_traces(path: str | Path) -> pl.LazyFrame:
    """Scan a collected trace without loading it.

    Args:
        path: the folder that ``radar-rl collect`` wrote; only finished shards are read.

    Returns:
        One row a root token: ``sequence_id``, ``task``, ``prompt_id`` (the prompt row's ``id``), ``position`` (index
        of the root token in prompt + completion), ``confidences`` (array float16, ``max_depth × top_k``, level by
        level), ``accepted`` (list: tokens accepted when stopping after call 1 … ``max_depth`` at the collected
        ``tree_size``), ``censored``.

    Raises:
        TraceError: the folder holds no trace, or shards were made with different settings.
    """
    folder = Path(path)
    settings = trace_settings(folder)
    shards = Manifest.read(folder, "traces").shards
    trace = pl.scan_parquet([folder / "trace" / f"{name}.parquet" for name in shards])
    texts = pl.scan_parquet([folder / "sequences" / f"{name}.parquet" for name in shards]).select(
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


def load_rollouts(path: str | Path) -> pl.DataFrame:
    """Load logged rollouts, in the order in which they were made.

    Args:
        path: the folder that ``radar-rl rollout`` wrote.

    Returns:
        One row a transition; columns as ``radar_rl.rollouts.columns.rollouts_schema`` describes them.

    Raises:
        TraceError: the folder holds no rollouts, they are not finished, or a file is damaged.
    """
    folder = Path(path)
    manifest = Manifest.read(folder, "rollouts")
    if not manifest.complete:
        raise TraceError(f"{folder}: the rollouts are not finished; run the same radar-rl rollout again")
    tables = []
    for name, entry in manifest.shards.items():
        table, _ = read_parquet(folder / "rollouts" / f"{name}.parquet", "rollouts")
        if len(table) != entry["rows"]:
            raise TraceError(f"{folder}: shard {name} holds {len(table)} rows, the manifest says {entry['rows']}")
        tables.append(pl.DataFrame(table))
    return pl.concat(tables)


def rollout_settings(path: str | Path) -> dict[str, Any]:
    """What rollouts were made with: policy, environment, models, observation ``spec``, ``hardware`` and ``reward``."""
    return Manifest.read(Path(path), "rollouts").settings
