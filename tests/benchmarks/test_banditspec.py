"""``bench banditspec``: arms and bandits decode the same batches, go on where they were killed, and are told apart."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from radar_rl import cli
from radar_rl.benchmarks import banditspec
from radar_rl.benchmarks.banditspec import Asked
from radar_rl.benchmarks.banditspec_figures import ALONE, BEST, REPLAY, WARM_UP, WORST, figures
from radar_rl.benchmarks.banditspec_picture import draw_throughput
from radar_rl.benchmarks.banditspec_tables import WIDTH, tables
from radar_rl.benchmarks.published import published
from radar_rl.console import wide_console
from radar_rl.errors import InputError
from radar_rl.speculative import HardwareProfile

TINY = ["batches=[1,2]", "tasks=[instructions]", "limit=3", "max_depth=2", "max_new_tokens=10"]
POLICIES = [ALONE, "static-1", "static-2", "ucbspec", "ucbspec-throughput", "exp3spec"]
PROFILE = HardwareProfile("here", (0.001,), (2, 3), (0.002, 0.002), 0.0, 0.0, 0.004)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on a given profile; what it printed."""
    monkeypatch.setattr(banditspec, "measure_hardware", lambda pair, **shape: PROFILE)

    def command(*more: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["bench", "banditspec", *TINY, f"out={tmp_path / 'out'}", *more]) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    return command


def test_both_targets_are_measured_and_a_killed_run_goes_on(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = banditspec._decoded
    asked = []

    def killed(*given: Any) -> dict[str, Any]:
        asked.append(given)
        if len(asked) == 12:
            raise KeyboardInterrupt
        return decoded(*given)

    with monkeypatch.context() as patch:
        patch.setattr(banditspec, "_decoded", killed)
        run(code=130)
    before = (tmp_path / "out" / "measured.jsonl").read_text().splitlines()
    assert len(before) > 5
    printed = run()
    assert (tmp_path / "out" / "measured.jsonl").read_text().splitlines()[: len(before)] == before
    rows = pl.read_parquet(tmp_path / "out" / "measurements.parquet")
    key = ["target", "batch", "policy", "part"]
    assert rows.select(key).is_unique().all()
    # Three prompts: three batches of 1, two of 2; warm-ups of two arms; the replay where texts stand alone.
    for batch, parts, replayed in ((1, 3, 6), (2, 2, 0)):
        for target in ("llama", "qwen2"):
            here = rows.filter((pl.col("batch") == batch) & (pl.col("target") == target))
            live = here.filter(~pl.col("part").is_in([WARM_UP, REPLAY]))
            assert live.group_by("policy").len().sort("policy").rows() == [(name, parts) for name in sorted(POLICIES)]
            assert here.filter(pl.col("part") == WARM_UP).height == 2
            assert here.filter(pl.col("part") == REPLAY).height == replayed
    about = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert about["complete"]
    found = pl.DataFrame(about["results"]["figures"])
    assert found["texts"].sum() == found["same_text"].sum() == 2 * 6 * (3 + 4)
    alone = rows.filter((pl.col("batch") == 1) & (pl.col("policy") == ALONE))
    # Both targets write the same texts, live and traced.
    assert alone.group_by("target", pl.col("part") == REPLAY).agg(pl.col("tokens").sum())["tokens"].n_unique() == 1
    replayed = found.filter(pl.col("batch") == 1, pl.col("policy") == "static-2", pl.col("target") == "llama")
    emitted = replayed["acceptance_length"].item()
    assert replayed["replayed_tokens_per_second"].item() == pytest.approx(emitted / 0.004)  # two calls, a verification
    assert (tmp_path / "out" / "banditspec.png").stat().st_size > 10_000
    for words in (
        "70 of 70 texts are those of the target alone",
        "as Qwen2",
        "EXP3Spec",
        "Table 1",
        "3.50×",
        "no column",
    ):
        assert words in printed
    assert "limit=3 there, 2 here" in run("limit=2", code=2)


def measured(seconds: dict[str, tuple[float, float]]) -> pl.DataFrame:
    """Two batches of one text of 12 tokens after the first, decoded in the given seconds by each policy."""
    rounds = {"static-1": 6, "static-2": 4}
    return pl.DataFrame(
        [
            {"target": "llama", "batch": 1, "policy": name, "part": str(part), "tokens": 12, "seconds": took}
            | {"rounds": 0 if name == ALONE else rounds.get(name, 5), "draft_calls": 8, "texts": ["same"]}
            for name, both in seconds.items()
            for part, took in enumerate(both)
        ]
    )


def test_regret_is_against_one_arm_for_all_batches_and_against_each_batchs_own() -> None:
    given = dict.fromkeys(POLICIES, (4.0, 4.0)) | {ALONE: (6.0, 6.0), "static-1": (2.0, 4.0), "static-2": (4.0, 1.0)}
    found = {row["policy"]: row for row in figures(measured(given)).iter_rows(named=True)}
    assert list(found) == [ALONE, "static-1", "static-2", BEST, WORST, "ucbspec", "ucbspec-throughput", "exp3spec"]
    assert [found[name]["improvement"] for name in (ALONE, "static-1", "static-2")] == pytest.approx([1, 2, 12 / 5])
    assert [found[name]["improvement"] for name in (BEST, WORST)] == pytest.approx([12 / 3, 12 / 8])
    bandit = found["exp3spec"]
    assert bandit["improvement"] == pytest.approx(12 / 8)
    assert bandit["regret"] == pytest.approx(1 - 5 / 8)
    assert bandit["regret_hindsight"] == pytest.approx(1 - 3 / 8)
    assert bandit["gain"] == pytest.approx(6 / 8 - 1)
    assert bandit["more_rounds"] == 1  # a text: five against the four of the deepest arm
    assert found["static-2"]["regret"] is None
    assert bandit["replay_error"] is None


def nothing_timed(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows as they are where every text ends with its first token; the clock still takes a moment."""
    nothing = {name: pl.lit(0, pl.Int64) for name in ("tokens", "rounds", "draft_calls")}
    return rows.with_columns(seconds=pl.lit(1e-6), **nothing)


def test_a_batch_size_without_a_timed_token_has_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(dict.fromkeys(POLICIES, (1.0, 1.0)))
    replayed = rows.filter(pl.col("part") == "0").with_columns(part=pl.lit(REPLAY))
    ended = nothing_timed(rows).with_columns(batch=pl.lit(2, pl.Int64))
    found = figures(pl.concat([rows, replayed, ended]))
    speeds = ["tokens_per_second", "improvement", "acceptance_length", "regret", "regret_hindsight", "gain"]
    assert found.filter(pl.col("batch") == 2).select(speeds).null_count().row(0) == (8,) * len(speeds)
    assert found.filter(pl.col("batch") == 1)["improvement"].null_count() == 0
    json.dumps(found.to_dicts(), allow_nan=False)
    assert figures(pl.concat([rows, nothing_timed(replayed)]))["replay_error"].null_count() == 8
    console = wide_console(WIDTH)
    for table in tables(found, {"llama": "pocket"}, ["alpaca"]):
        console.print(table)
    assert "–" in capsys.readouterr().out
    draw_throughput(found, "pocket", tmp_path / "drawn.png")
    with pytest.raises(InputError, match="no text has a token after its first"):
        figures(ended)


def test_a_text_that_differs_is_counted() -> None:
    rows = measured(dict.fromkeys(POLICIES, (1.0, 1.0))).to_dicts()
    changed = [row | ({"texts": ["other"]} if (row["policy"], row["part"]) == ("ucbspec", "1") else {}) for row in rows]
    found = {row["policy"]: row for row in figures(pl.DataFrame(changed)).iter_rows(named=True)}
    assert (found["ucbspec"]["same_text"], found["ucbspec"]["texts"]) == (1, 2)
    assert found["static-1"]["same_text"] == 2


def test_other_prompts_of_the_same_name_are_other_work(run: Any, tmp_path: Path) -> None:
    rows = tmp_path / "alpaca" / "eval.jsonl"
    rows.parent.mkdir()
    few = ["tasks=[alpaca]", f"data_dir={tmp_path}", "batches=[2]", "max_depth=1", "targets=[own]"]
    rows.write_text('{"id": "0", "prompt": "Name a colour."}\n')
    run(*few)
    rows.write_text('{"id": "0", "prompt": "Name a fruit."}\n')
    assert "prompts=" in run(*few, code=2)


def test_every_prompt_is_in_a_batch_and_every_batch_is_full() -> None:
    asked = Asked([[1]] * 5, [0] * 5, {"max_depth": 2}, {}, seed=3)
    groups = asked.groups(2)
    assert groups.shape == (3, 2)
    assert set(groups.flat) == set(range(5))
    assert asked.groups(1)[:, 0].tolist() == groups.flat[:5].tolist()
    assert asked.groups(8).shape == (1, 8)


def test_the_papers_numbers_have_a_source_and_none_by_batch_size() -> None:
    numbers = published("banditspec")
    assert "2505.15141" in numbers["source"]
    assert numbers["draft_models"]["LLaMA3-8B-Instruct"]["Alpaca"]["UCBSpec"] == [4.35, 125.78]
    assert numbers["speculation_lengths"]["numbers"] is None
    sets = [numbers["draft_models"][target] for target in ("LLaMA3-8B-Instruct", "Qwen2-7B-Instruct")]
    assert all(len(methods) == 7 for target in sets for methods in target.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["batches=[]"], "batches: expected batch sizes, each once, got []"),
        (["batches=[2,2]"], "batches: expected batch sizes, each once"),
        (["batches=[0]"], "batches: expected a whole number ≥ 1"),
        (["targets=[mamba]"], "targets: expected some of own, qwen2"),
        (["model=pocket_qwen2"], "only a Llama target can be written as Qwen2, this is qwen2; give targets=[own]"),
        (["max_new_tokens=1"], "max_new_tokens: expected a whole number ≥ 2"),
        (["size=huge"], "size=huge"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Any, wrong: list[str], message: str) -> None:
    assert message in run("batches=[2]", *wrong, code=2)
