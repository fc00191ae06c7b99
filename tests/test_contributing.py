"""What CONTRIBUTING.md shows is done in a copy of the checkout: its blocks become files there, its commands run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
COPIED = ("radar_rl", "configs", "datasets", "envs", "hydra_plugins", "tests", "pyproject.toml")
MOST_LINES = 40  # of code, to add something

# Runs commands as they are typed, in one process: what takes long is to import.
RUN = """
import json, shlex, sys
import pytest
from radar_rl import cli
for command in json.loads(sys.argv[1]):
    print("$", shlex.join(command), flush=True)
    run = {"radar-rl": cli.main, "pytest": pytest.main}[command[0]]
    code = run([*command[1:], *(["-q", "-p", "no:cacheprovider"] if command[0] == "pytest" else [])])
    if code:
        sys.exit(f"{shlex.join(command)}: {code}")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the file that it is, or the table in a file that it is an entry of."""

    language: str
    text: str
    file: str | None
    table: str | None


def sections() -> dict[str, str]:
    """The document by its headings."""
    parts = re.split(r"^## (.+)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(section: str) -> Iterator[Block]:
    """The blocks of a section; the bold name of a file belongs to the next one."""
    named = r"\*\*`(?P<file>[^`]+)`\*\*(?:, in `(?P<table>\w+)`)?[^*\n]*\n\n"
    for match in re.finditer(rf"(?:{named})?```(?P<language>\w+)\n(?P<text>.*?)```", sections()[section], re.DOTALL):
        yield Block(match["language"], match["text"], match["file"], match["table"])


ADDED = [name for name in sections() if name.startswith("Add ")]


def put(block: Block, checkout: Path) -> None:
    """Make a block a file, or its lines an entry of a table with what they import."""
    assert block.file is not None
    place = checkout / block.file
    if block.table is None:
        assert not place.exists(), f"{block.file} is there already"
        place.write_text(block.text, encoding="utf-8")
        return
    imports, entry = block.text.split("\n\n", 1)
    before = place.read_text(encoding="utf-8")
    opened = re.sub(rf"^({block.table}\b.*[\[{{])$", lambda found: f"{found[1]}\n{entry}", before, count=1, flags=re.M)
    assert opened != before, f"{block.file} has no {block.table}"
    place.write_text(re.sub(r"^from radar_rl", f"{imports}\n\\g<0>", opened, count=1, flags=re.M), encoding="utf-8")


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A copy of what a contributor has."""
    for name in COPIED:
        source = repository / name
        if source.is_file():
            shutil.copy(source, tmp_path)
        else:
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_there_is_a_section_for_each_thing_to_add() -> None:
    assert ADDED == ["Add a policy", "Add an algorithm", "Add a task", "Add a target"]


@pytest.mark.parametrize("section", ADDED)
def test_what_it_adds_works(section: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.delenv("RADAR_RL_DATA", raising=False)
    shown = list(blocks(section))
    for block in shown:
        if block.language != "bash":
            put(block, checkout)
    commands = [shlex.split(line) for block in shown if block.language == "bash" for line in block.text.splitlines()]
    assert commands
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "no tests ran" not in done.stdout
    CHECKS.get(section, lambda _: None)(checkout / "runs")


def a_rule_is_compared(runs: Path) -> None:
    compared = pq.read_table(runs / "lead" / "evaluation.parquet", columns=["policy"])["policy"].to_pylist()
    (rule,) = {name for name in compared if name.startswith("lead-")}
    assert (runs / "lead" / "rules" / rule / "config.json").is_file()


def a_run_is_compared(runs: Path) -> None:
    compared = pq.read_table(runs / "compared" / "evaluation.parquet", columns=["policy"])["policy"].to_pylist()
    assert "hindsight" in compared


def prompts_are_traced(runs: Path) -> None:
    for name in ("mine", "riddles"):
        texts = pq.read_table(runs / name / "sequences", columns=["task", "prompt_id"]).to_pylist()
        assert {text["task"] for text in texts} == {name}
        assert len({text["prompt_id"] for text in texts}) == 2


CHECKS: dict[str, Callable[[Path], None]] = {
    "Add a policy": a_rule_is_compared,
    "Add an algorithm": a_run_is_compared,
    "Add a task": prompts_are_traced,
}


@pytest.mark.parametrize("section", ADDED)
def test_adding_something_takes_few_lines(section: str) -> None:
    code = [block for block in blocks(section) if block.language in ("python", "yaml")]
    lines = [line for block in code for line in block.text.splitlines() if line.strip()]
    assert len([line for line in lines if not line.lstrip().startswith(("#", '"""'))]) <= MOST_LINES


def test_the_drawing_is_of_the_layers_that_are_checked(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    (drawn,) = (block.text for block in blocks("The layout"))
    boxes = [re.findall(r"^  │ ([\w ·]+?)  ", box, re.M) for box in drawn.split("├")]
    place = {name: i for i, rows in enumerate(boxes) for row in rows for name in row.split(" · ")}
    packages = [
        name for layer in layers for name in re.findall(r"\w+", layer) if (repository / "radar_rl" / name).is_dir()
    ]
    assert sorted(packages, key=place.__getitem__) == packages


def test_its_targets_exist(repository: Path) -> None:
    targets = [line.split()[1] for block in blocks("Set up, check, test") for line in block.text.splitlines()]
    assert targets == ["install", "check", "test"]
    done = subprocess.run(["make", "-n", *targets], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_checked_before_a_commit_is_what_make_checks(repository: Path) -> None:
    settings = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [source["repo"] for source in settings["repos"]] == ["local"]  # nothing is fetched
    hooks = [hook["entry"] for hook in settings["repos"][0]["hooks"]]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (repository / "Makefile").read_text(encoding="utf-8"), re.M)
    assert recipe
    for command in recipe[1].replace("$(BIN)", ".venv/bin").split("\n\t"):
        assert command.strip().removesuffix(" .") in hooks
