"""An artifact's ``config.json``: reading it, and refusing one that was altered or is of an unknown version."""

import json
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from radar_rl.errors import ArtifactError
from radar_rl.runtime.kinds import KINDS, MOST, check_keys

FORMAT_VERSION = 1
NETWORKS = ("learned", "radar", "radar-sampled")
"""Kinds of policies that are no rules; the rules' are ``KINDS``."""
METADATA = (
    "target",
    "draft",
    "hardware",
    "training",
    "evaluation",
    "best_static_depth",
    "max_depth",
    "top_k",
    "tree_size",
)
"""What is known of a policy, all of it optional: the pair, ``NAME@HASH``; a hardware profile; from what, how and with
which code it was trained; how it did; the static depth tuned beside it; and the drafts that it was made for."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable() and not set(value) & set("/\\")


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


Check = tuple[Callable[[object], bool], str]

TEXT: Check = (_is_text, "a text")
NAME: Check = (_is_name, "a name, printable and without path separators")
MAPPING: Check = (_is_mapping, "a mapping")
COUNT: Check = (_is_count, f"a whole number in 1 … {MOST}")
WHOLE: Check = (_is_whole, "a whole number")
NUMBER: Check = (_is_number, "a finite number")

REQUIRED: dict[str, Check] = {
    "radar_rl_version": TEXT,
    "kind": TEXT,
    "name": NAME,
    "parameters": MAPPING,
    "weights_sha256": TEXT,
}
LEARNED: dict[str, Check] = {"observation": MAPPING, "observation_hash": TEXT}
OPTIONAL: dict[str, Check] = {
    "target": TEXT,
    "draft": TEXT,
    "hardware": MAPPING,
    "training": MAPPING,
    "evaluation": MAPPING,
    "best_static_depth": COUNT,
    "max_depth": COUNT,
    "top_k": COUNT,
    "tree_size": COUNT,
}
PARAMETERS: dict[str, dict[str, Check]] = {
    "learned": {"asks_from": COUNT},
    "radar-sampled": {"of": NAME, "seed": WHOLE},
}
OBSERVATION: dict[str, Check] = {
    "max_depth": COUNT,
    "top_k": COUNT,
    "floor": NUMBER,
    "newest": COUNT,
    "feature_dim": COUNT,
    "feature_seed": WHOLE,
}


def parse_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ArtifactError: it cannot be read, or is not JSON; NaN and infinity are not.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON ({error})") from error


def check_config(values: Any, path: str) -> None:
    """Refuse a config that lacks a key, has an unknown one, or one whose value is of another type.

    What ``parameters`` and ``observation`` hold is checked where they are used.

    Raises:
        ArtifactError: naming the file, what was expected and what came.
    """
    if not isinstance(values, Mapping) or "format_version" not in values:
        raise ArtifactError(f"{path}: not an exported policy (no format_version)")
    version = values["format_version"]
    if not _is_whole(version) or version != FORMAT_VERSION:
        raise ArtifactError(f"{path}: format version {version!r:.60}; this radar-rl reads version {FORMAT_VERSION}")
    kinds = (*NETWORKS, *KINDS)
    if values.get("kind") not in kinds:
        raise ArtifactError(f"{path}: unknown kind of policy {values.get('kind')!r:.60}; valid: {', '.join(kinds)}")
    own = REQUIRED | (LEARNED if values.get("kind") == "learned" else {})
    check_keys(path, values, ("format_version", *own), OPTIONAL)
    _check(path, values, own, nullable=False)
    _check(path, values, OPTIONAL, nullable=True)
    _check(f"{path}: parameters", values["parameters"], PARAMETERS.get(values["kind"], {}), nullable=False)


def check_observation(values: Mapping[str, Any]) -> None:
    """Refuse the description of an observation whose values are of other types.

    Raises:
        ArtifactError: naming which.
    """
    _check("observation", values, OBSERVATION, nullable=False)
    features = values.get("features")
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise ArtifactError(f"observation: features: expected a list of names, got {features!r:.60}")


def check_drafts(values: Mapping[str, Any], observed: Mapping[str, int]) -> None:
    """Refuse a config whose drafts are not those that its policy observes, or have no such best static depth.

    Args:
        values: the config; what it lacks is not checked.
        observed: ``max_depth`` and ``top_k`` of the drafts that the policy can read; left out: any.

    Raises:
        ArtifactError: naming both values.
    """
    for key, read in observed.items():
        if values.get(key) not in (None, read):
            raise ArtifactError(f"{key}: the policy observes drafts of {read}, the config says {values[key]}")
    best, most = values.get("best_static_depth"), values.get("max_depth") or observed.get("max_depth")
    if best is not None and most is not None and best > most:
        raise ArtifactError(f"best_static_depth: expected at most {most} (max_depth), got {best}")


def _check(what: str, values: Mapping[str, Any], expected: Mapping[str, Check], *, nullable: bool) -> None:
    for key, (fits, meant) in expected.items():
        if key in values and not fits(values[key]) and not (nullable and values[key] is None):
            raise ArtifactError(f"{what}: {key}: expected {meant}, got {values[key]!r:.60}")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value
