"""The verb ``export``: a policy as the artifact that our runtime loads, or the best setting of a server as it is."""

from collections.abc import Sequence
from typing import Any, Literal

from radar_rl.errors import ConfigError
from radar_rl.runtime.export import export as export_artifact
from radar_rl.runtime.named import place_of, policy_from_string


def export(
    *,
    out: str | None,
    run: str | None,
    format: Literal["artifact", "vllm", "sglang", "llama.cpp", "transformers"] = "artifact",
    onnx: bool = False,
    evaluation: str | None = None,
    traces: str | None = None,
    hardware: str | None = None,
    head: Literal["eagle3", "eagle2"] = "eagle3",
    held_out: float = 0.3,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    run_traces: str | None = None,
    run_hardware: str | None = None,
    allow_other_pair: bool = False,
) -> None:
    """Write a run's policy, or print the setting of a server that is fastest by replay.

    Args:
        out: folder to write; a server's setting may be printed alone.
        run: the folder of a run or a saved policy, a rule by its name, or a file of RADAR's published weights; with a
            server, a run's folder: its figure is told beside the setting's.
        format: ``artifact`` for ``radar-rl decode``, or the server.
        onnx: an artifact's: also write the network as ``policy.onnx``.
        evaluation: an artifact's: what ``radar-rl evaluate`` wrote, folder or file; the policy's rows are recorded.
        traces: a server's: folder of the trace that its settings are replayed on.
        hardware: a server's: FILE or NAME of the profile that was measured on it.
        head: a server's: what kind of draft head it is to run.
        held_out: a server's: share of held-out prompts; with a run, its own counts.
        batches: a server's: numbers of texts decoded at once to tell the best setting for.
        run_traces: a server's: trace of the same texts that the run's policy reads; None: ``traces``.
        run_hardware: a server's: profile for the run's rounds; None: ``hardware``.
        allow_other_pair: a server's: accept a run that was trained on another pair.

    Raises:
        ConfigError: the format is unknown, or a key is missing that it needs.
        ArtifactError: the run holds no sound policy, ``out`` is the run itself, or ``onnx`` and the policy has no
            network.
        InputError: the evaluation has no figures of the policy.
        TraceError: a trace cannot be read.
    """
    if format == "artifact":
        missing = [name for name, value in (("run", run), ("out", out)) if value is None]
        if run is None or out is None:
            raise ConfigError(f"give {', '.join(f'{name}=…' for name in missing)}; --help says what it means")
        figures = None if evaluation is None else _figures(run, evaluation)
        export_artifact(run=run, out=out, onnx=onnx, evaluation=figures)
        return
    # A serving machine exports artifacts without what replaying needs.
    from radar_rl.evaluation.server_export import export_server

    export_server(
        format,
        out=out,
        run=run,
        traces=traces,
        hardware=hardware,
        head=head,
        held_out=held_out,
        batches=batches,
        run_traces=run_traces,
        run_hardware=run_hardware,
        allow_other_pair=allow_other_pair,
    )


def _figures(run: str, evaluation: str) -> dict[str, Any]:
    # A serving machine exports too, without the packages that read tables.
    from radar_rl.evaluation.figures import evaluation_figures
    from radar_rl.offline.run import RUN_FILE, read_record

    place = place_of(run)
    name = read_record(place)["name"] if (place / RUN_FILE).is_file() else policy_from_string(run).name
    return evaluation_figures(evaluation, place, str(name))
