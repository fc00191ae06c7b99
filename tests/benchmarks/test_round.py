"""``bench round``: every moment of a round belongs to one part, and every way decodes the same text."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from capturing import Capturing

from radar_rl import cli
from radar_rl.benchmarks.round import MEANING, bench_round, measure
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError
from radar_rl.speculative import Pair, load_pair
from radar_rl.speculative.graphs import Arena
from radar_rl.speculative.pair import stock_target

SMALL: dict[str, Any] = {"max_depth": 2, "top_k": 4, "tree_size": 12, "max_new_tokens": 12, "repeats": 1}


def settings(**other: Any) -> dict[str, Any]:
    return {"out": None, "model": load("model", "pocket"), "messages": ["Two plus two?"], **SMALL, **other}


@pytest.mark.parametrize("draft", ["pocket", "pocket-eagle2"])
def test_a_rounds_parts_are_measured_and_nothing_stays_replaced(draft: str) -> None:
    pair = load_pair("pocket", draft)
    prompts = [pair.encode_prompt(text) for text in ("Two plus two?", "Name a colour.")]
    measured = measure(pair, stock_target(pair, "pocket"), prompts, **SMALL)
    assert list(measured.parts) == list(MEANING)
    assert min(measured.parts.values()) > 0
    assert [row.name for row in measured.rows] == ["transformers generate", "autoregressive", "static-1", "static-2"]
    assert {row.same_text for row in measured.rows} == {2}
    assert len({row.tokens for row in measured.rows}) == 1
    assert [row.draft_calls / row.rounds for row in measured.rows[2:]] == [1, 2]
    for module in (pair.head, pair.target):
        assert not {"condition", "layer", "logits", "forward"} & set(vars(module))


def test_captured_passes_are_timed_too(pocket: Pair) -> None:
    pair = replace(pocket, arena=Arena(Capturing()))
    measured = measure(pair, stock_target(pair, "pocket"), [pair.encode_prompt("Two plus two?")], **SMALL)
    assert {row.same_text for row in measured.rows} == {1}
    assert measured.parts["draft"] > measured.parts["draft: grow"]
    assert measured.parts["verify"] > measured.parts["rest"]


def test_what_generate_runs_is_transformers_own(pocket: Pair) -> None:
    stock = stock_target(pocket, "pocket")
    assert stock.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in stock.modules())  # as speed_up leaves them
    assert any("forward" in vars(module) for module in pocket.target.model.modules())


def test_the_command_prints_both_tables_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/round.json"
    small = [f"{key}={value}" for key, value in SMALL.items()]
    assert cli.main(["bench", "round", *small, "messages=[Two plus two?]", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    for words in ("a round of 2 draft calls", "the head's forward passes", "transformers generate", "static-2"):
        assert words in printed
    figures = json.loads(out.read_text())
    assert set(figures["parts"]) == set(MEANING)
    assert figures["pair"].startswith("pocket@")
    assert figures["threads"] >= 1
    assert [row["name"] for row in figures["rows"]][-1] == "static-2"


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"messages": []}, ConfigError, "messages: expected at least one"),
        ({"repeats": 0}, InputError, "repeats: expected a whole number ≥ 1"),
        ({"max_new_tokens": 1}, InputError, "max_new_tokens: expected a whole number ≥ 2"),
        ({"max_new_tokens": 5000}, InputError, "prompt too long"),
        ({"top_k": 0}, InputError, "top_k"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bench_round(**settings(**wrong))


def test_a_benchmark_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "rounds"]) == 2
    assert cli.main(["bench"]) == 2
    names = "round, decide, hybrid, hardware, collect, features, scale, train, env, ppo, soak, radar, banditspec"
    told = f"radar-rl: bench NAME: which one? {names}"
    assert capsys.readouterr().err.splitlines() == [told] * 2
    assert cli.main(["bench", "--help"]) == 0
    assert "bench hybrid" in capsys.readouterr().out
    assert cli.main(["bench", "round", "repeats=0"]) == 2
    assert capsys.readouterr().err.startswith("radar-rl bench round: repeats:")
