"""The command line: ``radar-rl VERB key=value …``.

Its own flags come first; Hydra reads the rest, composes the verb's configuration (configs/VERB.yaml) and, with ``-m``,
sweeps. A verb is one function that takes the configuration's keys as keyword arguments; it is imported when it runs.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from radar_rl import __version__, manual, settings
from radar_rl.errors import ConfigError, RadarError

VERBS = {
    "profile": "radar_rl.runtime.profiler:profile",
    "collect": "radar_rl.rollouts.collect:collect",
    "describe": "radar_rl.rollouts.describe:describe",
    "rollout": "radar_rl.rollouts.rollout:rollout",
    "train": "radar_rl.offline.train:train",
    "evaluate": "radar_rl.evaluation.evaluate:evaluate",
    "export": "radar_rl.runtime.export:export",
    "decode": "radar_rl.runtime.decode:decode",
    "convert": "radar_rl.runtime.convert:convert",
    "train-pair": "radar_rl.zoo.train_pair:train_pair",
    "bench-round": "radar_rl.benchmarks.round:bench_round",
    "bench-hybrid": "radar_rl.benchmarks.hybrid:bench_hybrid",
    "bench-features": "radar_rl.benchmarks.features:bench_features",
    "bench-scale": "radar_rl.benchmarks.scale:bench_scale",
}

FLAGS = ("--prompt", "--compare", "--explain", "--debug", "--help", "--version")
HYDRA_FLAGS = ("-m", "--multirun", "-c", "--cfg", "-p", "--package", "--resolve", "-i", "--info", "--hydra-help")

# What only the extra installs, by the name it is imported under.
TRAIN_EXTRA = ("d3rlpy", "gymnasium", "matplotlib", "polars", "pyarrow", "scipy", "structlog", "tokenizers", "wandb")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after an error that the user can mend.

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
                _run(verb, rest[1:], flags)
    except (RadarError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in TRAIN_EXTRA:
            raise
        if debug:
            traceback.print_exc()
        print(f"radar-rl{f' {manual.spoken(verb)}' if verb else ''}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("radar-rl: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


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
    for flag in ("--compare", "--explain", "--debug", "--version"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; a prompt that begins with a dash is written --prompt=TEXT") from error


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
    if verb != "decode" and (flags.prompt or flags.compare or flags.explain):
        raise ConfigError("--prompt, --compare and --explain belong to decode")
    return verb


def _run(verb: str, arguments: list[str], flags: argparse.Namespace) -> None:
    """Let Hydra compose the configuration and call the verb with it, once or, with ``-m``, once per combination."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    failures: list[Exception] = []

    def task(composed: DictConfig) -> None:
        values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
        try:
            call(verb, values, flags, HydraConfig.get().runtime.choices)
        except Exception as error:
            # Hydra announces a failed job in words of its own. In a sweep that says which one it was; a single one is
            # reported below, by us.
            if HydraConfig.get().mode != RunMode.RUN:
                raise
            failures.append(error)

    with _hydra_raises(["radar-rl", *settings.overrides(arguments)]):
        try:
            hydra.main(config_path="pkg://radar_rl.configs", config_name=verb, version_base="1.3")(task)()
        except (HydraException, OmegaConfBaseException) as error:
            raise settings.explained(error, verb, arguments) from error
    if failures:
        raise failures[0]


def call(verb: str, values: dict[str, Any], flags: argparse.Namespace, picked: Mapping[str, str]) -> object:
    """Import a verb's function and call it with a composed configuration.

    Raises:
        ConfigError: a key is missing, unknown, or holds a value of the wrong kind.
    """
    module, name = VERBS[verb].split(":")
    function = getattr(importlib.import_module(module), name)
    if verb == "decode":
        values = values | {"prompts": flags.prompt, "compare": flags.compare, "explain": flags.explain}
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


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; this verb needs the extra: pip install 'radar-rl[train]'"
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
