"""``bench radar``: live and replay count the same, the paper stands beside, and a killed experiment goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from recurrent_weights import make_weights
from synthetic_trace import HARDWARE, make_trace

from radar_rl import cli
from radar_rl.benchmarks import radar
from radar_rl.benchmarks.experiment import MEASURED, ROWS
from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.radar import PICTURE, _eagle2_head
from radar_rl.benchmarks.radar_figures import ORACLE, TUNED, Contest, figures
from radar_rl.benchmarks.radar_picture import draw_contest
from radar_rl.benchmarks.radar_stages import radar_reward
from radar_rl.benchmarks.radar_tables import MEASURES, WIDTH, paper_number, tables
from radar_rl.configs import load
from radar_rl.console import wide_console
from radar_rl.errors import ConfigError, InputError
from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.speculative.hardware import HardwareProfile

TINY = ["limit=5", "max_new_tokens=8", "max_depth=2", "hardware=pocket_cpu", "steps=20", "passes=1", "resamples=100"]


def bench(out: Path, *keys: str) -> int:
    return cli.main(["bench", "radar", f"out={out}", *TINY, *keys])


def record(out: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((out / "experiment.json").read_text())
    return about


def overall(out: Path) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in record(out)["results"]["figures"] if row["task"] == ALL_TASKS}


def counts(out: Path) -> list[tuple[Any, ...]]:
    rows = pl.read_parquet(out / MEASURED).select("policy", "text", "tokens", "rounds", "draft_calls", "digest")
    return sorted(rows.rows())


def test_live_and_replay_count_the_same_and_a_killed_experiment_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, tasks = tmp_path / "radar", "tasks=[arithmetic,python]"
    assert bench(out, tasks) == 0
    printed = capsys.readouterr().out
    for words in ("EAGLE-2 (static 6)", "ours (fitted)", "4.82", "MBPP", "arithmetic for GSM8K", "25 of 25 (all)"):
        assert words in printed
    found = overall(out)
    assert list(found) == [ALONE, "EAGLE-2", "EAGLE-3", "RADAR", "tuned static", "ours", ORACLE]
    for name in ("EAGLE-3", "RADAR", "tuned static", "ours"):
        assert found[name]["agreeing"] == found[name]["texts"] == 5
        for figure in ("acceptance_length", "draft_calls"):
            assert found[name][figure] == found[name][f"{figure}_replayed"]
    assert found["EAGLE-3"]["draft_calls"] == 2
    assert found["EAGLE-2"]["draft_calls"] == 6
    assert found["EAGLE-2"]["tokens_per_second_replayed"] is None
    assert found[ORACLE]["tokens_per_second"] is None
    assert found[ORACLE]["speedup_replayed"] >= max(found[name]["speedup_replayed"] for name in ("ours", "RADAR"))
    assert (out / PICTURE).is_file()

    kept = (out / ROWS).read_text().splitlines()
    order = [json.loads(line)["policy"] for line in kept]
    assert order[6 : 2 * 6] == [*order[1:6], order[0]]  # who is first changes from text to text
    before = counts(out)
    (out / ROWS).write_text("\n".join([*kept[:-3], '{"policy": "ou']))  # killed while it wrote
    assert bench(out, tasks) == 0
    assert (out / ROWS).read_text().splitlines()[:-3] == kept[:-3]
    assert counts(out) == before
    assert record(out)["complete"]
    capsys.readouterr()
    assert bench(out, tasks, "temperature=1") == 2
    assert "temperature=0.0 there, 1.0 here" in capsys.readouterr().err


def test_sampled_texts_agree_too_and_own_prompts_and_published_weights_fit_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: torch.from_numpy(values) for name, values in make_weights(top_k=10).items()}
    torch.save(weights, tmp_path / "weights.pt")
    (tmp_path / "sets/mine").mkdir(parents=True)
    rows = [json.dumps({"id": f"a{number}", "prompt": "Say hi."}) for number in range(1, 6)]
    (tmp_path / "sets/mine/eval.jsonl").write_text("\n".join(rows))
    out, own = tmp_path / "radar", ["tasks=[python,mine]", f"data_dir={tmp_path / 'sets'}", "algo=bc"]
    assert bench(out, *own, "temperature=1", f"weights={tmp_path / 'weights.pt'}") == 0
    printed = capsys.readouterr().out.partition("Speedup over")[2]
    header = next(line for line in printed.splitlines() if line.startswith(" policy  "))
    assert header.split() == ["policy", "python", "paper", "mine"]  # the paper has nothing to stand beside ours
    found = overall(out)
    for name in ("EAGLE-3", "RADAR's weights", "ours"):
        assert found[name]["agreeing"] == found[name]["texts"] == 5
    same, of = record(out)["results"]["same_texts"]
    assert same == of == 6 * 5


def test_other_contents_under_the_same_path_and_other_intervals_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(radar, "resolve_hardware", begun)
    out, weights, machine = tmp_path / "radar", tmp_path / "weights.pt", tmp_path / "machine.json"
    own = [f"weights={weights}", f"hardware={machine}"]

    def written(seed: int, profile: HardwareProfile) -> None:
        made = make_weights(top_k=10, seed=seed)
        torch.save({name: torch.from_numpy(values) for name, values in made.items()}, weights)
        profile.save(machine)

    for _ in range(2):  # the same contents, written anew, go on
        written(0, HARDWARE)
        assert bench(out, *own) == 130
    assert bench(out, *own, "resamples=101") == 2
    assert "settings (resamples=100 there, 101 here)" in capsys.readouterr().err
    written(1, HARDWARE)
    assert bench(out, *own) == 2
    assert f"settings (weights={weights} (sha256 " in capsys.readouterr().err
    written(0, replace(HARDWARE, rest_seconds=0.1))
    assert bench(out, *own) == 2
    assert f"settings (hardware={machine} (sha256 " in capsys.readouterr().err


def decoded(task: str, prompts: int, tokens: int) -> list[dict[str, Any]]:
    """Rows of texts of so many tokens after the first; without any no second is timed."""
    counts = {"tokens": tokens, "seconds": tokens / 10, "rounds": tokens // 2, "draft_calls": tokens}
    return [
        {"policy": policy, "text": f"{task}/{i}", "task": task, "prompt_id": str(i), **counts}
        for policy in (ALONE, TUNED, "ours")
        for i in range(prompts)
    ]


def test_a_task_without_a_timed_token_has_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pl.DataFrame([*decoded("ended", 12, 0), *decoded("told", 10, 4)])
    replayed = rows.select("policy", "text", "task", "tokens", "seconds", "rounds", "draft_calls")
    monkeypatch.setattr(Contest, "replayed", lambda contest: replayed)
    shown = {name: name for name in (TUNED, "ours")}
    contest = Contest(rows, make_trace(prompts=4), HARDWARE, {}, shown)
    found = figures(contest, 200, 0)
    ended = found.filter(pl.col("task") == "ended")
    for name in ("tokens_per_second", "speedup", "acceptance_length", "replay_error", "gain", "gain_low"):
        assert ended[name].null_count() == ended.height
    [ours] = found.filter(pl.col("task") == ALL_TASKS, pl.col("policy") == "ours").to_dicts()
    assert ours["gain_low"] == ours["gain"] == ours["gain_high"] == 0
    json.dumps(found.to_dicts(), allow_nan=False)
    numbers, console = published("radar"), wide_console(WIDTH)
    for table in tables(found, shown, numbers, "Llama-3.1-8B"):
        console.print(table)
    draw_contest(found, shown, numbers, "Llama-3.1-8B", "made up", tmp_path / "drawn.png")
    with pytest.raises(InputError, match="no text has a token after its first"):
        figures(replace(contest, live=rows.filter(pl.col("task") == "ended")), 200, 0)


def test_published_numbers_are_a_row_of_each_column() -> None:
    numbers = published("radar")
    for target in numbers["targets"].values():
        assert set(target) == set(MEASURES)
        for rows in target.values():
            assert {len(row) for row in rows.values()} == {len(numbers["columns"])}
    assert paper_number(numbers, "Llama-3.1-8B", "speedup", "RADAR", "gsm8k") == 4.82
    assert paper_number(numbers, "Llama-3.1-8B", "speedup", "RADAR's weights", "arithmetic") == 4.82
    assert paper_number(numbers, "Vicuna-13B", "acceptance_length", "EAGLE-2", "python") == 4.93
    assert paper_number(numbers, "Llama-3.1-8B", "speedup", "ours", "gsm8k") is None
    assert paper_number(numbers, "Llama-3.1-8B", "speedup", "RADAR", "humaneval") is None


def test_radars_reward_is_the_published_one_on_their_machine_and_scales_with_rounds() -> None:
    values = load("hardware", "radar_llama31_8b")
    theirs = HardwareProfile.from_mapping(values, "theirs")
    assert radar_reward(theirs, 8, 10, 60)["beta"] == pytest.approx(0.03084)
    slow = {key: [2 * second for second in values[key]] for key in ("draft_seconds", "verify_seconds")}
    slower = HardwareProfile.from_mapping(values | slow | {"rest_seconds": 2 * values["rest_seconds"]}, "slower")
    assert radar_reward(slower, 8, 10, 60)["beta"] == pytest.approx(2 * 0.03084)


def test_an_eagle2_head_is_known_given_or_absent() -> None:
    assert _eagle2_head(None, load("model", "llama31_8b")) == "yuhuili/EAGLE-LLaMA3.1-Instruct-8B"
    assert _eagle2_head("mine", load("model", "qwen3_8b")) == "mine"
    assert _eagle2_head(None, load("model", "qwen3_8b")) is None
    assert _eagle2_head(None, load("model", "inflated")) is None
    with pytest.raises(ConfigError, match="only an EAGLE-3 head can be inflated"):
        _eagle2_head("pocket-eagle2", load("model", "inflated"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("paper=GPT-2", "paper=GPT-2: no such target; valid: Llama-3.1-8B"),
        ("size=huge", "size=huge: valid: smoke, full"),
        ("passes=0", "passes: expected a whole number ≥ 1"),
        ("steps=5", "steps"),
        ("held_out=1.0", "held_out"),
        ("resamples=5", "resamples"),
        ("weights=nowhere.pt", "nowhere.pt"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    wrong: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path / "radar", wrong) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "radar").exists()
