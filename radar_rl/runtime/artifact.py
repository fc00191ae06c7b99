"""The exported policy: a folder with ``config.json`` and ``policy.safetensors``; nothing in it is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from radar_rl import __version__
from radar_rl.errors import ArtifactError, RadarError
from radar_rl.folders import made_folder
from radar_rl.policies import LearnedPolicy, ObservationSpec, Policy, RadarPolicy, SampledRadar
from radar_rl.runtime.config import FORMAT_VERSION, METADATA, check_config, check_drafts, check_observation, parse_json
from radar_rl.runtime.kinds import build_rule, check_keys, describe_rule
from radar_rl.runtime.published import load_published

CONFIG_FILE, WEIGHTS_FILE, ONNX_FILE = "config.json", "policy.safetensors", "policy.onnx"

MADE_FOR = "made_for"
"""Attribute of a loaded policy: its artifact's config."""


@dataclass(frozen=True)
class Artifact:
    """An exported policy and what is known of it.

    Attributes:
        policy: ready to decide.
        about: its ``config.json``: kind, observation, the draft shape and pair it was made for, hardware profile,
            training provenance, evaluation figures; empty of RADAR's published files, which say none of it.
    """

    policy: Policy
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write it to a folder, as ``save_policy`` does."""
        save_policy(folder, self.policy, {key: self.about[key] for key in METADATA if key in self.about})


def save_policy(folder: str | Path, policy: Policy, metadata: Mapping[str, Any]) -> None:
    """Write a policy; ``config.json`` comes last, so a folder that has one is complete.

    Args:
        folder: made if it is not there.
        policy: a learned policy or a rule.
        metadata: JSON-able provenance, kept beside the policy: any of ``METADATA``.

    Raises:
        ArtifactError: this kind of policy has no exported form, or the metadata are no such, or are not of its drafts.
        InputError: there is a file where the folder is to be.
    """
    folder = Path(folder)
    kind, parameters, tensors = _describe(policy)
    weights = save(tensors)
    values: dict[str, Any] = {
        **metadata,
        "format_version": FORMAT_VERSION,
        "radar_rl_version": __version__,
        "kind": kind,
        "name": policy.name,
        "parameters": parameters,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    if isinstance(policy, LearnedPolicy):
        values |= {"observation": policy.spec.to_json(), "observation_hash": policy.spec.digest}
    check_config(values, f"{folder / CONFIG_FILE}")
    check_drafts(values, _observed(policy))
    try:
        text = json.dumps(values, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / CONFIG_FILE}: cannot be written as JSON: {error}") from error
    made_folder(folder)
    (folder / ONNX_FILE).unlink(missing_ok=True)  # of the policy that was here
    _replace(folder / WEIGHTS_FILE, weights)
    _replace(folder / CONFIG_FILE, (text + "\n").encode())


def read_config(folder: str | Path) -> dict[str, Any]:
    """An artifact's ``config.json``, every value of the type that it has.

    Raises:
        ArtifactError: the folder is no artifact, or one of an unknown version; its config was altered.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ArtifactError(f"no policy at {folder}: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    values = parse_json(path)
    check_config(values, str(path))
    return dict(values)


def check_pair(about: Mapping[str, Any], target: str, draft: str, allow_other_pair: bool) -> None:
    """Refuse to run a policy with another pair than the one it was trained with.

    Args:
        about: an artifact's config, or anything with ``target`` and ``draft``; what it lacks is not checked.
        target, draft: ``NAME@HASH`` of the pair at hand; the hashes count, as the same weights may lie in a folder of
            another name. Empty: not known, and not checked.
        allow_other_pair: let it pass.

    Raises:
        ArtifactError: the pairs differ.
    """
    for part, here in (("target", target), ("draft", draft)):
        trained = about.get(part)
        if not trained or not here or allow_other_pair:
            continue
        if trained.rpartition("@")[2] != here.rpartition("@")[2]:
            raise ArtifactError(
                f"made with {part} {trained}, this pair's is {here}; choose its pair with model=…, or set "
                "allow_other_pair=true"
            )


def load_policy(folder: str | Path) -> Policy:
    """The policy that ``save_policy`` wrote, strictly; of a file, RADAR's published weights (``load_published``).

    It knows what it was made for (``MADE_FOR``), which a decoder compares with its pair and drafts.

    Raises:
        ArtifactError: a file is missing, damaged or changed, or the weights do not fit the observation.
    """
    return load_artifact(folder).policy


def load_artifact(folder: str | Path) -> Artifact:
    """The policy that ``save_policy`` wrote, and its config; of a file, RADAR's published weights alone.

    Raises:
        ArtifactError: as ``load_policy`` does.
    """
    folder = Path(folder)
    if folder.is_file():
        return Artifact(load_published(folder))
    values = read_config(folder)
    path = folder / WEIGHTS_FILE
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder}: no {WEIGHTS_FILE} beside {CONFIG_FILE}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != values["weights_sha256"]:
        raise ArtifactError(
            f"{path} is not the file that {CONFIG_FILE} was written with: expected sha256 "
            f"{values['weights_sha256'][:16]}…, got {found[:16]}… ({len(weights)} bytes); export again"
        )
    try:
        tensors = load(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a safetensors file of NumPy's types: {error!r}") from error
    try:
        policy = _build(values, tensors)
        check_drafts(values, _observed(policy))
        object.__setattr__(policy, MADE_FOR, values)  # rules are frozen
        return Artifact(policy, values)
    except RadarError as error:
        raise ArtifactError(f"{folder}: damaged policy: {error}") from error


def _describe(policy: Policy) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Kind, parameters and tensors of a policy."""
    if isinstance(policy, LearnedPolicy):
        tensors: dict[str, Any] = {}
        for i, (weight, bias) in enumerate(policy.layers):
            tensors |= {f"layers.{i}.weight": weight.T.copy(), f"layers.{i}.bias": bias}
        return "learned", {"asks_from": policy.asks_from} if policy.asks_from > 1 else {}, tensors
    if isinstance(policy, RadarPolicy):
        return "radar", {}, dict(policy.weights)
    if isinstance(policy, SampledRadar):
        return "radar-sampled", {"of": policy.policy.name, "seed": policy.seed}, dict(policy.policy.weights)
    return *describe_rule(policy), {}


def _observed(policy: Policy) -> dict[str, int]:
    """``max_depth`` and ``top_k`` of the drafts that a policy can read; rules read any."""
    if isinstance(policy, LearnedPolicy):
        return {"max_depth": policy.spec.max_depth, "top_k": policy.spec.top_k}
    return {"top_k": policy.top_k} if isinstance(policy, RadarPolicy | SampledRadar) else {}


def _build(values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Policy:
    kind, parameters = values["kind"], values["parameters"]
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ArtifactError(f"{WEIGHTS_FILE}: {name}: expected float32, got {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise ArtifactError(f"{WEIGHTS_FILE}: {name}: weights are not finite")
    if kind == "learned":
        check_keys("learned: parameters", parameters, (), ("asks_from",))
        return LearnedPolicy(values["name"], _spec(values), _layers(tensors), **parameters)
    if kind == "radar":
        check_keys("radar: parameters", parameters, ())
        return RadarPolicy(values["name"], tensors)
    if kind == "radar-sampled":
        check_keys("radar-sampled: parameters", parameters, ("of", "seed"))
        return SampledRadar(RadarPolicy(parameters["of"], tensors), parameters["seed"])
    check_keys(f"{WEIGHTS_FILE} of a rule", tensors, ())
    return build_rule(kind, parameters)


def _spec(values: Mapping[str, Any]) -> ObservationSpec:
    """The observation, and that it is the one the policy was trained on."""
    check_observation(values["observation"])
    spec = ObservationSpec.from_json(values["observation"])
    if spec.digest != values["observation_hash"]:
        raise ArtifactError(
            f"the observation does not have the recorded hash: expected {values['observation_hash']}, got "
            f"{spec.digest}; {CONFIG_FILE} was changed"
        )
    return spec


def _layers(tensors: Mapping[str, NDArray[Any]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Weight and bias of each layer; whether they fit each other ``LearnedPolicy`` says."""
    count = max(1, len(tensors) // 2)
    check_keys(WEIGHTS_FILE, tensors, [f"layers.{i}.{part}" for i in range(count) for part in ("weight", "bias")])
    layers = [(tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(count)]
    if any(weight.ndim != 2 or bias.ndim != 1 for weight, bias in layers):
        shapes = [(weight.shape, bias.shape) for weight, bias in layers]
        raise ArtifactError(f"{WEIGHTS_FILE}: expected a matrix and a vector for each layer, got {shapes}")
    return layers


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
