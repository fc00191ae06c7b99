import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from radar_rl import cli
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.offline.run import load_run
from radar_rl.offline.train import train
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts.rollout import rollout
from radar_rl.rollouts.split import held_out, learned_from
from radar_rl.runtime.artifact import read_config


def arguments(collection: Path, hardware_file: Path, out: Path, **changes) -> dict:
    return {
        "out": str(out),
        "traces": str(collection),
        "rollouts": None,
        "algo": {"name": "bc"},
        "behaviour": None,
        "episode": "sequence",
        "reward": {"kind": "throughput", "rate": None},
        "hardware": str(hardware_file),
        "held_out": 0.3,
        "steps": 40,
        "batch_size": 64,
        "seed": 0,
        "model": {},
        "wandb": "disabled",
        "tree_size": None,
    } | changes


def test_a_run_records_what_it_takes_to_repeat_and_to_judge_it(
    collection: Path, hardware_file: Path, tmp_path: Path, outcomes: Outcomes
) -> None:
    train(**arguments(collection, hardware_file, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    about = run.about
    assert run.name == "bc"
    assert run.held_out == 0.3
    assert about["arguments"]["behaviour"] == "oracle"
    assert about["trace"]["target"] == "target@0"
    assert about["hardware"]["name"] == "synthetic"
    assert 1 <= about["best_static_depth"] <= 8
    assert about["training_seconds"] > 0
    assert set(about["versions"]) >= {"radar_rl", "d3rlpy", "torch"}
    curve = pl.read_parquet(tmp_path / "run" / "curve.parquet")
    assert curve["step"].to_list() == list(range(2, 41, 2))
    assert curve["tokens_per_second"].is_not_null().all()
    depths = run.policy.stop_depths(outcomes.trace.confidences)  # type: ignore[attr-defined]
    assert len(depths) == len(outcomes.trace)
    exported = read_config(tmp_path / "run")
    assert exported["best_static_depth"] == about["best_static_depth"]
    assert (exported["max_depth"], exported["top_k"], exported["tree_size"]) == (8, 10, 60)


def test_held_out_prompts_are_not_learned_from(collection: Path, hardware_file: Path, tmp_path: Path, trace) -> None:
    few = train(**arguments(collection, hardware_file, tmp_path / "few", held_out=0.6, algo={"name": "cql"}))
    training = trace.select(~held_out(trace.sequences.prompt_id, 0.6))
    assert few["transitions"] == 14 * int((~training.censored).sum())


def test_a_share_of_the_training_prompts_is_learned_from(
    collection: Path, hardware_file: Path, tmp_path: Path, trace
) -> None:
    some = train(**arguments(collection, hardware_file, tmp_path / "some", share=0.5))
    kept = learned_from(trace.sequences.prompt_id, 0.3, 0.5)
    assert some["positions"] == len(trace.select(kept)) < len(trace.select(~held_out(trace.sequences.prompt_id, 0.3)))


def test_the_same_seed_gives_the_same_policy(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(**arguments(collection, hardware_file, tmp_path / name))
    weights = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_rollouts_are_learned_from(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    rollout(
        out=str(tmp_path / "log"),
        env="replay",
        policy="random:0.7",
        model={},
        reward={"kind": "throughput"},
        traces=str(collection),
        tasks=[],
        task={},
        hardware=str(hardware_file),
    )
    about = train(
        **arguments(
            collection, hardware_file, tmp_path / "run", traces=None, rollouts=str(tmp_path / "log"),
            algo={"name": "iql"}, hardware=None,
        )
    )  # fmt: skip
    run = load_run(tmp_path / "run")
    assert run.about["trace"]["target"] == "target@0"
    assert run.about["arguments"]["behaviour"] == "logged: random:0.7"
    assert about["hardware"]["name"] == "synthetic"


def test_wandb_offline_needs_no_account(
    collection: Path, hardware_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(**arguments(collection, hardware_file, tmp_path / "run", wandb="offline"))
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))


def test_in_a_sweep_one_that_diverges_is_named_and_the_others_are_trained(
    collection: Path, hardware_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["algo.learning_rate=1e30,1e-3", "algo=bc", "steps=60", "batch_size=32"]
    where = [f"traces={collection}", f"hardware={hardware_file}", f"out={tmp_path}/${{algo.learning_rate}}"]
    assert cli.main(["train", "-m", *sweep, *where, f"hydra.sweep.dir={tmp_path}/sweep"]) == 2
    errors = capsys.readouterr().err
    assert "radar-rl train: algo.learning_rate=1e+30: algo=bc diverged in epoch 1: " in errors
    assert "1 of 2 jobs failed, the others are done" in errors
    assert [folder.parent.name for folder in tmp_path.glob("*/run.json")] == ["0.001"]


def test_an_action_never_taken_is_told(
    collection: Path, hardware_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rollout(
        out=str(tmp_path / "log"),
        env="replay",
        policy="static:3",
        model={},
        reward={"kind": "throughput"},
        traces=str(collection),
        tasks=[],
        task={},
        hardware=str(hardware_file),
    )
    changes = {"traces": None, "rollouts": str(tmp_path / "log"), "hardware": None}
    train(**arguments(collection, hardware_file, tmp_path / "run", **changes, algo={"name": "cql"}))
    assert "never takes stop after draft call 1, 2; algo=cql: its conservative term pushes" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traces": None}, "exactly one"),
        ({"rollouts": "x"}, "exactly one"),
        ({"behaviour": "greedy"}, "valid: full, uniform, oracle"),
        ({"episode": "text"}, "valid: sequence, round"),
        ({"algo": {"name": "dqn"}}, "valid: cql, iql, bc"),
        ({"reward": {"kind": "radar"}}, "episode=round"),
        ({"held_out": 1.0}, "held_out"),
        ({"share": 0.0}, "share"),
        ({"steps": 3}, "steps"),
        ({"wandb": "maybe"}, "valid: disabled, offline, online"),
    ],
)
def test_wrong_settings_are_named(collection: Path, hardware_file: Path, tmp_path: Path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        train(**arguments(collection, hardware_file, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_missing_trace_and_a_tree_larger_than_collected(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match="collect"):
        train(**arguments(tmp_path / "nowhere", hardware_file, tmp_path / "run"))
    with pytest.raises(TraceError, match="tree_size"):
        train(**arguments(collection, hardware_file, tmp_path / "run", tree_size=61))


def test_a_folder_without_a_finished_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="radar-rl train"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InputError, match="lacks"):
        load_run(tmp_path)


def test_rounds_with_radars_reward(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    changes = {"reward": {"kind": "radar"}, "episode": "round", "algo": {"name": "cql"}}
    about = train(**arguments(collection, hardware_file, tmp_path / "run", **changes))
    assert np.isfinite(about["rate"])
