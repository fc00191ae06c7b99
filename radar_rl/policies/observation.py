"""The observation: one layout that the environments, the datasets and the runtime all build through."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError

FEATURES = ("confidences", "depth")


@dataclass(frozen=True)
class ObservationSpec:
    """What a policy sees after ℓ draft calls.

    Attributes:
        max_depth: draft calls a round can make.
        top_k: beam width.
        features: parts of the observation, in order. ``confidences``: the cumulative draft log-probabilities of
            levels 1…ℓ, sorted descending in a level, ``max_depth × top_k`` numbers. ``depth``: ℓ / max_depth.
        floor: log-probabilities below it are raised to it; levels not drafted yet are filled with it.
    """

    max_depth: int = 8
    top_k: int = 10
    features: tuple[str, ...] = FEATURES
    floor: float = -20.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise ConfigError(f"unknown observation features {unknown}; valid: {', '.join(FEATURES)}")
        if self.max_depth < 1 or self.top_k < 1:
            raise ConfigError(f"max_depth and top_k must be positive, got {self.max_depth} and {self.top_k}")

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        sizes = {"confidences": self.max_depth * self.top_k, "depth": 1}
        return sum(sizes[name] for name in self.features)

    def build(self, confidences: NDArray[np.float16], depth: NDArray[np.integer]) -> NDArray[np.float32]:
        """Observations after ``depth`` draft calls.

        Args:
            confidences: [N, max_depth, top_k] float16; levels above ``depth`` may hold anything.
            depth: [N] draft calls made, 1 … max_depth.

        Returns:
            [N, size] float32.

        Raises:
            InputError: the shape is another, or a drafted level holds NaN.
        """
        if confidences.shape[1:] != (self.max_depth, self.top_k):
            raise InputError(
                f"confidences: expected [N, {self.max_depth}, {self.top_k}], got {list(confidences.shape)}"
            )
        drafted = np.arange(self.max_depth) < depth[:, None]  # [N, max_depth]
        parts = []
        for name in self.features:
            if name == "confidences":
                levels = np.where(drafted[:, :, None], confidences, np.float16(self.floor)).astype(np.float32)
                parts.append(
                    np.maximum(levels, np.float32(self.floor)).reshape(len(depth), self.max_depth * self.top_k)
                )
            else:
                parts.append((depth[:, None] / self.max_depth).astype(np.float32))
        observations = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        if np.isnan(observations).any():
            raise InputError("confidences hold NaN in a drafted level; the trace or the draft head is damaged")
        return observations

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a policy's ``config.json`` holds them."""
        return asdict(self) | {"features": list(self.features)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ObservationSpec":
        """The spec that ``to_json`` described.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        if set(values) != set(cls.__dataclass_fields__):
            raise ConfigError(
                f"observation spec: expected keys {sorted(cls.__dataclass_fields__)}, got {sorted(values)}"
            )
        return cls(**values | {"features": tuple(values["features"])})

    @property
    def digest(self) -> str:
        """Hash of the layout: equal digests mean observations that can be exchanged."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
