"""The Parquet columns of sequences, traces and rollouts, and tables made of what is to be written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from radar_rl.rollouts.trace import TraceSettings
from radar_rl.rollouts.writing import WrittenText
from radar_rl.speculative.features import FEATURES


@dataclass(frozen=True)
class TracedText:
    """One text with its trace; shapes as ``TracedPositions`` has them."""

    text: WrittenText
    confidences: NDArray[np.float16]
    ranks: NDArray[np.uint16]
    censored: NDArray[np.bool_]
    features: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    greedy: int = 0
    improbable: int = 0


def sequences_schema() -> pa.Schema:
    """Columns of ``sequences``: the texts, prompt and completion in ``token_ids``.

    A conversation has a row for each ``turn``, counted from 0, whose prompt is all that was said before its answer.
    ``seed`` is null where the text was given, not written.
    """
    return pa.schema(
        [
            ("sequence_id", pa.string()),
            ("task", pa.string()),
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("turn", pa.int16()),
            ("token_ids", pa.list_(pa.int32())),
            ("prompt_length", pa.int32()),
            ("temperature", pa.float64()),
            ("seed", pa.int64()),
        ]
    )


def trace_schema(settings: TraceSettings) -> pa.Schema:
    """Columns of ``trace``: one row a root token; see ``radar_rl.rollouts.trace.Trace`` for what they mean.

    Behind them a column for each feature, described in ``radar_rl.speculative.features.FEATURES``: a number, or a
    fixed-size list of the row's value, flat, draft call by draft call.
    """
    max_depth, top_k = settings.max_depth, settings.top_k
    columns = [
        ("sequence_id", pa.string()),
        ("position", pa.int32()),
        ("confidences", pa.list_(pa.float16(), max_depth * top_k)),
        ("ranks", pa.list_(pa.uint16(), max_depth * max_depth)),
        ("censored", pa.bool_()),
    ]
    for name in settings.features:
        feature = FEATURES[name]
        shape = feature.shape(max_depth=max_depth, top_k=top_k, feature_dim=settings.feature_dim)
        kind = pa.from_numpy_dtype(feature.dtype)
        columns.append((name, pa.list_(kind, math.prod(shape)) if shape else kind))
    return pa.schema(columns)


def rollouts_schema(observation_size: int) -> pa.Schema:
    """Columns of ``rollouts``: one row a transition.

    ``sequence_id`` is the text's, as the ``sequences`` of a trace have it, so it tells turns and samples apart.
    ``position`` and ``depth`` are the root token and the draft calls of the state observed. ``accepted`` and
    ``emitted`` are 0 unless the action ended the round. ``draft_seconds`` are those of the call that a continue made
    and, at a stop, of call 1. ``censored``: near the end of a text that length, not eos, ended.

    Episodes of one ``batch`` (the number of its first episode) were decoded side by side, and their rounds of one
    number were one round. Live, what they shared was measured once, and each row holds the seconds of the whole: call
    1 and verification are shared by the stops of a (batch, round), another draft call by the continues of a (batch,
    round, depth), so counting each of those once adds up the machine's seconds. A text's own rows add up to the time
    it was served in, but for what it waited while others drafted on.
    """
    return pa.schema(
        [
            ("episode", pa.int32()),
            ("batch", pa.int32()),
            ("round", pa.int32()),
            ("step", pa.int32()),
            ("task", pa.string()),
            ("prompt_id", pa.string()),
            ("sequence_id", pa.string()),
            ("position", pa.int32()),
            ("depth", pa.int8()),
            ("observation", pa.list_(pa.float32(), observation_size)),
            ("action", pa.int8()),
            ("reward", pa.float64()),
            ("terminated", pa.bool_()),
            ("truncated", pa.bool_()),
            ("accepted", pa.int32()),
            ("emitted", pa.int32()),
            ("draft_seconds", pa.float64()),
            ("verify_seconds", pa.float64()),
            ("decide_seconds", pa.float64()),
            ("censored", pa.bool_()),
            ("policy", pa.string()),
        ]
    )


def fixed_size(values: NDArray[Any]) -> pa.Array:
    """A fixed-size-list column of a [N, …] array, of its dtype; each row flat. N may be 0."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), math.prod(values.shape[1:]))


def sequences_table(texts: Sequence[TracedText], settings: TraceSettings) -> pa.Table:
    """Rows of ``sequences``."""
    columns = {
        "sequence_id": [traced.text.sequence_id for traced in texts],
        "task": [traced.text.work.prompt.task for traced in texts],
        "prompt_id": [traced.text.work.prompt.prompt_id for traced in texts],
        "sample": [traced.text.work.sample for traced in texts],
        "turn": [traced.text.turn for traced in texts],
        "token_ids": [traced.text.token_ids for traced in texts],
        "prompt_length": [len(traced.text.prompt_ids) for traced in texts],
        "temperature": [settings.temperature] * len(texts),
        "seed": [traced.text.seed for traced in texts],
    }
    return pa.table(columns, schema=sequences_schema())


def trace_table(texts: Sequence[TracedText], settings: TraceSettings) -> pa.Table:
    """Rows of ``trace``, those of a sequence one after the other."""
    rows = [len(text.confidences) for text in texts]
    positions = [len(traced.text.prompt_ids) + np.arange(count) for traced, count in zip(texts, rows, strict=True)]
    columns = [
        pa.array(np.repeat([traced.text.sequence_id for traced in texts], rows), pa.string()),
        pa.array(np.concatenate(positions), pa.int32()),
        fixed_size(np.concatenate([text.confidences for text in texts])),
        fixed_size(np.concatenate([text.ranks for text in texts])),
        pa.array(np.concatenate([text.censored for text in texts])),
    ]
    for name in settings.features:
        values = np.concatenate([text.features[name] for text in texts])
        columns.append(pa.array(values) if values.ndim == 1 else fixed_size(values))
    return pa.table(columns, schema=trace_schema(settings))


def rollouts_table(columns: Mapping[str, NDArray[Any]], observation_size: int) -> pa.Table:
    """Rows of ``rollouts``; no columns make a table without rows."""
    schema = rollouts_schema(observation_size)
    if not columns:
        return schema.empty_table()
    arrays = [
        fixed_size(columns[name]) if name == "observation" else pa.array(columns[name], schema.field(name).type)
        for name in schema.names
    ]
    return pa.table(arrays, schema=schema)
