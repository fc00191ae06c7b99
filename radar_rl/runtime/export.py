"""The verb ``export``: a policy as the small folder that whoever serves the model loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radar_rl.errors import ArtifactError
from radar_rl.policies import Policy
from radar_rl.runtime.artifact import Artifact, load_artifact
from radar_rl.runtime.config import parse_json
from radar_rl.runtime.named import place_of, policy_from_string
from radar_rl.runtime.onnx import network_of, write_onnx

RUN_FILE = "run.json"
CODE = ("argv", "versions", "commit")
OWN_FIGURES = (
    "training_tokens_per_second",
    "best_static_tokens_per_second",
    "validation_tokens_per_second",
    "validation_gain",
)


def export(*, run: str, out: str, onnx: bool = False, evaluation: Mapping[str, Any] | None = None) -> None:
    """Write a policy, with its provenance and without its training data, to ``out``.

    Args:
        run: the folder of a run or a saved policy, a rule by its name, or a file of RADAR's published weights
            (``policy_from_string``).
        out: the folder to write.
        onnx: also write the network as ``policy.onnx``.
        evaluation: figures to record beside the run's own.

    Raises:
        ArtifactError: the run holds no sound policy, ``out`` is the run itself, or ``onnx`` and the policy has no
            network.
        ConfigError: no such folder, file or rule.
    """
    if Path(run).resolve() == Path(out).resolve():
        raise ArtifactError(f"export: out={out} is the run itself; name another folder")
    policy, about = _source(run)
    if onnx:
        network_of(policy)  # before anything is written
    record = _record(place_of(run))
    if record:
        code = {key: record[key] for key in CODE if key in record}
        about["training"] = {**(about.get("training") or {}), **code, "seed": _arguments(record).get("seed")}
    figures = {key: record[key] for key in OWN_FIGURES if record.get(key) is not None}
    figures |= {**(about.get("evaluation") or {}), **(evaluation or {})}
    exported = Artifact(policy, about | {"evaluation": figures or None})
    exported.save(out)
    if onnx:
        write_onnx(Path(out), policy)
    size = max(1, round(sum(path.stat().st_size for path in Path(out).iterdir()) / 1024))
    print(f"export: {policy.name} → {out} ({size} KiB); decode with: radar-rl decode policy={out} --prompt …")


def _source(run: str) -> tuple[Policy, dict[str, Any]]:
    """A policy, and what is known of it; of one by its name, nothing."""
    place = place_of(run)
    if not place.is_dir():
        if not place.exists() and ":" not in run:
            raise ArtifactError(
                f"no policy at {run}: expected the folder of a run, a rule (static:4) or RADAR's weights"
            )
        return policy_from_string(run), {}
    artifact = load_artifact(place)
    policy = artifact.policy if str(place) == run else policy_from_string(run)
    return policy, dict(artifact.about)


def _record(folder: Path) -> Mapping[str, Any]:
    """A run's own record; of a policy that was merely saved there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return {}
    record = parse_json(path)
    if not isinstance(record, Mapping):
        raise ArtifactError(f"{path}: expected the record of a run, got {type(record).__name__}")
    return record


def _arguments(record: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = record.get("arguments")
    return arguments if isinstance(arguments, Mapping) else {}
