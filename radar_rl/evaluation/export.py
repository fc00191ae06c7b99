"""The verb ``export``: a policy and its figures as the small folder that whoever serves the model loads."""

from typing import Any

from radar_rl.runtime.export import export as export_artifact
from radar_rl.runtime.named import place_of, policy_from_string


def export(*, run: str, out: str, onnx: bool = False, evaluation: str | None = None) -> None:
    """Write a policy, with its provenance and without its training data, to ``out``.

    Args:
        run: the folder of a run or a saved policy, a rule by its name, or a file of RADAR's published weights.
        out: the folder to write.
        onnx: also write the network as ``policy.onnx``.
        evaluation: what ``radar-rl evaluate`` wrote, folder or file; the policy's rows are recorded.

    Raises:
        ArtifactError: the run holds no sound policy, ``out`` is the run itself, or ``onnx`` and the policy has no
            network.
        InputError: the evaluation has no figures of the policy.
        ConfigError: no such folder, file or rule.
    """
    export_artifact(run=run, out=out, onnx=onnx, evaluation=None if evaluation is None else _figures(run, evaluation))


def _figures(run: str, evaluation: str) -> dict[str, Any]:
    # A serving machine exports too, without the packages that read tables.
    from radar_rl.evaluation.figures import evaluation_figures
    from radar_rl.offline.run import RUN_FILE, read_record

    place = place_of(run)
    name = read_record(place)["name"] if (place / RUN_FILE).is_file() else policy_from_string(run).name
    return evaluation_figures(evaluation, place, str(name))
