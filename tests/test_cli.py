"""The command line as a user meets it: verbs get plain arguments, and every mistake is one line and exit code 2."""

import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from radar_rl import cli, manual, settings
from radar_rl.command import typed
from radar_rl.errors import InputError, RadarError

Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Calls]:
    """Verbs that only note what they were called with, run in an empty folder."""
    noted: Calls = []

    def train(
        *,
        out: str,
        traces: str | None,
        rollouts: str | None,
        algo: dict[str, Any],
        behaviour: str | None,
        episode: Literal["sequence", "round"],
        reward: dict[str, Any],
        hardware: str | None,
        held_out: float,
        steps: int,
        batch_size: int,
        seed: int,
        model: dict[str, Any],
        wandb: str,
        tree_size: int | None,
        observation: list[str],
        newest: int | None,
        asks_from: int | None,
        share: float,
        validation: float,
        overwrite: bool,
    ) -> None:
        noted.append(dict(locals()))

    def evaluate(**settings: Any) -> None:
        noted.append(settings)

    def report(**settings: Any) -> None:
        noted.append(settings)

    def decode(**settings: Any) -> None:
        noted.append(settings)

    def profile(**settings: Any) -> None:
        raise InputError("no such thing:\n  bring another")

    def export(**settings: Any) -> None:
        raise ZeroDivisionError("a bug")

    def collect(**settings: Any) -> None:
        raise ModuleNotFoundError("No module named 'polars'", name="polars")

    def rollout(**settings: Any) -> None:
        raise PermissionError(13, "Permission denied", settings["out"])

    module = types.ModuleType("stub_verbs")
    for function in (train, evaluate, report, decode, profile, export, collect, rollout):
        function.__globals__["noted"] = noted
        setattr(module, function.__name__, function)
        monkeypatch.setitem(cli.VERBS, function.__name__, f"stub_verbs:{function.__name__}")
    monkeypatch.setitem(sys.modules, "stub_verbs", module)
    monkeypatch.chdir(tmp_path)
    yield noted
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == []  # no outputs/, no log files


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail as a user's mistake, and returns its one line."""

    def run(*argv: str) -> str:
        assert cli.main(argv) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert re.fullmatch(r"radar-rl[^\n]*: [^\n]+\n", printed.err)
        return printed.err

    return run


def test_a_verb_gets_plain_values(calls: Calls) -> None:
    command = ["train", "traces=data/x", "out=run", "algo=iql", "algo.expectile=0.7", "steps=1e3", "seed=3"]
    assert cli.main(command) == 0
    (got,) = calls
    assert (got["traces"], got["out"], got["steps"], got["seed"]) == ("data/x", "run", 1000, 3)
    assert type(got["algo"]) is dict
    assert (got["algo"]["name"], got["algo"]["expectile"]) == ("iql", 0.7)
    assert got["model"]["target"] == "pocket"
    assert got["hardware"] is None


@pytest.mark.parametrize("value", ["profile.json", "pocket_cpu", "../a-b/c.json"])
def test_hardware_is_a_plain_value_though_its_folder_is_a_group(calls: Calls, value: str) -> None:
    assert cli.main(["train", "traces=x", "out=y", f"hardware={value}"]) == 0
    assert calls[0]["hardware"] == value
    assert cli.main(["report", "traces=x", "out=y", f"hardware={value}", f"sweep={value}"]) == 0
    assert (calls[1]["hardware"], calls[1]["sweep"], calls[1]["evaluation"]) == (value, value, None)


def test_a_command_from_python_returns_what_its_verb_found(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["stub_verbs"], "evaluate", lambda **settings: [settings["traces"]])
    assert cli.run("evaluate", "traces=x", "out=y") == ["x"]
    assert cli.run("train", "traces=x", "out=y", "algo=bc") is None
    assert calls[0]["algo"]["name"] == "bc"
    assert sys.argv[0] != "radar-rl"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["profile", "out=x"], "bring another"),
        (["train", "out=x", "stepz=5"], "did you mean 'steps'"),
        ([], "expected a verb"),
        (["train", "--help"], "expected a verb"),
    ],
)
def test_a_mistake_in_python_is_raised(
    calls: Calls, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(RadarError, match=told):
        cli.run(*arguments)
    assert capsys.readouterr() == ("", "")


def test_lists_and_numbers_as_names(calls: Calls) -> None:
    assert cli.main(["evaluate", "traces=x", "out=y", "runs=[a/b,c]"]) == 0
    assert calls[0]["runs"] == ["a/b", "c"]
    assert cli.main(["train", "traces=x", "out=7"]) == 0
    assert calls[1]["out"] == "7"


def test_prompts_are_taken_as_written(calls: Calls) -> None:
    command = ["decode", "--prompt", "a=b, {c}: $d", "policy=static:3", "--prompt", "二", "--compare"]
    assert cli.main(command) == 0
    (got,) = calls
    assert got["prompts"] == ["a=b, {c}: $d", "二"]
    assert (got["compare"], got["explain"], got["policy"]) == (True, False, "static:3")


def test_a_dash_and_files_are_what_prompts_come_from(calls: Calls) -> None:
    assert cli.main(["decode", "--file", "a=b.jsonl", "-", "seed=1", "--file=c d.txt", "--prompt", "-"]) == 0
    (got,) = calls
    assert (got["prompts"], got["files"], got["seed"]) == (["-"], ["a=b.jsonl", "c d.txt", "-"], 1)


def test_sweeps(calls: Calls) -> None:
    command = ["train", "-m", "traces=x", "out=y", "algo=cql,bc", "hardware=pocket_cpu,my.json", "seed=1"]
    assert cli.main(command) == 0
    seen = [(got["algo"]["name"], got["hardware"]) for got in calls]
    assert seen == [("cql", "pocket_cpu"), ("cql", "my.json"), ("bc", "pocket_cpu"), ("bc", "my.json")]


def test_each_run_of_a_sweep_has_a_folder_named_after_what_sets_it_apart(calls: Calls) -> None:
    command = ["train", "-m", "traces=x", "out=runs/y", "seed=1,2", "algo=cql", "hardware=pocket_cpu,a b/c.json"]
    assert cli.main(command) == 0
    folders = [got["out"] for got in calls]
    assert folders[0] == "runs/y/hardware-pocket_cpu_seed-1"
    assert re.fullmatch(r"runs/y/hardware-a-b-c\.json_seed-1-[0-9a-f]{6}", folders[1])
    assert len(set(folders)) == 4
    assert cli.main([*command[:4], "hardware=pocket_cpu,a b/c.json", "algo=cql", "seed=1,2"]) == 0
    assert {got["out"] for got in calls[4:]} == set(folders)  # whatever the order they were written in


@pytest.mark.parametrize(
    ("arguments", "folders"),
    [
        (["seed=1,2", "out=runs/${seed}"], ["runs/1", "runs/2"]),
        (["out=runs/a,runs/b"], ["runs/a", "runs/b"]),
        (["out=runs/a", "seed=1"], ["runs/a"]),
        (["out=runs/a", "+hydra.sweeper.params.seed='1,2'"], ["runs/a/seed-1", "runs/a/seed-2"]),
    ],
)
def test_runs_of_a_sweep_that_name_their_own_folders(calls: Calls, arguments: list[str], folders: list[str]) -> None:
    assert cli.main(["train", "-m", "traces=x", *arguments]) == 0
    assert [got["out"] for got in calls] == folders


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian", "out=x"], "did you mean 'train'"),
        (["train", "out=x", "stepz=5"], "unknown key 'stepz'; did you mean 'steps'"),
        (["train", "out=x", "+stepz=5"], "unknown key 'stepz'; did you mean 'steps'"),
        (["train", "out=x", "algo=iql", "algo.expctile=0.5"], "did you mean 'algo.expectile'"),
        (["train", "out=x", "algo=iqll"], "did you mean 'iql'"),
        (["train", "out=x", "algo=sac"], ", cql, "),
        (["train", "traces=x"], "give out=…"),
        (["train", "out=x", "steps=many"], "steps: expected a whole number, got 'many'"),
        (["train", "out=x", "steps=1.5"], "expected a whole number"),
        (["train", "out=x", "algo.learning_rate=fast"], "algo.learning_rate: expected a number"),
        (["train", "out=x", "episode=rounds"], "did you mean 'round'"),
        (["train", "out=x", "algo={a: 1"], "cannot read"),
        (["train", "out=a=b"], "quote"),
        (["train", "out=x", "out"], "cannot read 'out'"),
        (["train", "out=x", "~seed"], "give seed=…"),
        (["train", "out=x", "task=gsm8k"], "unknown key 'task'"),
        (["export", "run=x", "out=y", "trace=z"], "unknown key 'trace'; did you mean 'traces'"),
        (["train", "out=x", "--comparee"], "did you mean '--compare'"),
        (["train", "out=x", "--prompt", "hello"], "belong to decode"),
        (["train", "out=x", "--file", "hello.txt"], "belong to decode"),
        (["train", "out=x", "-"], "belong to decode"),
        (["decode", "--prompt"], "expected one argument"),
        (["decode", "--fil", "x"], "did you mean '--file'"),
        (["profile", "out=x"], "no such thing: bring another"),
        (["rollout", "out=x"], "Permission denied: 'x'"),
        (["collect", "out=x"], "pip install 'radar-rl[train]'"),
    ],
)
def test_a_mistake_is_one_line(calls: Calls, fails: Callable[..., str], arguments: list[str], told: str) -> None:
    assert told in fails(*arguments)
    assert calls == []


def test_a_setting_that_the_default_lacks_is_added_to_a_sweep(calls: Calls, fails: Callable[..., str]) -> None:
    sweep = ["train", "-m", "traces=x", "out=y", "algo=iql,cql"]
    told = fails(*sweep, "algo.expectile=0.7")
    assert "unknown key 'algo.expectile'; iql has it: write ++algo.expectile=…, without cql" in told
    told = fails(*sweep[:-1], "algo=bc,bcq", "algo.beta=0.1")
    assert told.endswith("unknown key 'algo.beta'; bc and bcq have it: write ++algo.beta=…\n")
    assert "has it" not in fails(*sweep, "algo.expctile=0.7")
    assert calls == []
    added = [*sweep[:-1], "algo=iql,bc", "++algo.expectile=0.7"]
    assert cli.main(added) == 0
    assert [got["algo"]["expectile"] for got in calls] == [0.7, 0.7]


@pytest.mark.parametrize("more", [[], ["-m", "seed=1,2"]])
def test_records_hold_the_command_line_as_it_was_typed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    noted = []
    monkeypatch.setattr(sys.modules["stub_verbs"], "evaluate", lambda **_: noted.append(typed()))
    command = ["evaluate", *more, "traces=s3://b/x?a=b&c", "out=y", "hardware=pocket_cpu"]
    assert cli.main(command) == 0
    assert noted == [command] * (2 if more else 1)
    assert typed() == sys.argv[1:]


def test_every_failed_job_of_a_sweep_is_named(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-m", "traces=x", "out=y", "steps=1,a,2,1.5", "hardware=my.json"]
    assert cli.main(command) == 2
    assert [got["steps"] for got in calls] == [1, 2]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "radar-rl train: steps=a: steps: expected a whole number, got 'a'",
        "radar-rl train: steps=1.5: steps: expected a whole number, got 1.5",
        "radar-rl train: 2 of 4 jobs failed, the others are done",
    ]


def test_a_bug_in_a_sweep_is_not_dressed_up_either(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "-m", "run=a,b", "out=y"]) == 1
    printed = capsys.readouterr().err
    assert printed.count("ZeroDivisionError: a bug\n") == 2
    assert "radar-rl export: run=b: a bug\n" in printed


def test_debug_shows_where(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "out=x", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_dressed_up(calls: Calls) -> None:
    with pytest.raises(ZeroDivisionError):
        cli.main(["export", "run=x", "out=y"])


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {manual.spoken(verb)} " in printed for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_explains_every_key(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = [i for i, line in enumerate(lines) if re.match(r"  [a-z]", line)]
    assert at
    shown = {lines[i].strip().partition("=")[0] for i in at}
    values = settings.defaults(verb, {})
    groups = {"model", "algo", "reward"} & set(values)
    inner = {key.rpartition(".")[0] for key in settings.keys(values)}
    assert shown >= {key for key in settings.keys(values) if key.partition(".")[0] not in groups} - inner
    # Inner keys of one kind may share the explanation of the first.
    bare = [lines[i].strip() for i in at if not lines[i + 1].startswith(" " * 8)]
    assert all("." in line.partition("=")[0] for line in bare)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"radar-rl \d+\.\d+\.\d+\n", capsys.readouterr().out)
