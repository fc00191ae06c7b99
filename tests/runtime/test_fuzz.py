"""Damaged artifacts and observations: nothing but the named errors, and no wrong token."""

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recurrent_weights import make_weights
from safetensors.numpy import load, save
from tiny_models import write_tiny_pair

from radar_rl.errors import ArtifactError, FallbackWarning, RadarError
from radar_rl.policies import (
    ConfidenceThreshold,
    ExpectedGain,
    LearnedPolicy,
    MinProbability,
    ObservationSpec,
    Policy,
    RadarPolicy,
    SampledRadar,
    States,
    StaticDepth,
    Svip,
    TapOut,
    UcbSpec,
)
from radar_rl.runtime import SpeculativeDecoder, autoregressive, load_artifact, save_policy
from radar_rl.runtime.decoder import decide
from radar_rl.speculative import Pair, load_pair
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.state import DraftState

SHAPE = {"max_depth": 3, "top_k": 2, "tree_size": 8}
ALL = ("confidences", "depth", *FEATURES)
PROMPT, TOKENS = [5, 6, 7], 8

QUICK, FULL = 300, 2000
COUNTS = [QUICK, pytest.param(FULL, marks=pytest.mark.slow)]


def learned(spec: ObservationSpec, hidden: int = 0) -> LearnedPolicy:
    generator = np.random.default_rng(0)
    sizes = [spec.size, *([hidden] if hidden else []), 2]
    layers = [
        (generator.normal(size=(out, into)).astype(np.float32) / 4, np.zeros(out, np.float32))
        for into, out in pairwise(sizes)
    ]
    return LearnedPolicy("net", spec, layers, asks_from=1 + (hidden > 0))


POLICIES: list[Policy] = [
    learned(ObservationSpec(3, 2)),
    learned(ObservationSpec(3, 2, ALL, feature_dim=4, newest=2), hidden=6),
    RadarPolicy("radar", make_weights(top_k=2, hidden=3, inner=4)),
    SampledRadar(RadarPolicy("radar", make_weights(top_k=2, hidden=3, inner=4)), 7),
    ConfidenceThreshold(0.4),
    MinProbability(0.2),
    ExpectedGain(12.0, (0.1, 0.2)),
    UcbSpec(3, seconds=(0.1, 0.2, 0.3)),
    TapOut((StaticDepth(2), Svip(0.5), ExpectedGain(9.0, (0.1, 0.1)))),
]

DEEP: Any = 0
for _ in range(400):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 99, 10**9, 10**400, -0.5, 0.3, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), "", "x", "learned", "static", "1", [], [1], ["x"], [[]], {}, {"kind": "static"}),
    *({"kind": "tapout", "parameters": {}}, [{"kind": "static", "parameters": {"depth": 2}}] * 3, DEEP),
]


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested values."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*here, key)
        yield from places(value[key], (*here, key))


def pick(generator: np.random.Generator, values: list[Any]) -> Any:
    return values[int(generator.integers(len(values)))]


def edit_json(values: Any, generator: np.random.Generator) -> Any:
    """One value replaced, dropped or added somewhere."""
    values = copy.deepcopy(values)
    *way, last = pick(generator, list(places(values)))
    inside = values
    for key in way:
        inside = inside[key]
    chance = generator.random()
    if chance < 0.7:
        inside[last] = pick(generator, VALUES)
    elif chance < 0.85:
        del inside[last]
    elif isinstance(inside, dict):
        inside[pick(generator, ["surprise", "seed", "asks_from", "newest", "observation"])] = pick(generator, VALUES)
    else:
        inside.append(pick(generator, VALUES))
    return values


def edit_tensors(tensors: dict[str, np.ndarray], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A tensor dropped, added, renamed, of another shape, dtype or value."""
    tensors = {name: values.copy() for name, values in tensors.items()}
    if not tensors or generator.random() < 0.15:
        extra = pick(generator, ["surprise", "layers.1.weight", "layers.7.bias", "layers.0.weight", "mlp.1.weight"])
        return tensors | {extra: generator.normal(size=generator.integers(0, 4, size=2)).astype(np.float32)}
    name = pick(generator, sorted(tensors))
    values = tensors.pop(name)
    done = {
        "dropped": lambda: None,
        "flat": lambda: values.reshape(-1),
        "turned": lambda: np.ascontiguousarray(values.T),
        "longer": lambda: np.concatenate((values, values)),
        "empty": lambda: values[:0],
        "scalar": lambda: values.reshape(-1)[:1].reshape(()),
        "deeper": lambda: values[None],
        "NaN": lambda: np.where(generator.random(values.shape) < 0.3, np.float32(np.nan), values),
        "inf": lambda: values + np.float32(np.inf),
        "huge": lambda: np.full_like(values, 3e38),
        "typed": lambda: values.astype(pick(generator, [np.float16, np.float64, np.int8, np.int64, np.bool_])),
    }
    changed = done[pick(generator, sorted(done))]()
    if changed is not None:
        tensors[pick(generator, [name, name, name, "surprise"])] = changed
    return tensors


def flip(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 9))):
        changed[int(generator.integers(len(changed)))] = int(generator.integers(256))
    return bytes(changed)


def damage(folder: Path, generator: np.random.Generator) -> None:
    """Change an artifact in one of the ways that files change, or that somebody changes them."""
    config, weights = folder / "config.json", folder / "policy.safetensors"
    values, content = json.loads(config.read_text()), weights.read_bytes()

    def sign(edited: bytes, **more: Any) -> None:
        weights.write_bytes(edited)
        config.write_text(json.dumps(values | more | {"weights_sha256": hashlib.sha256(edited).hexdigest()}))

    def observe_otherwise() -> None:
        spec = edit_json(values.get("observation", {"features": ["depth"]}), generator)
        try:
            signed = ObservationSpec.from_json(spec).digest
        except Exception:
            signed = "0" * 16
        config.write_text(json.dumps(values | {"observation": spec, "observation_hash": signed}))

    ways: dict[str, Callable[[], object]] = {
        "config flipped": lambda: config.write_bytes(flip(config.read_bytes(), generator)),
        "config cut": lambda: config.write_bytes(config.read_bytes()[: int(generator.integers(config.stat().st_size))]),
        "config edited": lambda: config.write_text(json.dumps(edit_json(values, generator))),
        "config edited again": lambda: config.write_text(json.dumps(edit_json(values, generator))),
        "config of others": lambda: config.write_text(json.dumps(pick(generator, VALUES))),
        "parameters edited": lambda: config.write_text(
            json.dumps(values | {"parameters": edit_json({"x": 1} | values["parameters"], generator)})
        ),
        "other kind": lambda: config.write_text(
            json.dumps(values | {"kind": pick(generator, ["learned", "radar", "radar-sampled", "static", "gain"])})
        ),
        "observation edited, signed": observe_otherwise,
        "weights flipped": lambda: weights.write_bytes(flip(content, generator)),
        "weights cut": lambda: weights.write_bytes(content[: int(generator.integers(len(content)))]),
        "weights flipped, signed": lambda: sign(flip(content, generator)),
        "weights cut, signed": lambda: sign(content[: int(generator.integers(len(content)))]),
        "tensors edited, signed": lambda: sign(save(edit_tensors(load(content), generator))),
        "tensors edited again, signed": lambda: sign(save(edit_tensors(load(content), generator))),
        "file gone": lambda: pick(generator, [config, weights]).unlink(),
        "empty": lambda: pick(generator, [config, weights]).write_bytes(b""),
    }
    ways[pick(generator, sorted(ways))]()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(*write_tiny_pair(tmp_path_factory.mktemp("pair")))


@pytest.mark.parametrize("count", COUNTS)
def test_of_damaged_artifacts_comes_a_named_error_or_the_targets_text(count: int, tiny: Pair, tmp_path: Path) -> None:
    text = list(autoregressive(tiny, PROMPT, max_new_tokens=TOKENS))
    for number, policy in enumerate(POLICIES):
        pair = {"target": tiny.target_identity, "draft": tiny.draft_identity}
        save_policy(tmp_path / f"{number}", policy, pair | SHAPE | {"best_static_depth": 2, "training": {"seed": 1}})
    refused = decoded = 0
    for case in range(count):
        generator = np.random.default_rng([case, 1])
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / f"{case % len(POLICIES)}", folder)
        damage(folder, generator)
        try:
            artifact = load_artifact(folder)
        except ArtifactError as error:
            refused += str(folder) in str(error)  # which file it is
            continue
        decoded += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # of weights near the end of float32
            decoder = SpeculativeDecoder.from_artifact(tiny, artifact, **SHAPE)
            assert decoder.generate(PROMPT, max_new_tokens=TOKENS).token_ids == text, case
    assert refused + decoded == count
    assert decoded > count / 50


def spoil(values: np.ndarray, generator: np.random.Generator) -> Any:
    """Numbers as they should not be."""
    ways: list[Callable[[], Any]] = [
        lambda: np.where(generator.random(values.shape) < 0.3, np.nan, values).astype(np.float16),
        lambda: np.where(generator.random(values.shape) < 0.3, np.inf, values).astype(np.float16),
        lambda: np.where(generator.random(values.shape) < 0.3, -np.inf, values).astype(np.float16),
        lambda: np.full(values.shape, 65504, np.float16),
        lambda: values[..., :-1] if values.ndim else values[None],
        lambda: values[None],
        lambda: np.concatenate((values, values)) if values.ndim else values,
        lambda: values[:0] if values.ndim else values,
        lambda: values.reshape(-1),
        lambda: values.astype(np.float64),
    ]
    return pick(generator, ways)()


def state(generator: np.random.Generator, depth: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Confidences and features as a round has them."""
    confidences = -np.sort(generator.exponential(2.0, (3, 2)), axis=1).astype(np.float16)
    features = {
        name: generator.random(feature.shape(max_depth=3, top_k=2, feature_dim=4)).astype(feature.dtype)
        for name, feature in FEATURES.items()
    }
    return confidences, features


@pytest.mark.parametrize("count", COUNTS)
def test_spoilt_observations_are_decided_or_refused_by_name(count: int) -> None:
    refused = 0
    for case in range(count):
        generator = np.random.default_rng([case, 2])
        depth = int(generator.integers(1, 3))
        confidences, features = state(generator, depth)
        if generator.random() < 0.5:
            confidences = spoil(confidences, generator)
        else:
            name = pick(generator, sorted(features))
            if generator.random() < 0.3:
                del features[name]
            else:
                features[name] = spoil(features[name], generator)
        depths = np.array([pick(generator, [depth, depth, depth, 0, 3, 4, -1, 99])])
        if generator.random() < 0.1:
            depths = pick(generator, [np.array([1, 2]), np.array([], int), np.array(1)])
        policy = copy.deepcopy(pick(generator, POLICIES[:2]))
        for decided in (
            lambda: decide([policy], [DraftState(9, depth, 3, confidences, features=features)]),  # noqa: B023
            lambda: policy.continues(  # noqa: B023
                States(confidences[None], depths, {name: values[None] for name, values in features.items()})  # noqa: B023
            ),
        ):
            try:
                assert np.asarray(decided()).dtype in (np.bool_, np.int64)
            except RadarError:
                refused += 1
    assert refused > count / 4


def test_spoilt_states_never_change_a_token(
    pocket: Pair, shipped_prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"max_depth": 4, "top_k": 2, "tree_size": 12}
    spec = ObservationSpec(4, 2, ALL, feature_dim=4)
    whole = DraftState.look

    def look(self: DraftState, check: bool = True) -> Any:
        confidences, features = whole(self, check)
        generator = np.random.default_rng([self.position, self.depth])  # whoever looks again sees the same
        seen = dict(features)
        if seen and generator.random() < 0.3:
            name = pick(generator, sorted(seen))
            if generator.random() < 0.5:
                del seen[name]
            else:
                seen[name] = spoil(seen[name], generator)
        return spoil(confidences, generator) if generator.random() < 0.3 else confidences, seen

    monkeypatch.setattr(DraftState, "look", look)
    fallbacks = 0
    for number, prompt in enumerate(shipped_prompts[:2]):
        ids = pocket.encode_prompt(prompt)
        for temperature in (0.0, 1.0):
            options = {"max_new_tokens": 24, "temperature": temperature, "seed": number}
            text = list(autoregressive(pocket, ids, **options))  # type: ignore[arg-type]
            for policy in (learned(ObservationSpec(4, 2)), learned(spec, hidden=5)):
                decoder = SpeculativeDecoder(pocket, policy, **shape, fallback_depth=3)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FallbackWarning)
                    out = decoder.generate(ids, **options)  # type: ignore[arg-type]
                    beside = decoder.generate_batch([ids, ids], **options)  # type: ignore[arg-type]
                assert out.token_ids == beside[0].token_ids == beside[1].token_ids == text
                fallbacks += decoder.fallbacks
    assert fallbacks > 10
