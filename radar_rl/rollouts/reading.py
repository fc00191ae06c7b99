"""Reading what collect and rollout wrote: whole in memory, part by part, or lazily with polars."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.storage import METADATA_KEY
from radar_rl.rollouts.trace import Sequences, Trace, TraceSettings, accepted_tokens
from radar_rl.speculative.features import FEATURES, check_columns

SEQUENCE_COLUMNS = ["sequence_id", "task", "prompt_id", "token_ids", "prompt_length"]
TRACE_COLUMNS = ["sequence_id", "position", "confidences", "ranks", "censored"]

log = logging.getLogger(__name__)

# Which of some texts to read: [S] bool.
Keep = Callable[[Sequences], NDArray[np.bool_]]


def load_trace(
    path: str | Path,
    *,
    tree_size: int | None = None,
    widen_first_level: bool = False,
    expect: Mapping[str, Any] | None = None,
    keep: Keep | None = None,
    features: Sequence[str] = (),
) -> Trace:
    """Load a collected trace, or some of its texts: at max_depth 8 and top_k 10 each row takes 177 bytes of memory.

    Args:
        path: the folder that ``radar-rl collect`` wrote, or its URI; only finished parts are read.
        tree_size: nodes verified, root included; None: the collected ones, the most there can be. The trace then is the
            one that collecting with this size gives.
        widen_first_level: after call 1 verify ``tree_size - 1`` children instead of ``top_k`` (RADAR).
        expect: fields of ``TraceSettings`` that the trace must have been made with, e.g. ``{"top_k": 10}``.
        keep: which of some texts to load, e.g. ``lambda texts: held_out(texts.prompt_id, 0.3)``; None: all. The others
            take no memory.
        features: names of feature columns to load besides, which the trace must have been collected with.

    Raises:
        TraceError: the folder holds no trace, a file is truncated or altered, files were made with different settings,
            a setting is not the expected one, ``tree_size`` is out of range, or a feature was not collected.
        ConfigError: a feature is one that no trace can hold.
    """
    found = _traces(path)
    made_with = _settings(found)
    for key, value in (expect or {}).items():
        if getattr(made_with, key) != value:
            made = f"{found.store.place}: made with {key}={getattr(made_with, key)!r}"
            raise TraceError(f"{made}, expected {value!r}; collect with that setting")
    if not found.complete:
        log.warning("%s: %d of %d parts are finished; only they are read", *_progress(found))
    depth, rows = made_with.max_depth, found.rows
    # Room for all rows at once: what nothing is written to takes no memory.
    sequence, position = np.empty(rows, np.int32), np.empty(rows, np.int32)
    confidences = np.empty((rows, depth, made_with.top_k), np.float16)
    accepted, censored = np.empty((rows, depth), np.uint8), np.empty(rows, np.bool_)
    columns = {name: np.empty((rows, *_shape(name, made_with)), FEATURES[name].dtype) for name in features}
    texts: list[Sequences] = []
    filled = count = 0
    parts = trace_parts(path, tree_size=tree_size, widen_first_level=widen_first_level, keep=keep, features=features)
    for part in parts:
        here = slice(filled, filled + len(part))
        sequence[here], position[here] = part.sequence + count, part.position
        confidences[here], accepted[here], censored[here] = part.confidences, part.accepted, part.censored
        for name, column in columns.items():
            column[here] = part.features[name]
        texts.append(part.sequences)
        filled, count = filled + len(part), count + len(part.sequences)
    sequences = Sequences(
        sequence_id=[i for part in texts for i in part.sequence_id],
        task=[i for part in texts for i in part.task],
        prompt_id=[i for part in texts for i in part.prompt_id],
        prompt_length=np.concatenate([part.prompt_length for part in texts]),
        length=np.concatenate([part.length for part in texts]),
    )
    if len(set(sequences.sequence_id)) != len(sequences):
        raise TraceError(
            f"{found.store.place}: a sequence_id occurs twice: a part's files were copied under a second name"
        )
    return Trace(
        settings=made_with.read_for(tree_size),
        sequences=sequences,
        sequence=sequence[:filled],
        position=position[:filled],
        confidences=confidences[:filled],
        accepted=accepted[:filled],
        censored=censored[:filled],
        widen_first_level=widen_first_level,
        features={name: column[:filled] for name, column in columns.items()},
    )


def trace_parts(
    path: str | Path,
    *,
    tree_size: int | None = None,
    widen_first_level: bool = False,
    keep: Keep | None = None,
    features: Sequence[str] = (),
) -> Iterator[Trace]:
    """A collected trace, one finished part after the other; arguments and errors as ``load_trace``."""
    found = _traces(path)
    made_with = _settings(found)
    settings = made_with.read_for(tree_size)
    _check_features(found.store.place, features, made_with, settings)
    for name in found.parts:
        table = _table(found, "trace", name, made_with, [*TRACE_COLUMNS, *features])
        texts = _table(found, "sequences", name, made_with, SEQUENCE_COLUMNS)
        part = _part(found.store.show(name), settings, widen_first_level, table, texts)
        file = found.store.show(f"trace/{name}.parquet")
        columns = {column: _feature(file, table[column], column, made_with) for column in features}
        part = replace(part, features=columns)
        yield part if keep is None else part.select(keep(part.sequences))


def _check_features(place: str, names: Sequence[str], made_with: TraceSettings, read_for: TraceSettings) -> None:
    """Refuse features that a trace has no columns for, and those of another tree size."""
    check_columns(names)
    missing = [name for name in names if name not in made_with.features]
    if missing:
        raise TraceError(
            f"{place}: has no column for the feature {', '.join(missing)} (collected: "
            f"{', '.join(made_with.features) or 'none'}); collect again with features=[{','.join(names)}]"
        )
    if "mass" in names and read_for.tree_size != made_with.tree_size:
        raise TraceError(
            f"{place}: the feature mass is of the collected trees of {made_with.tree_size} nodes, "
            f"not of tree_size={read_for.tree_size}; collect with that tree_size"
        )


def _shape(name: str, made_with: TraceSettings) -> tuple[int, ...]:
    """Shape of a feature's value in one row."""
    return FEATURES[name].shape(max_depth=made_with.max_depth, top_k=made_with.top_k, feature_dim=made_with.feature_dim)


def _feature(file: str, column: pa.ChunkedArray, name: str, made_with: TraceSettings) -> NDArray[Any]:
    """A feature column as an array, [rows, …]."""
    shape = _shape(name, made_with)
    if len(column) == 0:
        return np.empty((0, *shape), FEATURES[name].dtype)
    values = _flat(column) if shape else column.to_numpy()
    if np.isnan(values).any():
        raise TraceError(f"{file}: the feature {name} holds NaN; it was altered, or a model is damaged")
    return np.asarray(values.reshape(-1, *shape))


def _traces(path: str | Path) -> DataSet:
    """The finished parts of a trace, of which there must be some."""
    found = DataSet.read(path, "traces")
    if not found.parts:
        raise TraceError(f"{found.store.place}: no part is finished; run the same radar-rl collect again")
    return found


def _settings(found: DataSet) -> TraceSettings:
    """What a trace was made with: those of a manifest's settings that its files carry too."""
    missing = [name for name in TraceSettings.__dataclass_fields__ if name not in found.settings]
    if missing:
        raise TraceError(f"{found.store.place}: the manifest lacks the settings {', '.join(missing)}; it was altered")
    return TraceSettings(**{name: found.settings[name] for name in TraceSettings.__dataclass_fields__})


def _progress(found: DataSet) -> tuple[str, int, int]:
    return found.store.place, len(found.parts), found.parts_total


def _table(found: DataSet, kind: str, name: str, made_with: TraceSettings, columns: list[str]) -> pa.Table:
    """One file of a trace, checked against its manifest."""
    file = f"{kind}/{name}.parquet"
    table, settings = found.store.read_parquet(file, kind, columns, found.parts[name]["files"][file])
    _check_settings(found.store.show(file), settings, made_with)
    return table


def _check_settings(file: str, settings: Mapping[str, Any], made_with: TraceSettings) -> None:
    """Refuse a file made with other settings than the rest, and say which."""
    wanted = json.loads(json.dumps(asdict(made_with)))
    differences = [
        f"{key} {settings.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted(set(settings) | set(wanted))
        if settings.get(key) != wanted.get(key)
    ]
    if differences:
        raise TraceError(f"{file}: made with other settings than the rest: {', '.join(differences)}; remove it")


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    """The values of a fixed-size-list column, one after the other."""
    chunks = [chunk.flatten() for chunk in column.chunks]
    values: NDArray[Any] = (chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)).to_numpy()
    return values


def _part(name: str, settings: TraceSettings, widen_first_level: bool, table: pa.Table, sequences: pa.Table) -> Trace:
    """One part as a trace, checked: the rows must be exactly the roots of its sequences, in order."""
    texts = Sequences(
        sequence_id=sequences["sequence_id"].to_pylist(),
        task=sequences["task"].to_pylist(),
        prompt_id=sequences["prompt_id"].to_pylist(),
        prompt_length=sequences["prompt_length"].to_numpy().astype(np.int64),
        length=pc.list_value_length(sequences["token_ids"]).to_numpy().astype(np.int64),
    )
    roots = (texts.length - 1 - texts.prompt_length).clip(min=0)
    sequence = np.repeat(np.arange(len(texts), dtype=np.int32), roots)
    first = np.repeat(np.cumsum(roots) - roots - texts.prompt_length, roots)
    position = np.asarray(np.arange(len(sequence)) - first, dtype=np.int32)
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
    accepted = accepted_tokens(
        ranks.reshape(-1, depth, depth),
        texts.length[sequence] - 1 - position,
        top_k=top_k,
        tree_size=settings.tree_size,
        widen_first_level=widen_first_level,
    )
    return Trace(
        settings=settings,
        sequences=texts,
        sequence=sequence,
        position=position,
        confidences=confidences.reshape(-1, depth, top_k),
        accepted=accepted,
        censored=table["censored"].to_numpy().astype(bool),
        widen_first_level=widen_first_level,
    )


def trace_settings(path: str | Path) -> TraceSettings:
    """What the trace in a folder was made with.

    Raises:
        TraceError: the folder holds no trace, or its manifests disagree.
    """
    return _settings(_traces(path))


def read_traces(path: str | Path, *, verify: bool = True) -> pl.LazyFrame:
    """Scan a collected trace without loading it.

    Args:
        path: the folder that ``radar-rl collect`` wrote, or its URI; only finished parts are read.
        verify: read every file once beforehand, one after the other, to compare it with its recorded checksum; False
            reads the footers only.

    Returns:
        One row a root token, those of a text one after the other:

        - ``sequence_id`` (string): the text, ``TASK/PROMPT_ID/SAMPLE…``.
        - ``task`` (string): the task that its prompt belongs to.
        - ``prompt_id`` (string): the prompt row's ``id``.
        - ``position`` (int32): index of the root token in prompt + completion; from the prompt's length on.
        - ``confidences`` (array of float16, ``max_depth × top_k``, level by level): cumulative draft log-probabilities
          of each level's beam, descending within a level.
        - ``accepted`` (list of int16, ``max_depth``): draft tokens accepted when stopping after call 1 … ``max_depth``
          at the collected ``tree_size``, cut where the text ends.
        - ``censored`` (bool): near the end of a text that length, not eos, ended; leave it out of statistics.
        - then each feature column that was collected, under its name and as it is stored.

    Raises:
        TraceError: the folder holds no trace, or a file is truncated or altered, or made with other settings or columns
            than the rest; names it.
    """
    found = _traces(path)
    settings = _settings(found)
    trace, texts = (_scan(found, kind, settings, verify) for kind in ("trace", "sequences"))
    features = [name for name in trace.collect_schema().names() if name not in TRACE_COLUMNS]

    def accepted(rows: pl.Series) -> pl.Series:
        ranks = rows.struct.field("ranks").to_numpy().reshape(-1, settings.max_depth, settings.max_depth)
        remaining = (rows.struct.field("length").cast(pl.Int64) - 1 - rows.struct.field("position")).to_numpy()
        counted = accepted_tokens(ranks, remaining, top_k=settings.top_k, tree_size=settings.tree_size)
        return pl.Series("accepted", counted.astype(np.int16)).arr.to_list()

    named = texts.select("sequence_id", "task", "prompt_id", length=pl.col("token_ids").list.len())
    rows = pl.struct("ranks", "length", "position")
    return trace.join(named, on="sequence_id", how="left", maintain_order="left").select(
        "sequence_id",
        "task",
        "prompt_id",
        "position",
        "confidences",
        rows.map_batches(accepted, return_dtype=pl.List(pl.Int16), is_elementwise=True).alias("accepted"),
        "censored",
        *features,
    )


def _scan(found: DataSet, kind: str, made_with: TraceSettings, verify: bool) -> pl.LazyFrame:
    """The files of one kind, lazily, wherever they lie; their footers must agree.

    Raises:
        TraceError: a file is missing or damaged, or has other columns or settings than the rest; names it.
    """
    store, files = found.store, found.files(kind)
    first: pa.Schema | None = None
    for file, entry in zip(files, found.parts.values(), strict=True):
        source: Any = pa.BufferReader(store.checked(file, entry["files"][file])) if verify else store.path(file)
        try:
            schema = pq.read_schema(source, filesystem=None if verify else store.filesystem)
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"{store.show(file)}: missing or damaged ({error})") from error
        about = json.loads((schema.metadata or {}).get(METADATA_KEY, b'{"settings": {}}'))
        _check_settings(store.show(file), about["settings"], made_with)
        first = schema if first is None else first
        if not schema.equals(first):
            others = sorted({str(field) for field in set(schema) ^ set(first)})
            raise TraceError(f"{store.show(file)}: other columns than {files[0]} has: {', '.join(others)}")
    paths = [store.path(file) for file in files]
    if store.local is not None:
        return pl.scan_parquet(paths, glob=False)
    return pl.scan_pyarrow_dataset(pads.dataset(paths, filesystem=store.filesystem, format="parquet"))


def data_digest(path: str | Path) -> str:
    """Hash of collected traces or logged rollouts: equal digests mean equal data.

    Raises:
        TraceError: the folder holds neither.
    """
    return DataSet.read(path).digest


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
        raise TraceError(f"{found.store.place}: the rollouts are not finished; run the same radar-rl rollout again")
    tables = []
    for name, entry in found.parts.items():
        file = f"rollouts/{name}.parquet"
        table, _ = found.store.read_parquet(file, "rollouts", record=entry["files"][file])
        tables.append(pl.DataFrame(table))
    return pl.concat(tables)


def rollout_settings(path: str | Path) -> dict[str, Any]:
    """What rollouts were made with: policy, environment, models, observation ``spec``, ``hardware`` and ``reward``."""
    return DataSet.read(path, "rollouts").settings
