"""The exported policy: a folder with ``config.json`` and ``policy.safetensors``; nothing in it is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from radar_rl import __version__
from radar_rl.errors import ArtifactError, RadarError
from radar_rl.policies import LearnedPolicy, ObservationSpec, Policy, RadarPolicy, SampledRadar
from radar_rl.runtime.kinds import build_rule, describe_rule
from radar_rl.runtime.published import load_published

FORMAT_VERSION = 1
METADATA = ("target", "draft", "hardware", "training", "evaluation", "best_static_depth")


def save_policy(folder: str | Path, policy: Policy, metadata: Mapping[str, Any]) -> None:
    """Write a policy; ``config.json`` comes last, so a folder that has one is complete.

    Args:
        folder: made if it is not there.
        policy: a learned policy or a rule.
        metadata: JSON-able provenance (target, draft, hardware, training, evaluation, …), kept beside the policy.

    Raises:
        ArtifactError: this kind of policy has no exported form.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
    _replace(folder / "policy.safetensors", weights)
    _replace(folder / "config.json", (json.dumps(values, indent=1) + "\n").encode())


def read_config(folder: str | Path) -> dict[str, Any]:
    """An artifact's ``config.json``, checked.

    Raises:
        ArtifactError: the folder is no artifact, or one of an unknown version.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ArtifactError(f"no policy at {folder}: expected a folder with config.json and policy.safetensors")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise ArtifactError(f"{path}: not an exported policy (no format_version)")
    if values["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format version {values['format_version']}; this radar-rl reads version {FORMAT_VERSION}"
        )
    return values


def check_pair(about: Mapping[str, Any], target: str, draft: str, allow_other_pair: bool) -> None:
    """Refuse to run a policy with another pair than the one it was trained with.

    Args:
        about: an artifact's config, or anything with ``target`` and ``draft``; what it lacks is not checked.
        target, draft: ``NAME@HASH`` of the pair at hand.
        allow_other_pair: let it pass.

    Raises:
        ArtifactError: the pairs differ.
    """
    for part, here in (("target", target), ("draft", draft)):
        trained = about.get(part)
        if trained is not None and trained != here and not allow_other_pair:
            raise ArtifactError(
                f"made with {part} {trained}, this pair's is {here}; choose its pair with model=…, or set "
                "allow_other_pair=true"
            )


def load_policy(folder: str | Path) -> Policy:
    """The policy that ``save_policy`` wrote, strictly; of a file, RADAR's published weights (``load_published``).

    Raises:
        ArtifactError: a file is missing, damaged or changed, or the weights do not fit the observation.
    """
    folder = Path(folder)
    if folder.is_file():
        return load_published(folder)
    values = read_config(folder)
    try:
        weights = (folder / "policy.safetensors").read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder}: no policy.safetensors beside config.json") from error
    if hashlib.sha256(weights).hexdigest() != values.get("weights_sha256"):
        raise ArtifactError(
            f"{folder}/policy.safetensors is not the file that config.json was written with; export again"
        )
    try:
        tensors = load(weights)
        return _build(values, tensors)
    except ArtifactError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RadarError) as error:
        raise ArtifactError(f"{folder}: damaged policy: {error}") from error


def _describe(policy: Policy) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Kind, parameters and tensors of a policy."""
    if isinstance(policy, LearnedPolicy):
        tensors: dict[str, Any] = {}
        for i, (weight, bias) in enumerate(policy.layers):
            tensors |= {f"layers.{i}.weight": weight.T.copy(), f"layers.{i}.bias": bias}
        return "learned", {}, tensors
    if isinstance(policy, RadarPolicy):
        return "radar", {}, dict(policy.weights)
    if isinstance(policy, SampledRadar):
        return "radar-sampled", {"of": policy.policy.name, "seed": policy.seed}, dict(policy.policy.weights)
    return *describe_rule(policy), {}


def _build(values: dict[str, Any], tensors: dict[str, Any]) -> Policy:
    kind, parameters = values["kind"], values["parameters"]
    if kind == "learned":
        spec = ObservationSpec.from_json(values["observation"])
        if spec.digest != values["observation_hash"]:
            raise ArtifactError("the observation does not have the recorded hash; config.json was changed")
        count = len(tensors) // 2
        layers = [(tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(count)]
        return LearnedPolicy(values["name"], spec, layers)
    if kind == "radar":
        return RadarPolicy(values["name"], tensors)
    if kind == "radar-sampled":
        return SampledRadar(RadarPolicy(parameters["of"], tensors), parameters["seed"])
    return build_rule(kind, parameters)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
