"""Prompts of a command line: where they come from, and what is refused by name."""

import gzip
import io
import sys
from pathlib import Path

import pytest

from radar_rl.errors import InputError
from radar_rl.runtime.prompts import Conversation, read_prompts
from radar_rl.speculative import Pair
from radar_rl.speculative.prompts import Prompt


def test_a_text_file_is_one_prompt_and_json_lines_are_many(tmp_path: Path) -> None:
    text, rows, packed = tmp_path / "essay.txt", tmp_path / "rows.jsonl", tmp_path / "more.jsonl.gz"
    text.write_bytes("\ufeffFirst line.\nGrüße.\n".encode())
    rows.write_text('{"prompt": "a", "context": "c"}\n{"id": 7, "turns": ["b", "then"]}\n')
    packed.write_bytes(gzip.compress(b'{"prompt_ids": [1, 2]}\n'))
    assert read_prompts(["typed", "twice"], [str(text), str(rows), str(packed)]) == [
        Prompt("command line", "1", "typed"),
        Prompt("command line", "2", "twice"),
        Prompt(str(text), "1", "First line.\nGrüße.\n"),
        Prompt("rows.jsonl", "row-1", "c\n\na"),
        Prompt("rows.jsonl", "7", "b", later_turns=("then",)),
        Prompt("more.jsonl.gz", "row-1", token_ids=(1, 2)),
    ]


def test_a_dash_is_all_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Ein\nText")))
    assert read_prompts([], ["-"]) == [Prompt("standard input", "1", "Ein\nText")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file: .*missing.txt; expected a text"),
        ("missing.jsonl", None, "no such file: .*missing.jsonl; expected JSON lines"),
        ("latin.txt", b"Gr\xfc\xdfe", r"latin.txt: not UTF-8 \(.* at byte 2\)"),
        ("latin.jsonl", b'{"prompt": "Gr\xfc"}', "latin.jsonl:1: not UTF-8"),
        ("rows.jsonl", b'{"prompt": "fine"}\n{"text": "no prompt"}', "row 2 .*expected a prompt"),
        ("rows.jsonl", b"", "no prompts"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts([], [str(tmp_path / name)])


def test_nothing_asked_for_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"--prompt .*--file FILE, or - for standard input"):
        read_prompts([], [])


def test_a_conversation_goes_on_after_the_targets_answers(pocket: Pair) -> None:
    conversation = Conversation(Prompt("rows.jsonl", "7", "Add 2 and 3.", later_turns=("And 4 more?",)))
    assert conversation.label == "rows.jsonl, prompt 7, turn 1 of 2"
    assert conversation.ids(pocket, 8) == pocket.encode_prompt("Add 2 and 3.")
    conversation.answers.append("5")
    assert conversation.label == "rows.jsonl, prompt 7, turn 2 of 2"
    said = [("user", "Add 2 and 3."), ("assistant", "5"), ("user", "And 4 more?")]
    messages = [{"role": role, "content": content} for role, content in said]
    assert conversation.ids(pocket, 8) == pocket.encode_messages(messages)
    assert not conversation.over
    conversation.answers.append("9")
    assert conversation.over


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt("x", "1", " \n"), "x, prompt 1: empty prompt: expected some text"),
        (Prompt("x", "1", "word " * 3000), "x, prompt 1: prompt too long: "),
        (Prompt("x", "1", "half \udcff"), "x, prompt 1: not UTF-8 (half a character at 5)"),
        (Prompt("x", "1", token_ids=(1, 10**9)), "x, prompt 1: prompt: token id 1000000000 is outside"),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_name(pocket: Pair, prompt: Prompt, reason: str) -> None:
    conversation = Conversation(prompt)
    assert conversation.ids(pocket, 8) == []
    assert conversation.over
    assert (conversation.refused or "").startswith(reason)
