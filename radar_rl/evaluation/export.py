"""The verb ``export``: a policy as the artifact that our runtime loads, or the best setting of a server as it is."""

from collections.abc import Sequence
from typing import Literal

from radar_rl.errors import ConfigError
from radar_rl.runtime.export import export as export_artifact


def export(
    *,
    out: str | None,
    run: str | None,
    format: Literal["artifact", "vllm", "sglang", "llama.cpp", "transformers"] = "artifact",
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
        run: folder of a trained run; with a server, its figure is told beside the setting's.
        format: ``artifact`` for ``radar-rl decode``, or the server.
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
        TraceError, ArtifactError, InputError: what a key names is not usable.
    """
    if format == "artifact":
        missing = [name for name, value in (("run", run), ("out", out)) if value is None]
        if run is None or out is None:
            raise ConfigError(f"give {', '.join(f'{name}=…' for name in missing)}; --help says what it means")
        export_artifact(run=run, out=out)
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
