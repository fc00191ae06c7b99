"""The command line: ``radar-rl VERB key=value …``.

Its own flags come first; Hydra reads the rest, composes the verb's configuration (configs/VERB.yaml) and, with ``-m``,
sweeps. A verb is one function that takes the configuration's keys as keyword arguments; it is imported when it runs.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radar_rl import __version__, command, manual, progress, settings
from radar_rl.errors import ConfigError, JobError, RadarError, SweepError

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = {
    "profile": "radar_rl.runtime.profiler:profile",
    "collect": "radar_rl.rollouts.collect:collect",
    "describe": "radar_rl.rollouts.describe:describe",
    "rollout": "radar_rl.rollouts.rollout:rollout",
    "minari": "radar_rl.envs.to_minari:export_minari",
    "train": "radar_rl.offline.train:train",
    "evaluate": "radar_rl.evaluation.evaluate:evaluate",
    "compare": "radar_rl.evaluation.compare_runs:compare",
    "report": "radar_rl.evaluation.report.report:report",
    "ope": "radar_rl.evaluation.ope:ope",
    "export": "radar_rl.evaluation.export:export",
    "decode": "radar_rl.runtime.decode:decode",
    "convert": "radar_rl.runtime.convert:convert",
    "train-pair": "radar_rl.zoo.train_pair:train_pair",
    "bench-round": "radar_rl.benchmarks.round:bench_round",
    "bench-decide": "radar_rl.benchmarks.decide:bench_decide",
    "bench-hybrid": "radar_rl.benchmarks.hybrid:bench_hybrid",
    "bench-hardware": "radar_rl.benchmarks.hardware:bench_hardware",
    "bench-collect": "radar_rl.benchmarks.collect:bench_collect",
    "bench-features": "radar_rl.benchmarks.features:bench_features",
    "bench-scale": "radar_rl.benchmarks.scale:bench_scale",
    "bench-train": "radar_rl.benchmarks.train:bench_train",
    "bench-env": "radar_rl.benchmarks.env:bench_env",
    "bench-ppo": "radar_rl.benchmarks.ppo:bench_ppo",
    "bench-soak": "radar_rl.benchmarks.soak:bench_soak",
    "bench-radar": "radar_rl.benchmarks.radar:bench_radar",
    "bench-banditspec": "radar_rl.benchmarks.banditspec:bench_banditspec",
}

# Verbs whose jobs of a sweep write to a folder each, out/<name of the job>, and what then gathers them in out=.
FOLDER_PER_JOB = {"train": "radar_rl.offline.results:write_results"}

# What a sweep by Optuna maximises, of what a verb returns.
OBJECTIVES = {"train": "validation_gain"}

FLAGS = ("--prompt", "--file", "--compare", "--explain", "--debug", "--help", "--version")
STDIN = "-"  # as a file's name
HYDRA_FLAGS = ("-m", "--multirun", "-c", "--cfg", "-p", "--package", "--resolve", "-i", "--info", "--hydra-help")

# What only an extra installs, by the name it is imported under.
EXTRAS = {
    **dict.fromkeys(("d3rlpy", "gymnasium", "matplotlib", "polars", "pyarrow", "scipy"), "train"),
    **dict.fromkeys(("filelock", "jinja2", "psutil", "structlog", "tokenizers", "wandb"), "train"),
    "ray": "scale",
    "optuna": "tune",
    **dict.fromkeys(("minari", "moviepy", "stable_baselines3"), "rl"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after an error that the user can mend.

    A bug is raised; met by a job of a sweep, it is shown and the code is 1.

    Args:
        argv: the arguments after the program's name; ``sys.argv`` by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    verb = next((argument for argument in argv if argument in VERBS), None)
    debug = "--debug" in argv
    try:
        flags, rest = _own_flags(argv)
        if not flags.help or rest != ["bench"]:
            rest = _joined(rest)
        if flags.version:
            print(f"radar-rl {__version__}")
        elif not rest or (rest == ["bench"] and flags.help):
            print(manual.overview(VERBS), end="")
        else:
            verb = _checked_verb(rest, flags)
            if flags.help:
                print(manual.page(verb), end="")
            else:
                _run(verb, rest[1:], flags, argv)
    except SweepError as error:
        if debug:
            traceback.print_exc()
        return _tell_failures(error, f"radar-rl {manual.spoken(str(verb))}", debug)
    except (RadarError, OSError, ModuleNotFoundError) as error:
        if not _mendable(error):
            raise
        if debug:
            traceback.print_exc()
        print(f"radar-rl{f' {manual.spoken(verb)}' if verb else ''}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("radar-rl: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def run(*arguments: str) -> Any:
    """A command from Python, as a notebook gives it: ``run("train", "algo=cql", "traces=DIR", "out=runs/cql")``.

    Args:
        arguments: as on the command line, the verb first.

    Returns:
        What the verb's function returns; None of a sweep.

    Raises:
        RadarError: whatever the verb finds wrong; ``ConfigError``: there is no such verb.
    """
    flags, rest = _own_flags(arguments)
    if not rest or flags.help or flags.version:
        raise ConfigError(f"run: expected a verb and its key=value, got {list(arguments)}; {', '.join(VERBS)}")
    rest = _joined(rest)
    return _run(_checked_verb(rest, flags), rest[1:], flags, arguments)


def _joined(rest: list[str]) -> list[str]:
    """``bench NAME`` as the one verb that it is, ``bench-NAME``.

    Raises:
        ConfigError: NAME is missing or unknown.
    """
    if rest[:1] != ["bench"]:
        return rest
    names = [verb.removeprefix("bench-") for verb in VERBS if verb.startswith("bench-")]
    if len(rest) < 2 or rest[1] not in names:
        raise ConfigError(f"bench NAME: which one? {', '.join(names)}")
    return [f"bench-{rest[1]}", *rest[2:]]


def _own_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="radar-rl", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--file", action="append", default=[])
    for flag in ("--compare", "--explain", "--debug", "--version"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        flags, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; a prompt that begins with a dash is written --prompt=TEXT") from error
    flags.file += [STDIN] * rest.count(STDIN)
    return flags, [argument for argument in rest if argument != STDIN]


def _checked_verb(rest: Sequence[str], flags: argparse.Namespace) -> str:
    """The verb, which must come first; flags must be known and go with it.

    Raises:
        ConfigError: they do not.
    """
    verb = rest[0]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {rest[0]!r}; {settings.closest(rest[0], VERBS)}")
    for argument in rest:
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            raise ConfigError(f"unknown flag {flag}; {settings.closest(flag, (*FLAGS, *HYDRA_FLAGS))}")
    if verb != "decode" and (flags.prompt or flags.file or flags.compare or flags.explain):
        raise ConfigError("--prompt, --file, -, --compare and --explain belong to decode")
    return verb


def _run(verb: str, arguments: list[str], flags: argparse.Namespace, typed: Sequence[str]) -> object:
    """Let Hydra compose the configuration and call the verb with it, once or, with ``-m``, once per combination.

    Returns:
        What the verb told, if it was called once.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    written = settings.overrides(arguments)
    with _hydra_raises(["radar-rl", *written]):
        try:
            job = _Job(verb, flags, tuple(typed))
            if {"-m", "--multirun"} & set(written):
                pairs = [item for item in written if not item.startswith("-")]
                job = _Job(verb, flags, job.typed, settings.swept_keys(pairs), settings.written_out(pairs))
            try:
                hydra.main(config_path="pkg://radar_rl.configs", config_name=verb, version_base="1.3")(job)()
            finally:
                _gather(job)
        except (HydraException, OmegaConfBaseException) as error:
            raise settings.explained(error, verb, arguments) from error
    if job.failed:
        raise job.failed
    return job.told


@dataclass
class _Job:
    """What Hydra runs: the verb with a composed configuration. A sweep's launcher may carry it to other processes.

    Args:
        verb: the verb.
        flags: the command line's own.
        typed: the whole command line, for records.
        keys: what the sweep is over, as the command line says.
        out: the sweep's folder; None if there is no sweep, or its jobs name their own.
    """

    verb: str
    flags: argparse.Namespace
    typed: tuple[str, ...]
    keys: set[str] = field(default_factory=set)
    out: str | None = None
    started_in: int = field(default_factory=os.getpid)
    failed: Exception | None = None
    told: object = None

    def __call__(self, composed: "DictConfig") -> object:
        """Run it; returns what a sweep may maximise, if the verb tells."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        keys = self.keys | set(hydra.sweeper.get("params") or {})
        parts = settings.job_parts(hydra.overrides.task, keys)
        name = " ".join(parts)
        try:
            values = settings.resolved(composed)
            if self.out is not None and keys and self.verb in FOLDER_PER_JOB:
                values["out"] = str(Path(self.out) / settings.folder_name(parts))
            beside = progress.beside_others(name) if os.getpid() != self.started_in else nullcontext()
            with beside, command.typed_as(self.typed):
                told = call(self.verb, values, self.flags, hydra.runtime.choices)
            if hydra.mode == RunMode.RUN:
                self.told = told
            return told.get(OBJECTIVES.get(self.verb)) if isinstance(told, Mapping) else None
        except Exception as error:
            if hydra.mode == RunMode.RUN:
                self.failed = error  # raised, Hydra would announce it in words of its own
            else:
                raise JobError(_one_line(error), traceback.format_exc(), _mendable(error)) from error
            return None


def _gather(job: _Job) -> None:
    """When the jobs of a sweep have ended, whatever became of them: one table of those that are done."""
    if job.out is not None and job.verb in FOLDER_PER_JOB:
        _function(FOLDER_PER_JOB[job.verb])(job.out)


def _function(address: str) -> Callable[..., object]:
    """What ``module:name`` stands for; imported now."""
    module, name = address.split(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


def call(verb: str, values: dict[str, Any], flags: argparse.Namespace, picked: Mapping[str, str]) -> object:
    """Import a verb's function and call it with a composed configuration.

    Raises:
        ConfigError: a key is missing, unknown, or holds a value of the wrong kind.
    """
    function = _function(VERBS[verb])
    if verb == "decode":
        own = {"prompts": flags.prompt, "files": flags.file, "compare": flags.compare, "explain": flags.explain}
        values = values | own
    return function(**settings.checked(function, values, settings.defaults(verb, picked)))


@contextmanager
def _hydra_raises(argv: list[str]) -> Iterator[None]:
    """Hydra reads ``argv`` and raises its errors instead of printing them and leaving."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _tell_failures(error: SweepError, command: str, debug: bool) -> int:
    """Say which jobs of a sweep failed, and why; returns the exit code, 1 if one of them met a bug."""
    code = 2
    for job, failure in error.failures:
        if isinstance(failure, JobError) and (debug or not failure.mendable):
            print(failure.trace, end="", file=sys.stderr)
            code = code if failure.mendable else 1
        print(f"{command}: {job}: {_one_line(failure)}", file=sys.stderr)
    print(f"{command}: {_one_line(error)}", file=sys.stderr)
    return code


def _mendable(error: Exception) -> bool:
    """Whether the user can mend it; what else goes wrong is a bug, and shown as it is."""
    if isinstance(error, ModuleNotFoundError):
        return str(error.name).partition(".")[0] in EXTRAS
    return isinstance(error, RadarError | OSError)


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and _mendable(error):
        extra = EXTRAS[str(error.name).partition(".")[0]]
        return f"{error.name} is not installed; this needs an extra: pip install 'radar-rl[{extra}]'"
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
