import gzip
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from radar_rl.errors import InputError
from radar_rl.rollouts import Prompt, load_prompts
from radar_rl.rollouts.tasks import SHIPPED


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADAR_RL_DATA", raising=False)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_shipped_prompts_need_nothing() -> None:
    prompts = load_prompts()
    assert len(prompts) >= 60
    assert {prompt.task for prompt in prompts} == set(SHIPPED)
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)
    assert [p.task for p in load_prompts(["python", "dialogue"], limit=2)] == ["python"] * 2 + ["dialogue"] * 2


def test_a_file_of_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl.gz",
        {"id": 7, "prompt": "What is it?", "context": "A passage."},
        {"id": "chat", "turns": ["First turn", "Second turn"]},
        {"prompt_ids": [1, 2, 3]},
    )
    assert load_prompts([], path=path) == [
        Prompt("mine", "7", text="A passage.\n\nWhat is it?"),
        Prompt("mine", "chat", text="First turn", later_turns=("Second turn",)),
        Prompt("mine", "mine-3", token_ids=(1, 2, 3)),
    ]


def test_a_folder_of_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "gsm8k" / "eval.jsonl.gz", {"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two"})
    write(tmp_path / "gsm8k" / "train.jsonl", {"id": "c", "prompt": "three"})
    assert [p.prompt_id for p in load_prompts(["gsm8k"], data_dir=tmp_path, limit=1)] == ["a"]
    assert [p.prompt_id for p in load_prompts(["gsm8k"], data_dir=tmp_path, split="train")] == ["c"]
    monkeypatch.setenv("RADAR_RL_DATA", str(tmp_path))
    assert [p.prompt_id for p in load_prompts(["gsm8k", "arithmetic"], limit=1)] == ["a", "arithmetic-001"]
    with pytest.raises(InputError, match=r"test\.jsonl"):
        load_prompts(["gsm8k"], split="test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x", "answer": "no question"}, r"row 2 \(x\): expected a prompt"),
        ({"id": "x", "prompt": "  "}, r"row 2 \(x\): prompt: expected text"),
        ({"id": "x", "turns": "not a list"}, "turns: expected a list"),
        ({"id": "x", "prompt_ids": [1, "2"]}, "prompt_ids"),
        ({"id": "x", "prompt_ids": []}, "prompt_ids"),
        ({"id": "first", "prompt": "again"}, "occurs twice"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "mine.jsonl", {"id": "first", "prompt": "fine"}, row)
    with pytest.raises(InputError, match=message):
        load_prompts([], path=path)


def test_nothing_to_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prompts"):
        load_prompts([], path=write(tmp_path / "empty.jsonl"))
    with pytest.raises(InputError, match="no such file"):
        load_prompts([], path=tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="tasks="):
        load_prompts([])
    with pytest.raises(InputError, match=r"unknown task 'gsm9k'.*gsm8k"):
        load_prompts(["gsm9k"], data_dir=tmp_path)
    with pytest.raises(InputError, match="limit"):
        load_prompts(limit=0)


def test_hub_sets_are_read_under_our_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, name: str | None, **settings: Any) -> list[dict[str, Any]]:
        asked.append((path, name, settings["split"]))
        return [{"question": "How many?", "answer": "4"}, {"question": "How far?", "answer": "5"}]

    hub = ModuleType("datasets")
    hub.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert load_prompts(["gsm8k"]) == [
        Prompt("gsm8k", "gsm8k-1", text="How many?"),
        Prompt("gsm8k", "gsm8k-2", text="How far?"),
    ]
    assert asked == [("openai/gsm8k", "main", "test")]


def test_without_the_hub_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"radar-rl\[hub\].*data_dir"):
        load_prompts(["gsm8k"])


def test_the_benchmark_sets_load(prompt_data: Path) -> None:
    for task in ("gsm8k", "mbpp", "mt_bench", "squad", "nq_rag", "spec_bench", "humaneval", "alpaca"):
        prompts = load_prompts([task], data_dir=prompt_data, limit=3)
        assert len(prompts) == 3
        assert all(prompt.text for prompt in prompts)
