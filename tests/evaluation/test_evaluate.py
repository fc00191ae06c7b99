import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_trace import HARDWARE, MadeTrace, make_trace, with_features, write_collection

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.offline.tuning import RULE_FEATURES, RULES
from radar_rl.rollouts import Trace
from radar_rl.rollouts.split import held_out
from radar_rl.runtime.artifact import load_policy, read_config

TrainRun = Callable[..., None]


def evaluation(collection: Path, hardware_file: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "traces": str(collection),
        "runs": [],
        "hardware": str(hardware_file),
        "model": {},
        "allow_other_pair": False,
        "held_out": 0.3,
        "seed": 0,
        "tree_size": None,
        "resamples": 100,
    } | changes


def test_runs_rules_and_oracle_on_held_out_prompts_only(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path, capsys
) -> None:
    both = [str(runs["cql"]), str(runs["bc"])]
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path, runs=both, held_out=0.9))
    overall = [row for row in rows if row["task"] == "all"]
    assert [row["policy"] for row in overall][:8] == [f"static-{depth}" for depth in range(1, 9)]
    rules = [kind for kind in RULES if kind not in RULE_FEATURES]  # the trace was collected with no features
    assert [row["kind"] for row in overall][8:] == ["rule"] * len(rules) + ["learned", "learned", "oracle"]
    assert all(row["policy"].startswith(rule) for row, rule in zip(overall[8:], rules, strict=False))
    # The runs' own split counts, not held_out=.
    assert overall[0]["prompts"] == held_out(trace.sequences.prompt_id, 0.3).sum()
    written = pl.read_parquet(tmp_path / "evaluation.parquet")
    assert written.to_dicts() == rows
    assert {row["trained_for"] for row in rows if row["kind"] == "learned"} == {"synthetic"}
    assert {row["algorithm"] for row in rows if row["policy"] == "bc"} == {"bc"}
    (known,) = [row for row in overall if row["policy"] == "bc"]
    own = {"learning_rate": 0.02, "weight_decay": 0.03, "hidden": [8], "beta": 0.0}
    assert json.loads(known["settings"]) == own
    told = {"behaviour": "oracle", "reward": '{"kind": "throughput"}', "newest": 1, "share": 1.0, "steps": 40}
    assert told.items() <= known.items()
    decided = {row["kind"]: row["decision_microseconds"] for row in overall}
    assert decided["static"] is None
    assert decided["oracle"] is None
    assert decided["rule"] > 0
    assert decided["learned"] > 0
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for words in ("oracle", "cql", "tokens/s", "A draft call costs 16.1% of a round's rest", "by task"):
        assert words in " ".join(printed.split())


def test_without_runs_rules_and_oracle_are_shown(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path))
    assert {row["kind"] for row in rows} == {"static", "rule", "oracle"}


def test_rules_look_at_the_features_that_the_trace_has(hardware_file: Path, trace: MadeTrace, tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "traces", with_features(trace))
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path / "out"))
    names = [row["policy"] for row in rows if row["kind"] == "rule"]
    assert all(any(name.startswith(kind) for name in names) for kind in ("p-min-", "svip-", "adaedl-"))


def test_what_any_run_was_trained_on_is_left_out(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path
) -> None:
    names = [str(runs["bc"]), str(runs["bc-again"])]
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path, runs=names))
    assert rows[0]["prompts"] == held_out(trace.sequences.prompt_id, 0.2).sum()
    # Two runs of one algorithm are told apart by their folders.
    assert {row["policy"] for row in rows if row["kind"] == "learned"} == {"bc", "bc-again"}


def test_few_prompts_are_warned_about(collection, hardware_file, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        rows = evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=0.1))
    assert rows[0]["prompts"] < 10
    assert rows[0]["speedup_static_low"] is None
    assert "fewer than 10" in caplog.text


def test_another_pair_is_refused_unless_asked_for(hardware_file: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    other = write_collection(tmp_path / "traces", make_trace(prompts=40, new_tokens=30, target="other@1"))
    asked = evaluation(other, hardware_file, tmp_path / "out", runs=[str(runs["bc"])])
    with pytest.raises(TraceError, match="allow_other_pair=true"):
        evaluate(**asked)
    rows = evaluate(**asked | {"allow_other_pair": True})
    assert any(row["policy"] == "bc" for row in rows)


@pytest.mark.parametrize("shape", [{"top_k": 4}, {"max_depth": 5}])
def test_another_tree_shape_is_refused(
    hardware_file: Path, runs: dict[str, Path], tmp_path: Path, shape: dict[str, int]
) -> None:
    other = write_collection(tmp_path / "traces", make_trace(prompts=20, new_tokens=30, **shape))
    with pytest.raises(TraceError, match=next(iter(shape))):
        evaluate(**evaluation(other, hardware_file, tmp_path / "out", runs=[str(runs["bc"])], allow_other_pair=True))


def test_several_machines_share_the_texts_not_the_rules(
    collection: Path, hardware_file: Path, runs: dict[str, Path], train_run: TrainRun, tmp_path: Path, capsys
) -> None:
    cheap, retrained = tmp_path / "cheap.json", tmp_path / "cheap" / "cql"
    replace(HARDWARE, name="Cheap drafts (made up)", draft_seconds=(0.0001,) * 8).save(cheap)
    train_run(collection, cheap, retrained, "cql")
    both = [str(hardware_file), str(cheap)]
    mine = [str(runs["cql"]), str(retrained)]
    capsys.readouterr()
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path / "out", runs=mine, hardware=both))
    printed = " ".join(capsys.readouterr().out.split())
    assert "trained for one machine (rows), run on another" in printed
    assert printed.count("held-out prompts · target + draft") == 2
    frame = pl.DataFrame(rows)
    names = {"Cheap drafts (made up)": "cheap-drafts-made-up", "synthetic": "synthetic"}
    assert set(frame["hardware"]) == set(names)
    for machine, slug in names.items():
        alone = evaluate(
            **evaluation(collection, hardware_file, tmp_path / slug, runs=mine, hardware=both[slug != "synthetic"])
        )
        same = frame.filter(pl.col("hardware") == machine).drop("decision_microseconds")
        assert same.equals(
            pl.DataFrame(alone, schema=same.schema | {"decision_microseconds": pl.Float64}).drop(
                "decision_microseconds"
            )
        )
        # What was tuned for the machine decodes as any policy does.
        (baseline,) = set(same["baseline"])
        rules = {path.name: load_policy(path) for path in (tmp_path / "out" / "rules" / slug).iterdir()}
        assert {baseline, *same.filter(pl.col("kind") == "rule")["policy"]} == set(rules)
        assert all(rule.name == name for name, rule in rules.items())
        about = read_config(tmp_path / "out" / "rules" / slug / baseline)
        assert (about["target"], about["hardware"]["name"], about["tree_size"]) == ("target@0", machine, 60)
        assert f"static-{about['best_static_depth']}" == baseline
        assert (tmp_path / "out" / f"comparison-{slug}.png").is_file()
    assert frame.filter(pl.col("hardware") == "Cheap drafts (made up)")["baseline"][0] > frame["baseline"][0]
    assert (tmp_path / "out" / "retargeting.png").is_file()
    assert not (tmp_path / "out" / "comparison.png").exists()
    assert not (tmp_path / "out" / "learning_curves.png").exists()
    # Runs that share a name are called by as much of their paths as it takes.
    assert {row["policy"] for row in rows if row["kind"] == "learned"} == {
        "/".join(Path(run).parts[-2:]) for run in mine
    }


def test_runs_of_different_positions_are_drawn_as_learning_curves(
    collection: Path, hardware_file: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    mine = []
    for positions in (100, 1000):
        mine.append(tmp_path / f"of-{positions}")
        shutil.copytree(runs["bc"], mine[-1])
        about = json.loads((mine[-1] / "run.json").read_text())
        (mine[-1] / "run.json").write_text(json.dumps(about | {"positions": positions}))
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path / "out", runs=[str(run) for run in mine]))
    assert {row["policy"]: row["positions"] for row in rows if row["kind"] == "learned"} == {
        "of-100": 100,
        "of-1000": 1000,
    }
    assert (tmp_path / "out" / "learning_curves.png").is_file()


def test_a_task_that_nobody_trained_on_is_compared_whole(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path
) -> None:
    unseen = make_trace(prompts=30, new_tokens=30, seed=5, tasks=("unseen",))
    other = write_collection(tmp_path / "unseen", unseen)
    asked = evaluation(other, hardware_file, tmp_path / "out", runs=[str(runs["bc"])], tune_traces=str(collection))
    rows = evaluate(**asked)
    decoded = len(unseen.first_row)
    assert {row["prompts"] for row in rows} == {decoded} != {held_out(unseen.sequences.prompt_id, 0.3).sum()}
    # Rules and baseline are those of the training prompts of the other trace.
    usual = evaluate(**evaluation(collection, hardware_file, tmp_path / "usual", runs=[str(runs["bc"])]))
    assert {row["policy"] for row in rows} == {row["policy"] for row in usual}
    assert rows[0]["baseline"] == usual[0]["baseline"]


def test_a_pair_that_nobody_trained_on_is_compared_whole(
    collection: Path, hardware_file: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    unseen = make_trace(prompts=20, new_tokens=30, seed=5, tasks=("unseen",), target="other@1")
    other = write_collection(tmp_path / "unseen", unseen)
    asked = evaluation(other, hardware_file, tmp_path / "out", tune_traces=str(collection))
    with pytest.raises(TraceError, match=r"has target target@0, .* has other@1; allow_other_pair=true"):
        evaluate(**asked)
    with pytest.raises(TraceError, match="allow_other_pair=true"):
        evaluate(**asked | {"runs": [str(runs["bc"])]})
    rows = evaluate(**asked | {"runs": [str(runs["bc"])], "allow_other_pair": True})
    assert rows[0]["prompts"] == len(unseen.first_row)
    static = next(path for path in (tmp_path / "out" / "rules").iterdir() if path.name.startswith("static"))
    assert read_config(static)["target"] == "target@0"  # whose texts it was tuned on


def test_prompts_that_were_trained_on_are_refused(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path
) -> None:
    again = make_trace(prompts=60, new_tokens=30, seed=7)  # prompts of the same names, other texts
    other = write_collection(tmp_path / "again", again)
    trained_on = int((~held_out(again.sequences.prompt_id, 0.3)).sum())
    with pytest.raises(
        TraceError, match=rf"{trained_on} of its prompts \(first/p\d+, …\) are among the training prompts"
    ):
        evaluate(**evaluation(other, hardware_file, tmp_path / "out", tune_traces=str(collection)))
    third = write_collection(tmp_path / "third", make_trace(prompts=20, new_tokens=30, tasks=("third",)))
    asked = evaluation(collection, hardware_file, tmp_path / "out", runs=[str(runs["bc"])], tune_traces=str(third))
    with pytest.raises(TraceError, match=f"{runs['bc']}: trained on "):
        evaluate(**asked)


def test_other_features_and_tree_sizes_are_refused(
    collection: Path, hardware_file: Path, runs: dict[str, Path], train_run: TrainRun, tmp_path: Path, caplog
) -> None:
    made = with_features(make_trace(prompts=24, new_tokens=30))
    seeing = write_collection(tmp_path / "seeing", made)
    run = tmp_path / "run"
    train_run(seeing, hardware_file, run, "bc", observation=["confidences", "depth", "entropy", "hidden"])
    mine = {"runs": [str(run)]}
    with pytest.raises(TraceError, match="looks at entropy, hidden, the trace was collected with no features"):
        evaluate(**evaluation(collection, hardware_file, tmp_path / "out", **mine))
    with pytest.raises(TraceError, match="trained for trees of 60 nodes, but tree_size=30"):
        evaluate(**evaluation(seeing, hardware_file, tmp_path / "out", **mine, tree_size=30))
    smaller = write_collection(tmp_path / "smaller", make_trace(prompts=24, new_tokens=30, tree_size=30))
    with pytest.raises(TraceError, match="trees of 60 nodes, the trace was collected with 30"):
        evaluate(**evaluation(smaller, hardware_file, tmp_path / "out", runs=[str(runs["bc"])]))
    elsewhere = replace(made, settings=replace(made.settings, draft="other@1"))
    stranger = write_collection(tmp_path / "stranger", elsewhere)
    with caplog.at_level(logging.WARNING):
        evaluate(**evaluation(stranger, hardware_file, tmp_path / "out", **mine, allow_other_pair=True))
    assert "looks at hidden, projected from the space of the models that it was trained on" in caplog.text


def test_nothing_to_evaluate_on(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="evaluate on"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=0.0))
    with pytest.raises(TraceError, match="tune rules on"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=1.0))
    with pytest.raises(InputError, match="radar-rl train"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, runs=[str(tmp_path)]))
    with pytest.raises(ConfigError, match="resamples"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, resamples=0))
