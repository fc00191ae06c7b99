"""Every command and every Python block of the README and of docs/ runs, in order, at small sizes; links lead on."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from radar_rl import cli, manual

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "datasets/README.md"]

# Overrides that make a verb quick.
SMALL = {
    "profile": ["repeats=2"],
    "collect": ["limit=6", "max_new_tokens=24"],
    "train": ["steps=20", "batch_size=64"],
    "evaluate": ["resamples=100"],
    "compare": ["resamples=100"],
    "ope": ["fqe.steps=20", "fqe.batch_size=64"],
    "rollout": ["episodes=3"],
    "decode": ["max_new_tokens=12"],
    "bench round": ["max_new_tokens=12", "max_depth=2"],
    "bench decide": ["max_new_tokens=6", "max_depth=2", "repeats=1"],
    "bench hybrid": ["limit=2", "max_new_tokens=12", "max_depth=2", "resamples=100"],
    "bench hardware": ["hardware=[share_06,share_20]", "limit=6", "max_new_tokens=16", "steps=20", "resamples=100"],
    "bench radar": [
        *("limit=5", "max_new_tokens=8", "max_depth=2", "hardware=pocket_cpu", "steps=20", "passes=1", "resamples=100")
    ],
    "bench collect": ["limit=1", "slow_limit=1", "max_new_tokens=8", "max_depth=3"],
    "bench features": ["max_new_tokens=12", "max_depth=2"],
    "bench ppo": ["seconds=0.5", "num_envs=16", "points=1"],
    "bench scale": ["rows=3000", "part_size=10", "updates=2"],
    "bench train": ["algos=[bc]", "updates=1", "repeats=1"],
    "bench soak": ["minutes=0.02", "max_new_tokens=12", "limit=100"],
    "bench env": ["num_envs=[1,4]", "seconds=0.05", "repeats=1"],
    "bench banditspec": ["limit=1", "max_new_tokens=8", "max_depth=2", "tasks=[instructions]", "batches=[1]"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block and what the comment above it says it needs."""

    language: str
    text: str
    needs: str | None


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for match in re.finditer(r"(?:<!-- needs ([^\n]+) -->\n)?```(\w+)\n(.*?)```", page.read_text(), re.DOTALL):
            yield Block(match[2], match[3], match[1])


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(*, needing: bool) -> list[list[str]]:
    lines = [
        line
        for block in blocks()
        if block.language == "bash" and bool(block.needs) == needing
        for line in block.text.splitlines()
    ]
    return [shlex.split(line) for line in lines]


def test_the_readme_has_something_to_run() -> None:
    assert {block.language for block in blocks()} == {"bash", "python", "text"}
    assert {command[0] for command in commands(needing=False)} == {"make", "radar-rl"}
    typed = [" ".join(command[1:3]) + " " for command in commands(needing=False) if command[0] == "radar-rl"]
    verbs = {verb for verb in cli.VERBS for words in typed if words.startswith(f"{manual.spoken(verb)} ")}
    assert verbs == set(cli.VERBS) - {"train-pair"}


def test_what_it_makes_exists(repository: Path) -> None:
    targets = [command[1] for command in commands(needing=False) if command[0] == "make"]
    assert targets == ["quickstart", "test"]
    done = subprocess.run(["make", "-n", *targets], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for path, _, anchor in (link.partition("#") for link in links):
        there = page.parent / path if path else page
        assert there.exists(), path
        assert not anchor or anchor in anchors(there), f"{path}#{anchor}"


def test_its_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RADAR_RL_DATA", raising=False)
    for command in commands(needing=False):
        if command[0] == "radar-rl":
            verb = " ".join(command[1:3]) if command[1] == "bench" else command[1]
            code = cli.main([*command[1:], *SMALL.get(verb, [])])
            assert code == 0, f"{shlex.join(command)}: {capsys.readouterr().err}"
    for block in blocks():
        if block.language == "python":
            exec(compile(block.text, block.language, "exec"), {})
    printed = capsys.readouterr().out
    assert printed.strip()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("command", commands(needing=True), ids=lambda command: command[1])
def test_commands_that_need_more_than_we_have_compose(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command[1:]
    if "-m" in arguments:  # every job composes; Hydra shows no configuration of a sweep
        called: list[str] = []
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cli, "call", lambda verb, values, *_: called.append(values["out"]))
        own = [item for item in arguments if item.startswith(("hydra", "+sweep"))]  # where, and which sweeper: not here
        assert cli.main([item for item in arguments if item not in own]) == 0
        assert called
        assert all(out.startswith("runs/") for out in called)
        arguments = [arguments[0], "out=runs/x", *own]
    assert cli.main([*arguments, "--cfg", "job"]) == 0
    assert "out: runs/" in capsys.readouterr().out
