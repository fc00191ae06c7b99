"""The observation: one layout that the environments, the datasets and the runtime all build through."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies.protocol import States
from radar_rl.speculative.features import FEATURES, checked_names, columns_of
from radar_rl.speculative.state import DraftState

DEFAULT_FEATURES = ("confidences", "depth")
DEFAULT_NEWEST = 1
"""Draft calls that a policy sees numbers of unless told otherwise; an ``ObservationSpec`` by itself shows all."""
OBSERVATION_FLOOR = -10.0
"""Where log-probabilities that policies are trained on end (0.005 %).

A lower floor tells nothing more about acceptance, and, as it also stands for levels not drafted yet, stretches the
scale until real differences between levels vanish.
"""
OBSERVABLE = (*DEFAULT_FEATURES, *FEATURES)

NAN_MADE = "its weights are so large that its network's output is NaN"
NAN_SEEN = "confidences or features hold NaN in a drafted level; the trace or a model is damaged"

WORTH_TORCH = 4096
"""Numbers; for fewer, wrapping them in tensors takes longer than it saves."""

OPTIONAL_KEYS = {"feature_dim", "feature_seed", "newest"}


@dataclass(frozen=True)
class Part:
    """Numbers of an observation that belong together.

    Attributes:
        name: of the feature.
        start: index of its first number.
        width: numbers of a draft call, or of the round where ``per_call`` is false.
        per_call: whether there are numbers for every draft call, call by call.
        low, high: what values are cut to.
        blank: stands for calls not made yet.
    """

    name: str
    start: int
    width: int
    per_call: bool
    low: float
    high: float
    blank: float


@dataclass(frozen=True)
class ObservationSpec:
    """What a policy sees after ℓ draft calls.

    Attributes:
        max_depth: draft calls a round can make.
        top_k: beam width.
        features: parts of the observation, in order. ``confidences``: the cumulative draft log-probabilities of
            levels 1…ℓ, sorted descending in a level, ``max_depth × top_k`` numbers. ``depth``: ℓ / max_depth. Further
            ones are those of ``radar_rl.speculative.features.FEATURES``: what a trace was collected with, and what
            depends on the walk.
        floor: log-probabilities below it are raised to it, differences of them cut at its negative; confidences of
            levels not drafted yet are filled with it, other features with 0.
        feature_dim, feature_seed: what ``hidden`` and ``target`` are projected to, and the seed of the projections; of
            no account without them.
        newest: of what has numbers for every draft call, show those of so many newest calls, the newest first; None:
            of all calls, each in its own place.
    """

    max_depth: int = 8
    top_k: int = 10
    features: tuple[str, ...] = DEFAULT_FEATURES
    floor: float = -20.0
    feature_dim: int = 0
    feature_seed: int = 0
    newest: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        check_names(self.features)
        if not -float(np.finfo(np.float32).max) <= self.floor <= 0.0:
            raise ConfigError(f"floor: expected a finite log-probability, got {self.floor}")
        if self.max_depth < 1 or self.top_k < 1:
            raise ConfigError(f"max_depth and top_k must be positive, got {self.max_depth} and {self.top_k}")
        if self.newest is not None and self.newest not in range(1, self.max_depth + 1):
            raise ConfigError(f"newest: expected 1 … max_depth ({self.max_depth}) calls, got {self.newest}")
        checked_names(self.looks_at, self.feature_dim)

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of the features that a state must have, beside the confidences."""
        return tuple(name for name in self.features if name in FEATURES)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that a trace must have columns for: all but what depends on the walk."""
        return columns_of(self.features)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Where the features lie, in order."""
        parts: list[Part] = []
        for name in self.features:
            start = parts[-1].start + self._length(parts[-1]) if parts else 0
            if name == "depth":
                parts.append(Part(name, start, 1, False, 0.0, 1.0, 0.0))
                continue
            if name == "confidences":
                parts.append(Part(name, start, self.top_k, True, self.floor, 0.0, self.floor))
                continue
            feature = FEATURES[name]
            shape = feature.shape(max_depth=self.max_depth, top_k=self.top_k, feature_dim=self.feature_dim)
            limit = -self.floor if feature.nats else np.inf
            low, high = max(feature.low, -limit), min(feature.high, limit)
            width = prod(shape[1:] if feature.per_call else shape)
            parts.append(Part(name, start, width, feature.per_call, low, high, low if high == 0 else 0.0))
        return tuple(parts)

    @property
    def calls(self) -> int:
        """Draft calls that are shown."""
        return self.max_depth if self.newest is None else self.newest

    def _length(self, part: Part) -> int:
        return part.width * (self.calls if part.per_call else 1)

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        return self.parts[-1].start + self._length(self.parts[-1])

    def spread(self, of: str) -> NDArray[np.float32]:
        """An attribute of the parts (``low``, ``high``, ``blank``) at each of their numbers: [size] float32."""
        values = [getattr(part, of) for part in self.parts]
        return np.repeat(values, [self._length(part) for part in self.parts]).astype(np.float32)

    def build(
        self,
        confidences: NDArray[np.float16],
        depth: NDArray[np.integer],
        features: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Observations after ``depth`` draft calls.

        Args:
            confidences: [N, max_depth, top_k] float16; levels above ``depth`` may hold anything.
            depth: [N] draft calls made, 1 … max_depth.
            features: by name, [N, …] of the shapes of ``FEATURES``; of calls above ``depth`` likewise.

        Returns:
            [N, size] float32.

        Raises:
            InputError: a shape is another, a feature is missing, or a drafted level holds NaN.
        """
        if confidences.shape != (*depth.shape, self.max_depth, self.top_k) or depth.ndim != 1:
            raise InputError(
                f"confidences: expected [N, {self.max_depth}, {self.top_k}] of N = {list(depth.shape)} states, "
                f"got {list(confidences.shape)}"
            )
        if len(depth) and not 0 <= depth.min() <= depth.max() <= self.max_depth:
            raise InputError(f"depth: expected 0 … {self.max_depth} draft calls, got {depth.min()} … {depth.max()}")
        observations = np.empty((len(depth), self.size), dtype=np.float32)
        # Which calls are shown, the newest first; where there were fewer, any stands for what is cut to the blank.
        rows, newest = np.arange(len(depth))[:, None], np.maximum(depth[:, None] - 1 - np.arange(self.calls), 0)
        for part in self.parts:
            into = observations[:, part.start : part.start + self._length(part)]
            if part.name == "depth":
                into[:, 0] = depth / self.max_depth
                continue
            values: NDArray[Any] = confidences
            if part.name != "confidences":
                numbers = part.width * (self.max_depth if part.per_call else 1)
                values = self._at_hand(part, len(depth), numbers, features or {})
            if part.per_call and self.newest is not None:
                values = values.reshape(len(depth), self.max_depth, part.width)[rows, newest]
            _widen(values.reshape(into.shape), into)
        low, high = self._bounds
        np.maximum(observations, low.take(depth, axis=0), out=observations)  # both let NaN through
        np.minimum(observations, high.take(depth, axis=0), out=observations)
        if np.isnan(observations).any():
            np.copyto(observations, self._blank, where=self._missing.take(depth, axis=0))  # there NaN is no news
            if np.isnan(observations).any():
                raise InputError(NAN_SEEN)
        return observations

    def narrowed(
        self, observations: NDArray[np.float32], depth: NDArray[np.integer], newest: int
    ) -> tuple["ObservationSpec", NDArray[np.float32]]:
        """Of observations what one of fewer newest calls shows.

        Args:
            observations: [N, size] float32, as ``build`` makes them.
            depth: [N] draft calls made, 1 … max_depth.
            newest: draft calls to show.

        Returns:
            Its spec, and [N, its size] float32.

        Raises:
            ConfigError: there are not so many calls.
        """
        if newest > self.calls:
            raise ConfigError(f"newest: the observations show {self.calls} draft calls, got {newest}")
        spec = replace(self, newest=newest)
        if newest == self.newest:
            return spec, observations
        narrow = np.empty((len(depth), spec.size), dtype=np.float32)
        last = np.arange(newest) if self.newest is not None else depth[:, None] - 1 - np.arange(newest)
        for part, own in zip(spec.parts, self.parts, strict=True):
            into = narrow[:, part.start : part.start + spec._length(part)]
            values = observations[:, own.start : own.start + self._length(own)]
            if part.per_call:
                calls = values.reshape(len(depth), self.calls, part.width)[np.arange(len(depth))[:, None], last]
                values = np.where((last >= 0)[..., None], calls, np.float32(part.blank)).reshape(into.shape)
            into[:] = values
        return spec, narrow

    def begin_rows(
        self,
        observations: NDArray[np.float32],
        rows: NDArray[np.int64],
        features: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Make some rows of a buffer what ``build`` would make of rounds before their first draft call.

        Args:
            observations: [N, size] float32, changed in place.
            rows: [B] which of them, each once.
            features: by name, [B, …] of those that are functions of the round alone.

        Raises:
            InputError: a feature is missing, has another shape, or holds NaN.
        """
        observations[rows] = self._blank
        for part in self.parts:
            if part.name != "depth" and not part.per_call:
                values = self._at_hand(part, len(rows), part.width, features or {})
                observations[rows, part.start : part.start + part.width] = self._cut(part, values)

    def add_calls(
        self,
        observations: NDArray[np.float32],
        rows: NDArray[np.int64],
        depth: NDArray[np.int64],
        confidences: NDArray[np.float16],
        features: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Add a draft call to some rows of a buffer: after calls 1 … ℓ in turn, a row is what ``build`` makes of them.

        Args:
            observations: [N, size] float32, changed in place.
            rows: [B] which of them, each once.
            depth: [B] ℓ, the call to add.
            confidences: [B, top_k] float16, of call ℓ.
            features: by name, [B, …] of those with numbers for every call, call ℓ's.

        Raises:
            InputError: a feature is missing, has another shape, or a value is NaN.
        """
        for part in self.parts:
            if part.name == "depth":
                observations[rows, part.start] = depth / self.max_depth
            elif part.per_call:
                values: NDArray[Any] = confidences
                if part.name != "confidences":
                    values = self._at_hand(part, len(rows), part.width, features or {})
                # A slice whose last axis is split in two is a view.
                calls = observations[:, part.start : part.start + self._length(part)]
                calls = calls.reshape(len(observations), self.calls, part.width)
                if self.newest is None:
                    calls[rows, depth - 1] = self._cut(part, values)
                else:
                    calls[rows, 1:] = calls[rows, :-1]
                    calls[rows, 0] = self._cut(part, values)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What numbers are cut to after 0 … max_depth calls, lowest and highest: [max_depth + 1, size] each.

        Of calls not made both are the blank, so that one cut does all: masks of a batch cost more than its numbers.
        """
        low, high = (np.where(self._missing, self._blank, self.spread(of)) for of in ("low", "high"))
        return low, high

    @cached_property
    def _missing(self) -> NDArray[np.bool_]:
        """Which numbers are of calls not made, after 0 … max_depth calls: [max_depth + 1, size]."""
        missing = np.zeros((self.max_depth + 1, self.size), dtype=np.bool_)
        for part in self.parts:
            if part.per_call:
                # Counted from 0: from the first one on, or from the newest one back.
                calls = np.repeat(np.arange(self.calls), part.width)
                missing[:, part.start : part.start + len(calls)] = calls >= np.arange(self.max_depth + 1)[:, None]
        return missing

    @cached_property
    def _blank(self) -> NDArray[np.float32]:
        return self.spread("blank")

    def _cut(self, part: Part, values: NDArray[Any]) -> NDArray[np.float32]:
        """The values as an observation holds them.

        Raises:
            InputError: one is NaN.
        """
        cut = np.clip(values.astype(np.float32), np.float32(part.low), np.float32(part.high))
        if np.isnan(cut).any():
            raise InputError(NAN_SEEN)
        return cut

    def _at_hand(self, part: Part, count: int, width: int, features: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """A feature's values, ``width`` numbers a state: [count, width]."""
        if part.name not in features:
            raise InputError(
                f"the observation has the feature {part.name!r}, which is not at hand "
                f"(there are: {', '.join(features) or 'none'}); {_remedy(part.name)}"
            )
        values = features[part.name]
        if values.size != count * width:
            raise InputError(f"{part.name}: expected {width} numbers a state, got {list(values.shape)}")
        return values.reshape(count, width)

    def observe(self, states: Sequence[DraftState]) -> NDArray[np.float32]:
        """Observations of states, as the decision loop has them: [N, size] float32. Raises as ``build`` does."""
        seen = States.of(states, self.looks_at)
        return self.build(seen.confidences, seen.depth, seen.features)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a policy's ``config.json`` holds them."""
        values = asdict(self) | {"features": list(self.features)}
        if not any(FEATURES[name].projected for name in self.columns):
            del values["feature_dim"], values["feature_seed"]
        if self.newest is None:
            del values["newest"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ObservationSpec":
        """The spec that ``to_json`` described.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        expected = set(cls.__dataclass_fields__)
        if set(values) | OPTIONAL_KEYS != expected:
            raise ConfigError(f"observation spec: expected keys {sorted(expected)}, got {sorted(values)}")
        return cls(**values)

    @property
    def digest(self) -> str:
        """Hash of the layout: equal digests mean observations that can be exchanged."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _widen(values: NDArray[Any], into: NDArray[np.float32]) -> None:
    """``into[:] = values``; many float16 numbers go through torch, which converts them ten times as fast as NumPy."""
    if values.dtype == np.float16 and values.size >= WORTH_TORCH and values.flags.writeable:
        torch.from_numpy(into).copy_(torch.from_numpy(values))
    else:
        into[:] = values


def _remedy(name: str) -> str:
    """How to come by a feature that is not at hand."""
    if FEATURES[name].walked:
        return f"decode with features=[{name}], or let a walk or an environment fill it in"
    return f"collect, or decode, with features=[{name}]"


def check_names(features: Sequence[str]) -> None:
    """Refuse features that no observation can hold.

    Raises:
        ConfigError: there are none, one is unknown (lists the valid ones), or there twice.
    """
    unknown = [name for name in features if name not in OBSERVABLE]
    if unknown or not features:
        raise ConfigError(f"unknown observation features {unknown}; valid: {', '.join(OBSERVABLE)}")
    if len(set(features)) < len(features):
        raise ConfigError(f"observation features: each once, please; got {', '.join(features)}")
