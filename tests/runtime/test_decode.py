"""The verb ``decode`` as its users meet it: texts on standard output, all else beside it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from radar_rl import cli
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive, save_policy
from radar_rl.runtime.named import policy_from_string
from radar_rl.runtime.show import Screen
from radar_rl.runtime.ways import Step
from radar_rl.speculative import Pair

PROMPTS = ("Name three colours.", "Two plus two?")
COMMAND = [sys.executable, "-m", "radar_rl.cli", "decode"]


def own_text(pair: Pair, prompt: str, max_new_tokens: int) -> str:
    ids = list(autoregressive(pair, pair.encode_prompt(prompt), max_new_tokens=max_new_tokens))
    return str(pair.tokenizer.decode(ids, skip_special_tokens=True))


def test_texts_and_nothing_else_go_to_standard_output(pocket: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    expected = "\n".join(own_text(pocket, prompt, 24) + "\n" for prompt in PROMPTS)  # an empty line between
    for more in ([], ["--compare"], ["--explain"], ["batch=2"], ["batch=2", "--compare", "--explain"]):
        assert cli.main(["decode", "max_new_tokens=24", *asked, *more]) == 0
        printed = capsys.readouterr()
        assert printed.out == expected
        assert "2 texts" in printed.err


def test_an_interrupted_text_is_no_object(
    pocket: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Screen.show

    def interrupted(screen: Screen, step: Step) -> None:
        shown(screen, step)
        if screen._asked[0].prompt.prompt_id == "2":
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "show", interrupted)
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    assert cli.main(["decode", "max_new_tokens=12", "format=jsonl", *asked]) == 130
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["text"] == own_text(pocket, PROMPTS[0], 12)


def test_without_compare_the_target_alone_decodes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("an autoregressive pass")

    monkeypatch.setattr("radar_rl.runtime.ways.autoregressive", unwanted)
    assert cli.main(["decode", "policy=static:3", "max_new_tokens=12", "--prompt", PROMPTS[0]]) == 0
    told = capsys.readouterr().err
    assert re.search(r"static-3: 1 text, 11 tokens, [\d.]+ tokens/s .*τ [\d.]+, 3\.00 draft", " ".join(told.split()))
    assert "autoregressive" not in told


def test_compare_has_the_tuned_static_depth_and_the_target_alone(
    tmp_path: Path, pocket: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(tmp_path / "policy", StaticDepth(6), {"best_static_depth": 2})
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    assert cli.main(["decode", f"policy={tmp_path / 'policy'}", "max_new_tokens=12", *asked, "--compare"]) == 0
    told = capsys.readouterr().err
    assert "2 texts, 22 tokens; the text is the same for every row" in " ".join(told.split())
    assert [re.search(rf"│ {row} +│", told) is not None for row in ("static-6", r"static-2 \(tuned\)")] == [True] * 2
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in told.splitlines() if line.startswith("│")}
    assert list(rows) == ["static-6", "static-2 (tuned)", "autoregressive"]
    assert [row[-1].strip() for row in rows.values()] == ["6.00", "2.00", "–"]
    assert rows["autoregressive"][1].strip() == rows["static-2 (tuned)"][2].strip() == "1.00×"


def test_explained_rounds_are_those_that_decoded(pocket: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["decode", "policy=joint:0.4", "max_new_tokens=24", "--prompt", PROMPTS[0], "--explain"]) == 0
    told = capsys.readouterr().err
    assert "\x1b" not in told  # no colours where nobody sees them
    lines = [line.split(maxsplit=6) for line in told.splitlines() if re.match(r" +\d+ ", line)]
    decoder = SpeculativeDecoder(pocket, policy_from_string("joint:0.4"))
    rounds = decoder.generate(pocket.encode_prompt(PROMPTS[0]), max_new_tokens=24).rounds
    told_of = [(int(line[0]), int(line[1])) for line in lines]
    assert told_of == [(ended.position, ended.draft_calls) for ended in rounds]
    for line, ended in zip(told.splitlines()[1:], rounds, strict=False):
        by = "joint-0.4" if ended.draft_calls < 8 else "limit of 8"
        drafted, rejected = ended.nodes - 1, ended.nodes - 1 - ended.accepted
        assert re.search(rf"{ended.draft_calls}  {by} +{drafted} +{ended.accepted} +{rejected}  ", line)
        own = [repr(pocket.tokenizer.decode([token]))[1:-1] for token in ended.emitted]
        arrow = ["→ " + own[-1]] if len(own) > ended.accepted else []
        assert line.endswith(" ".join(["·".join(own[: ended.accepted]), *arrow]))


def test_conversations_and_files(tmp_path: Path, pocket: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "essay.txt").write_text(PROMPTS[0])
    (tmp_path / "rows.jsonl").write_text(json.dumps({"turns": [PROMPTS[1], "And four more?"]}) + "\n")
    files = ["--file", str(tmp_path / "essay.txt"), "--file", str(tmp_path / "rows.jsonl")]
    assert cli.main(["decode", "max_new_tokens=12", *files]) == 0
    first = own_text(pocket, PROMPTS[1], 12)
    said = [("user", PROMPTS[1]), ("assistant", first), ("user", "And four more?")]
    ids = pocket.encode_messages([{"role": role, "content": content} for role, content in said])
    then = pocket.tokenizer.decode(list(autoregressive(pocket, ids, max_new_tokens=12)), skip_special_tokens=True)
    assert capsys.readouterr().out == f"{own_text(pocket, PROMPTS[0], 12)}\n\n{first}\n\n{then}\n"
    assert cli.main(["decode", "max_new_tokens=12", "format=jsonl", "batch=2", *files]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = {(row["task"], row["prompt_id"], row["turn"]): row["text"] for row in rows}
    assert texts == {
        (files[1], "1", 1): own_text(pocket, PROMPTS[0], 12),
        ("rows.jsonl", "row-1", 1): first,
        ("rows.jsonl", "row-1", 2): then,
    }
    assert [pocket.tokenizer.decode(row["token_ids"], skip_special_tokens=True) for row in rows] == [
        row["text"] for row in rows
    ]


def test_what_cannot_be_decoded_is_skipped_and_said(pocket: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    long = ["--prompt", "word " * 3000]
    assert cli.main(["decode", "max_new_tokens=12", *long, "--prompt", PROMPTS[0], "--prompt", " "]) == 2
    printed = capsys.readouterr()
    assert printed.out == own_text(pocket, PROMPTS[0], 12) + "\n"
    assert "skipped: command line, prompt 1: prompt too long: " in printed.err
    assert "skipped: command line, prompt 3: empty prompt" in printed.err
    assert printed.err.splitlines()[-1] == "radar-rl decode: 2 of 3 prompts were skipped, see above"
    assert cli.main(["decode", *long]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("radar-rl decode: command line, prompt 1: prompt too long: ")
    assert len(printed.err.splitlines()) == 1


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    command = [*COMMAND, "max_new_tokens=200", "--prompt", PROMPTS[0]]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(1)
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=300) == 0


def test_interrupted_it_ends_with_the_figures_so_far(tmp_path: Path) -> None:
    command = [*COMMAND, "policy=static:2", "max_new_tokens=900", "--prompt", PROMPTS[0]]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    ) as running:
        assert running.stdout is not None
        assert running.stdout.read(1)
        os.kill(running.pid, signal.SIGINT)
        text, told = running.communicate(timeout=300)
    assert running.returncode == 130
    assert text.endswith(b"\n")
    words = " ".join(told.decode().split())
    assert re.search(r"static-2: 1 text, \d+ tokens, .* 2\.00 draft calls a round radar-rl: interrupted", words)
