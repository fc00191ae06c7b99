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
        ({"id": "x", "prompt": 7}, "prompt: expected text"),
        ({"id": "x", "turns": []}, "turns: expected a list of texts, not empty"),
        ({"id": "x", "turns": [], "prompt": "beside it"}, "turns: expected a list of texts, not empty"),
        ({"id": "x", "turns": ["fine", 2]}, "turns: expected text, not empty, got 2"),
        ({"id": "x", "turns": ["fine", " "]}, "turns: expected text"),
        ({"id": "x", "turns": [None]}, "turns: expected text"),
        ({"id": "x", "prompt": "fine", "context": ["a list"]}, "context: expected text"),
        ({"id": "x", "prompt": "half a smile: \ud83d"}, "prompt: half a character at 14"),
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


COMPLETION = "completion or completion_ids"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, f"row 1 .mine-1.: expected {COMPLETION}"),
        ({"prompt": "p", "completion": ""}, "completion: expected text, not empty"),
        ({"prompt": "p", "completion": 3}, "completion: expected text"),
        ({"prompt": "p", "completion_ids": []}, "completion_ids must be a list of whole numbers"),
        ({"prompt": "p", "completion_ids": [1, 2.5]}, "completion_ids must be a list of whole numbers"),
        ({"prompt": "p", "completion_ids": [True]}, "completion_ids must be a list of whole numbers"),
        ({"turns": ["p", "q"], "completion": "c"}, "answers one prompt, got 2 turns"),
        ({"completion": "c"}, "expected a prompt, turns or prompt_ids"),
    ],
)
def test_bad_completions_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "mine.jsonl", row)
    with pytest.raises(InputError, match=message):
        load_prompts([], path=path, completions=True)


def test_completions_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"id": "a", "prompt": "p", "completion": "c"},
        {"id": "b", "prompt_ids": [1, 2], "completion_ids": [3]},
        {"id": "c", "prompt_ids": [1, 2], "completion": "c"},
        {"id": "d", "turns": ["p"], "completion": "ignored", "completion_ids": [4, 5]},
    )
    assert load_prompts([], path=path, completions=True) == [
        Prompt("log", "a", text="p", completion="c"),
        Prompt("log", "b", token_ids=(1, 2), completion_ids=(3,)),
        Prompt("log", "c", token_ids=(1, 2), completion="c"),
        Prompt("log", "d", text="p", completion_ids=(4, 5)),
    ]
    plain = load_prompts([], path=path)
    assert [prompt.completion or prompt.completion_ids for prompt in plain] == [None] * 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for the Hub's library; ``hub.rows`` is what every set holds, ``hub.asked`` what was asked for."""

    def load_dataset(path: str, name: str | None, **settings: Any) -> list[dict[str, Any]]:
        stand_in.asked.append((path, name, settings["split"]))
        if isinstance(stand_in.rows, Exception):
            raise stand_in.rows
        return stand_in.rows

    stand_in: Any = ModuleType("datasets")
    stand_in.load_dataset, stand_in.asked, stand_in.rows = load_dataset, [], []
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def test_hub_sets_are_read_under_our_names(hub: Any) -> None:
    hub.rows = [{"question": "How many?", "answer": "4"}, {"question": "How far?", "answer": "5"}]
    assert load_prompts(["gsm8k"]) == [
        Prompt("gsm8k", "gsm8k-1", text="How many?"),
        Prompt("gsm8k", "gsm8k-2", text="How far?"),
    ]
    # Rows without ids are numbered in their split, else one prompt could be held out in one and trained on in another.
    assert load_prompts(["gsm8k"], split="train", limit=1) == [Prompt("gsm8k", "gsm8k-train-1", text="How many?")]
    assert hub.asked == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]


# A row of each set, as its card on the Hub shows them, and the prompt that is made of it.
ROWS: dict[str, tuple[dict[str, Any], Prompt]] = {
    "alpaca": (
        {"instruction": "Classify this.", "input": "A whale", "output": "Mammal", "text": "Below is …"},
        Prompt("alpaca", "alpaca-1", text="A whale\n\nClassify this."),
    ),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "", "test": "", "entry_point": "f"},
        Prompt("humaneval", "HumanEval/0", text="Complete the code I provided.\ndef f():\n"),
    ),
    "mbpp": (
        {"task_id": 11, "text": "Write a function.", "code": "", "test_list": [], "test_setup_code": ""},
        Prompt("mbpp", "11", text="Write a function."),
    ),
    "mt_bench": (
        {"prompt": ["Write it.", "Now shorter."], "prompt_id": 44619073, "category": "writing", "reference": []},
        Prompt("mt_bench", "44619073", text="Write it.", later_turns=("Now shorter.",)),
    ),
    "nq_rag": (
        {"query": "who sang it", "answer": "The song … sang it."},
        Prompt("nq_rag", "nq_rag-1", text="The song … sang it.\n\nwho sang it"),
    ),
    "spec_bench": (
        {"question_id": 241, "category": "summarization", "turns": ["Summarize: News."], "reference": ["x"]},
        Prompt("spec_bench", "241", text="Summarize: News."),
    ),
    "squad": (
        {"id": "56be", "title": "t", "context": "The passage.", "question": "Which?", "answers": {}},
        Prompt("squad", "56be", text="The passage.\n\nWhich?"),
    ),
    "sum": (
        {"article": "LONDON {today}.", "highlights": "h", "id": "92c5"},
        Prompt("sum", "92c5", text="Summarize: LONDON {today}."),
    ),
}


@pytest.mark.parametrize("task", ROWS)
def test_a_row_of_every_set_makes_a_prompt(hub: Any, task: str) -> None:
    row, prompt = ROWS[task]
    hub.rows = [row]
    assert load_prompts([task]) == [prompt]


def test_what_a_hub_set_lacks_is_named(hub: Any) -> None:
    with pytest.raises(InputError, match=r"'humaneval'.*no split=train, only eval; give data_dir"):
        load_prompts(["humaneval"], split="train")
    hub.rows = [{"problem": "How many?"}]
    with pytest.raises(InputError, match=r"openai/gsm8k has no column 'question'; columns: problem"):
        load_prompts(["gsm8k"])
    hub.rows = ConnectionError("no route")
    with pytest.raises(InputError, match=r"openai/gsm8k cannot be read \(no route\); give data_dir"):
        load_prompts(["gsm8k"])


def test_without_the_hub_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"radar-rl\[hub\].*data_dir"):
        load_prompts(["gsm8k"])


def test_the_benchmark_sets_load(prompt_data: Path) -> None:
    sets = ("gsm8k", "mbpp", "mt_bench", "squad", "nq_rag", "spec_bench", "humaneval", "alpaca", "sum_scitldr")
    for task in sets:
        prompts = load_prompts([task], data_dir=prompt_data, limit=3)
        assert len(prompts) == 3
        assert all(prompt.text for prompt in prompts)
        assert all(bool(prompt.later_turns) == (task == "mt_bench") for prompt in prompts)
