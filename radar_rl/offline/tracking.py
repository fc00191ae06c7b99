"""Weights & Biases, if wanted: a run's settings, curve, results and policy. Disabled and offline need no account."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from radar_rl.errors import ConfigError

WandbMode = Literal["disabled", "offline", "online"]


class Tracker(Protocol):
    """Takes what a run leaves."""

    def log(self, row: Mapping[str, float]) -> None:
        """Record one row of the curve."""

    def finish(self, result: Mapping[str, Any], policy: Sequence[Path]) -> None:
        """Record the run's row of results, and the policy by its files."""


class _Silent:
    def log(self, row: Mapping[str, float]) -> None:
        pass

    def finish(self, result: Mapping[str, Any], policy: Sequence[Path]) -> None:
        pass


class _Wandb:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=int(row["step"]))

    def finish(self, result: Mapping[str, Any], policy: Sequence[Path]) -> None:
        import wandb

        self.run.log({"results": wandb.Table(columns=list(result), data=[list(result.values())])})
        self.run.summary.update(result)
        artifact = wandb.Artifact(f"policy-{self.run.id}", type="policy", metadata=dict(result))
        for file in policy:
            artifact.add_file(str(file), policy="immutable")  # no copy: offline, they are uploaded from where they are
        self.run.log_artifact(artifact)


@contextmanager
def tracking(mode: WandbMode, folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """A tracker for the duration of a run.

    Args:
        mode: ``disabled`` (wandb is not even imported), ``offline`` (written to ``folder``, for ``wandb sync``) or
            ``online``.
        folder: the run's folder; its name is the run's name.
        config: the settings to record.

    Raises:
        ConfigError: the mode is unknown, or wandb cannot start (online without an account).
    """
    if mode not in get_args(WandbMode):
        raise ConfigError(f"unknown wandb mode {mode!r}; valid: {', '.join(get_args(WandbMode))}")
    if mode == "disabled":
        yield _Silent()
        return
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project="radar-rl",
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise ConfigError(f"wandb={mode}: {error}; use wandb=offline, or log in with: wandb login") from error
    try:
        yield _Wandb(run)
    finally:
        run.finish()
