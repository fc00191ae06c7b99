"""The hardware profile: what each part of a round costs in seconds on one machine (DESIGN: cost is not in the data)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radar_rl.errors import InputError


@dataclass(frozen=True)
class HardwareProfile:
    """Seconds of the parts of a round.

    Attributes:
        name: what was measured, and where.
        draft_seconds: seconds of draft call 1, 2, …; a deeper call than listed costs what the last one does.
        verify_nodes: numbers of verified nodes (root included) at which verification was measured, increasing.
        verify_seconds: seconds of one verification at each of ``verify_nodes``; linear in between, flat outside.
        decide_seconds: seconds of one stop/continue decision of a learned policy.
        rest_seconds: seconds of a round outside drafting, deciding and verifying.
        autoregressive_seconds: seconds a token of the target decoding alone; None where nobody measured it.
    """

    name: str
    draft_seconds: tuple[float, ...]
    verify_nodes: tuple[int, ...]
    verify_seconds: tuple[float, ...]
    decide_seconds: float
    rest_seconds: float
    autoregressive_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.draft_seconds or not self.verify_nodes or len(self.verify_nodes) != len(self.verify_seconds):
            raise InputError(
                f"hardware profile {self.name!r}: expected draft_seconds and as many verify_seconds as verify_nodes, "
                f"got {len(self.draft_seconds)}, {len(self.verify_seconds)} and {len(self.verify_nodes)}"
            )
        if list(self.verify_nodes) != sorted(set(self.verify_nodes)):
            raise InputError(f"hardware profile {self.name!r}: verify_nodes must increase, got {self.verify_nodes}")
        values = [*self.draft_seconds, *self.verify_seconds, self.decide_seconds, self.rest_seconds]
        if self.autoregressive_seconds is not None:
            values.append(self.autoregressive_seconds)
        if not np.all(np.isfinite(values)) or min(values) < 0:
            raise InputError(f"hardware profile {self.name!r}: seconds must be finite and not negative")
        if self.verify_seconds[-1] + self.rest_seconds == 0:
            raise InputError(
                f"hardware profile {self.name!r}: verification and the rest of a round cannot both be free"
            )

    def draft(self, max_depth: int) -> NDArray[np.float64]:
        """Seconds of draft call 1 … ``max_depth``: [max_depth] float64."""
        calls = np.arange(max_depth).clip(max=len(self.draft_seconds) - 1)
        return np.asarray(np.asarray(self.draft_seconds, dtype=np.float64)[calls])

    def verify(self, nodes: ArrayLike) -> NDArray[np.float64]:
        """Seconds of one verification of ``nodes`` nodes (root included), elementwise."""
        seconds: NDArray[np.float64] = np.interp(np.asarray(nodes), self.verify_nodes, self.verify_seconds)
        return seconds

    def round_seconds(self, nodes: ArrayLike) -> NDArray[np.float64]:
        """Seconds of a round that stops after call 1 … L without paying for decisions.

        Args:
            nodes: [L], nodes verified when stopping after call ℓ (``tree_nodes``).

        Returns:
            [L] float64.
        """
        nodes = np.asarray(nodes)
        return np.asarray(np.cumsum(self.draft(len(nodes))) + self.verify(nodes) + self.rest_seconds)

    @property
    def marginal_draft_share(self) -> float:
        """``draft_share`` of the largest tree whose verification was measured."""
        return self.draft_share(self.verify_nodes[-1])

    def draft_share(self, nodes: int) -> float:
        """Seconds of a draft call over those of a round's rest, verification of ``nodes`` nodes included.

        It says how much a stop policy can gain; print it beside every oracle gap.
        """
        return self.draft_seconds[-1] / (float(self.verify(nodes)) + self.rest_seconds)

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def from_mapping(cls, values: dict[str, Any], origin: str) -> "HardwareProfile":
        """A profile from plain values (a JSON file, a config).

        Raises:
            InputError: a key is missing or unknown; names ``origin``.
        """
        expected = set(cls.__dataclass_fields__)
        missing = expected - set(values) - {"autoregressive_seconds"}
        if missing or set(values) - expected:
            raise InputError(
                f"{origin}: not a hardware profile: missing {sorted(missing)}, unknown {sorted(set(values) - expected)}"
            )
        kinds: dict[str, Any] = {"draft_seconds": float, "verify_nodes": int, "verify_seconds": float}
        alone = values.get("autoregressive_seconds")
        try:
            return cls(
                name=str(values["name"]),
                decide_seconds=float(values["decide_seconds"]),
                rest_seconds=float(values["rest_seconds"]),
                autoregressive_seconds=None if alone is None else float(alone),
                **{key: tuple(kind(v) for v in values[key]) for key, kind in kinds.items()},
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{origin}: seconds must be numbers, lists of them where several are meant ({error})"
            ) from error

    @classmethod
    def load(cls, path: Path) -> "HardwareProfile":
        """Read a profile that ``save`` wrote.

        Raises:
            InputError: the file is missing or is not a profile.
        """
        if not path.is_file():
            raise InputError(f"no hardware profile at {path}; make one with: radar-rl profile out={path}")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object")
        return cls.from_mapping(values, str(path))


def tree_nodes(max_depth: int, top_k: int, tree_size: int, widen_first_level: bool = False) -> NDArray[np.int64]:
    """Nodes verified (root included) when stopping after call 1 … ``max_depth``: [max_depth] int64.

    Level 1 offers ``top_k`` candidates (``tree_size - 1`` if widened and no further call is made), each later level
    ``top_k``²; at most ``tree_size`` nodes are verified (EAGLE's ``total_token``).
    """
    candidates = top_k + np.arange(max_depth, dtype=np.int64) * top_k**2
    if widen_first_level:
        candidates[0] = max(top_k, tree_size - 1)
    return np.minimum(candidates + 1, tree_size)
