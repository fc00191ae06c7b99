"""The data that ships: prompts of our own, a sample trace and rollout, and the card that describes them."""

import re
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from radar_rl.rollouts import TraceSettings, load_prompts, load_rollouts, load_trace, read_jsonl, rollout_settings

FAMILIES = ("dialogue", "arithmetic", "instructions", "python")
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def shipped() -> Path:
    return Path(str(files("radar_rl"))) / "datasets"


@pytest.fixture(scope="module")
def card(shipped: Path) -> str:
    return (shipped / "README.md").read_text(encoding="utf-8")


def prompt_rows(shipped: Path) -> list[dict]:
    return [row for family in FAMILIES for row in read_jsonl(shipped / "prompts" / f"{family}.jsonl")]


def data_files(shipped: Path) -> set[Path]:
    return {path for path in shipped.rglob("*") if path.suffix in (".jsonl", ".parquet")}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def runs_of_words(value: object, length: int) -> set[tuple[str, ...]]:
    """Every run of ``length`` words in the strings of a JSON value."""
    if isinstance(value, str):
        text = words(value)
        return {tuple(text[i : i + length]) for i in range(len(text) - length + 1)}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(runs_of_words(part, length) for part in parts))


def test_prompts_are_many_and_distinct(shipped: Path):
    rows = prompt_rows(shipped)
    assert len(rows) >= 60
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["prompt"], row.get("context")) for row in rows}) == len(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_prompts_named_after_it(shipped: Path, family: str):
    rows = list(read_jsonl(shipped / "prompts" / f"{family}.jsonl"))
    assert len(rows) >= 15
    assert [row["id"] for row in rows] == [f"{family}-{number:03d}" for number in range(1, len(rows) + 1)]


def test_no_family_is_forgotten(shipped: Path):
    assert {path.stem for path in (shipped / "prompts").glob("*.jsonl")} == set(FAMILIES)


def test_rows_hold_what_the_card_says(shipped: Path):
    for row in prompt_rows(shipped):
        assert {"id", "prompt"} <= set(row) <= {"id", "prompt", "context", "turns"}, row["id"]
        assert row["prompt"].strip(), row["id"]
        assert row.get("context", "x").strip(), row["id"]
        turns = row.get("turns", [row["prompt"]])
        assert turns[0] == row["prompt"], row["id"]
        assert all(turn.strip() for turn in turns), row["id"]


def test_files_are_plain_utf8_lines(shipped: Path):
    for path in (shipped / "prompts").glob("*.jsonl"):
        raw = path.read_bytes()
        raw.decode("utf-8")
        assert raw.endswith(b"\n"), path
        assert b"\r" not in raw, path
        assert not raw.startswith(b"\xef\xbb\xbf"), f"{path}: byte order mark"


def test_prompts_load_without_any_data_folder(shipped: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RADAR_RL_DATA", raising=False)
    assert [prompt.prompt_id for prompt in load_prompts(FAMILIES)] == [row["id"] for row in prompt_rows(shipped)]


def test_prompts_share_no_run_of_eight_words_with_the_benchmarks(shipped: Path, prompt_data: Path):
    ours = {run for row in prompt_rows(shipped) for run in runs_of_words(row, 8)}
    sets = [path for path in sorted(prompt_data.glob("*/eval.jsonl*")) if not path.parent.name.startswith("text_")]
    assert sets
    for path in sets:
        theirs = set().union(*(runs_of_words(row, 8) for row in read_jsonl(path)))
        assert not ours & theirs, path


def test_the_folder_is_data_not_a_package(repository: Path):
    assert (repository / "datasets").is_dir()
    # A package called `datasets` at the top level would shadow Hugging Face's.
    assert not (repository / "datasets" / "__init__.py").exists()
    assert not list((repository / "datasets").rglob("*.py"))


def test_the_card_configures_every_file_for_the_hub(shipped: Path, card: str):
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc0-1.0"
    configured = {config["config_name"]: set(shipped.glob(config["data_files"])) for config in header["configs"]}
    assert [name for name, found in configured.items() if not found] == []
    assert set().union(*configured.values()) == data_files(shipped)


def test_the_card_describes_exactly_the_columns_of_the_files(shipped: Path, card: str):
    columns: dict[str, set[str]] = {}
    for path in data_files(shipped):
        kind = path.relative_to(shipped).parent.as_posix().removeprefix("sample/")  # prompts, traces/trace, …
        rows = read_jsonl(path) if path.suffix == ".jsonl" else [pq.read_schema(path).names]
        columns.setdefault(kind, set()).update(*rows)
    for kind, names in columns.items():
        heading = "One JSON object a line" if kind == "prompts" else f"`{kind}/`, a row"
        table = re.split(r"\n## |\n`\w+/\w+/`, a row", card.split(heading)[1])[0]
        described = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
        assert names == described, f"{kind}: {sorted(names ^ described)}"


def test_the_card_counts_the_prompts(shipped: Path, card: str):
    assert f"| {len(prompt_rows(shipped))} prompts in four families |" in card
    for family in FAMILIES:
        assert f"| `{family}` | {len(list(read_jsonl(shipped / 'prompts' / f'{family}.jsonl')))} |" in card


def test_the_sample_is_small(shipped: Path):
    sample = [path for path in (shipped / "sample").rglob("*") if path.is_file()]
    assert sample, "datasets/sample is missing; its card has the commands that make it"
    assert sum(path.stat().st_size for path in sample) <= 3 * MEGABYTE
    assert {path.suffix for path in sample} <= {".parquet", ".json"}


def test_the_sample_comes_from_the_shipped_prompts(shipped: Path):
    trace = load_trace(shipped / "sample" / "traces")
    assert set(trace.sequences.task) == set(FAMILIES)
    assert set(trace.sequences.prompt_id) <= {row["id"] for row in prompt_rows(shipped)}
    assert (~trace.censored).sum() >= 1000


def test_the_sample_rollout_replays_the_sample_trace(shipped: Path):
    trace = load_trace(shipped / "sample" / "traces")
    log = load_rollouts(shipped / "sample" / "rollouts")
    assert TraceSettings(**rollout_settings(shipped / "sample" / "rollouts")["trace"]) == trace.settings
    # The text does not depend on the policy: whatever it did, it emitted every token after the first.
    assert log["emitted"].sum() == int((trace.sequences.length - trace.sequences.prompt_length - 1).sum())
