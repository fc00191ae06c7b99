"""Feature columns: a trace's are those that live decoding would have computed at the same root and draft call."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, ModelOutputError
from radar_rl.rollouts.columns import TracedText, trace_schema, trace_table
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.rollouts.tracer import match_lengths, trace_sequence
from radar_rl.rollouts.writing import Work, WrittenText
from radar_rl.runtime.models import pair_from_config
from radar_rl.speculative import NgramIndex, Pair, SpeculativeSession, load_pair
from radar_rl.speculative.features import COLUMNS
from radar_rl.speculative.prompts import Prompt

SHAPE: dict[str, Any] = {"max_depth": 8, "top_k": 10, "tree_size": 60}
PROJECTED: dict[str, Any] = {"feature_dim": 6, "feature_seed": 5}
Found = dict[str, NDArray[Any]]


def live(pair: Pair, prompt: Sequence[int], seed: int) -> tuple[list[int], list[tuple[int, int, Found]]]:
    """A text decoded with random stopping, and (position, draft calls, features) at every decision."""
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"temperature": float(seed % 2), "seed": seed, **SHAPE, **PROJECTED}
    session = SpeculativeSession(pair, prompt, max_new_tokens=40, features=list(COLUMNS), **options)
    seen = []
    while not session.finished:
        state = session.begin()
        while True:
            found = {name: v[state.depth - 1] if COLUMNS[name].per_call else v for name, v in state.features.items()}
            seen.append((session.position, state.depth, found))
            if state.depth == SHAPE["max_depth"] or rng.random() > 0.8:
                break
            state = session.draft()
        session.verify()
    return session.token_ids, seen


@pytest.fixture(scope="module", params=["embedded", "another"])
def pair(request: pytest.FixtureRequest, model: dict[str, Any]) -> Pair:
    """The embedded pair, and the reference pair (without it, the embedded EAGLE-2 head)."""
    if request.param == "embedded":
        return load_pair("pocket")
    return load_pair("pocket", "pocket-eagle2") if model["target"] == "pocket" else pair_from_config(model)


def test_a_trace_has_the_features_of_live_decoding(pair: Pair, shipped_prompts: list[str]) -> None:
    compared, calls = 0, set()
    for seed, prompt in enumerate(shipped_prompts[:6]):
        ids = pair.encode_prompt(prompt)
        new, seen = live(pair, ids, seed)
        traced = trace_sequence(
            pair, [*ids, *new], len(ids), **SHAPE, positions_per_batch=17, features=list(COLUMNS), **PROJECTED
        )
        assert list(traced.features) == list(COLUMNS)
        for position, call, found in seen:
            assert list(found) == list(COLUMNS)
            row = position - len(ids)
            for name, values in found.items():
                column = traced.features[name][row]
                ours = column[call - 1] if COLUMNS[name].per_call else column
                np.testing.assert_allclose(
                    ours.astype(float), values.astype(float), atol=4e-3, rtol=4e-3, err_msg=f"{name} at {position}"
                )
            compared += 1
            calls.add(call)
    assert compared > 100
    assert calls == set(range(1, 9))


def test_columns_have_the_registrys_shapes_and_types_and_come_back(
    pocket: Pair, shipped_prompts: list[str], tmp_path: Path
) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    text = [*ids, *ids[:12]]
    settings = TraceSettings("t", "d", **SHAPE, features=tuple(COLUMNS), **PROJECTED)
    traced = trace_sequence(pocket, text, len(ids), **SHAPE, features=settings.features, **PROJECTED)
    sizes = {"max_depth": 8, "top_k": 10, "feature_dim": 6}
    for name, feature in COLUMNS.items():
        assert traced.features[name].shape == (11, *feature.shape(**sizes))
        assert traced.features[name].dtype == feature.dtype
        assert np.isfinite(traced.features[name].astype(float)).all()
    beyond = np.triu(np.ones((8, 8), bool), 1)
    assert (traced.features["mass"][:, beyond] == 0).all()
    assert (traced.features["mass"] <= 1).all()

    work = Work(Prompt("task", "p", token_ids=tuple(ids)), tuple(ids), 0)
    empty = trace_sequence(pocket, text[:2], 1, **SHAPE, features=settings.features, **PROJECTED)
    short = WrittenText(work, 0, tuple(text[:1]), tuple(text[1:2]), 0)
    whole = WrittenText(work, 0, tuple(ids), tuple(text[len(ids) :]), 0)
    none = TracedText(short, empty.confidences, empty.ranks, np.zeros(0, bool), empty.features)
    one = TracedText(whole, traced.confidences, traced.ranks, np.zeros(11, bool), traced.features)
    store = Store.at(tmp_path)
    store.write_parquet("trace.parquet", trace_table([none, one], settings), "trace", asdict(settings))
    table, found = store.read_parquet("trace.parquet", "trace")
    assert TraceSettings(**found) == settings
    assert table.schema.names[-len(COLUMNS) :] == list(COLUMNS)
    assert table.schema.field("entropy").type == pa.list_(pa.float16(), 8)
    assert table.schema.field("log_probs").type == pa.list_(pa.float16(), 80)
    assert table.schema.field("mass").type == pa.list_(pa.float16(), 64)
    assert table.schema.field("hidden").type == pa.list_(pa.float16(), 48)
    assert table.schema.field("target").type == pa.list_(pa.float16(), 6)
    assert table.schema.field("ngram").type == pa.uint8()
    for name, values in traced.features.items():
        column = table[name].combine_chunks()
        flat = column.to_numpy() if name == "ngram" else column.flatten().to_numpy()
        np.testing.assert_array_equal(flat.reshape(values.shape), values)
    assert trace_table([none], settings).num_rows == 0
    assert trace_schema(TraceSettings("t", "d")).names[-1] == "censored"


def test_what_was_not_asked_for_is_not_there(pocket: Pair) -> None:
    assert trace_sequence(pocket, [5, 6, 7, 8], 1, **SHAPE).features == {}
    some = trace_sequence(pocket, [5, 6, 7, 8], 1, **SHAPE, features=("ngram", "entropy"))
    assert list(some.features) == ["entropy", "ngram"]


def test_wrong_requests_and_damaged_models_are_named(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    shape = {"max_depth": 2, "top_k": 3, "tree_size": 8}
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        trace_sequence(pair, [5, 6, 7], 1, **shape, features=["hiden"])
    with pytest.raises(ConfigError, match="feature_dim"):
        trace_sequence(pair, [5, 6, 7], 1, **shape, features=["hidden"])
    object.__setattr__(pair.target, "features", lambda hidden: torch.full((1, 3, pair.head.feature_size), torch.nan))
    object.__setattr__(pair.head, "condition", lambda features: torch.zeros(*features.shape[:2], 32))
    with pytest.raises(ModelOutputError, match="the target's features hold NaN at position 1"):
        trace_sequence(pair, [5, 6, 7], 1, **shape, features=["target"], feature_dim=2)


def test_match_lengths_of_all_roots_are_those_of_each(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0]) * 2
    found = match_lengths(ids, 7)
    assert found.dtype == np.uint8
    assert len(found) == len(ids) - 8
    for row, root in enumerate(range(7, len(ids) - 1)):
        index = NgramIndex()
        index.extend(ids[: root + 1])
        assert found[row] == max((length for _, length in index.occurrences()), default=0)
    assert found[-1] == 5
    assert len(match_lengths(ids, len(ids))) == 0
