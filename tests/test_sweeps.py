"""Sweeps on other processes and machines, with the real command; and what their tests stand on."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem, FileType
from ray_cluster import RayCluster
from synthetic_trace import make_trace, write_collection

from radar_rl import cli, settings
from radar_rl.errors import InputError
from radar_rl.offline import train
from radar_rl.offline.data import TrainingData
from radar_rl.offline.fit import Fitted, Training
from radar_rl.rollouts import DataSet, load_trace
from radar_rl.rollouts.manifest import part_name

RADAR_RL = Path(sys.executable).parent / "radar-rl"
MINUTES = 15 * 60  # when something hangs; nothing is measured by it
LONG = 160  # prompts of a job that is still at work when its worker is killed

Collect = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def collect(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Collect:
    """Starts ``radar-rl collect -m`` with the tiny pair in a folder of its own: ``limit`` prompts go to out/LIMIT."""
    prompts = [{"id": f"p{i}", "prompt_ids": [3 + i % 50, 5, 7, 9]} for i in range(LONG)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    pair = [f"model.target={tiny_pair[0]}", f"model.draft={tiny_pair[1]}"]
    sizes = ["max_new_tokens=12", "max_depth=3", "top_k=4", "tree_size=8", "part_size=4"]
    command = [RADAR_RL, "collect", "-m", *pair, *sizes, "tasks=[]", "task.path=prompts.jsonl", "out=out/${limit}"]

    def start(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(sweep: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        printed, errors = sweep.communicate(timeout=MINUTES)
    except subprocess.TimeoutExpired:
        sweep.kill()
        raise
    return sweep.returncode, printed, errors


def texts(folder: Path) -> list[str]:
    ids: list[str] = pl.read_parquet(folder / "sequences" / "*.parquet")["sequence_id"].to_list()
    return ids


def check_one_failed(code: int, errors: str) -> None:
    """Of limit=1,none,2 the second can't run: it is named, in one line, and the others did."""
    assert code == 2, errors
    assert "Traceback" not in errors
    (line,) = (line for line in errors.splitlines() if line.startswith("radar-rl collect: limit="))
    assert line == "radar-rl collect: limit=none: limit: expected a whole number, got 'none'"
    assert "radar-rl collect: 1 of 3 jobs failed, the others are done" in errors.splitlines()


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        pytest.param(["hydra/launcher=submitit_local"], marks=pytest.mark.slow),
    ],
    ids=["joblib", "submitit"],
)
def test_on_other_processes(collect: Collect, tmp_path: Path, launcher: list[str]) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher[0].partition('=')[2].partition('_')[0]}_launcher")
    code, _, errors = ended(collect("limit=1,none,2", *launcher))
    check_one_failed(code, errors)
    assert [len(texts(tmp_path / "out" / name)) for name in ("1", "2")] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"target", "draft", "prompts.jsonl", "out", "runs"}
    if "joblib" in launcher[0]:  # the terminal is shared: every line says whose it is
        assert "limit=2: texts written and traced: 4/4" in errors


@pytest.mark.slow
def test_on_a_ray_cluster(collect: Collect, tmp_path: Path, ray_cluster: RayCluster) -> None:
    ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray_cluster.address}"]
    code, printed, errors = ended(collect("limit=1,none,2", *ray, environment=ray_cluster.environment))
    check_one_failed(code, errors)
    assert [len(texts(tmp_path / "out" / name)) for name in ("1", "2")] == [1, 2]
    assert "limit=2: texts written and traced: 4/4" in printed + errors


def test_shards_side_by_side_are_one_data_set(collect: Collect, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["limit=20", "shard=0,1,2", "shards=3", "out=out/20", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    code, _, errors = ended(collect(*sweep))
    assert code == 0, errors
    assert len(list((tmp_path / "out/20").glob("manifest-*-of-00003.json"))) == 3
    assert load_trace(tmp_path / "out/20").sequences.sequence_id == [f"prompts/p{i}/0/0" for i in range(20)]
    assert DataSet.read(tmp_path / "out/20").complete


def test_a_shard_whose_worker_dies_is_named_and_done_when_the_sweep_runs_again(
    collect: Collect, tmp_path: Path, ray_cluster: RayCluster
) -> None:
    sweep = [
        f"limit={LONG}",
        "shard=0,1",
        "shards=2",
        "hydra/launcher=ray",
        f"hydra.launcher.ray.init.address={ray_cluster.address}",
        "hydra.launcher.ray.remote.max_retries=0",
    ]
    first = collect(*sweep, environment=ray_cluster.environment)
    folder = tmp_path / "out" / str(LONG)
    while not (list(folder.glob("trace/part-*[13579].parquet")) and ray_cluster.workers("job 1")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    for worker in ray_cluster.workers("job 1"):
        worker.kill()
    code, _, errors = ended(first)
    assert code == 2, errors
    assert "\nradar-rl collect: shard=1: its worker died" in errors
    parts = set(DataSet.read(folder).parts)
    assert {part_name(number) for number in range(0, LONG // 4, 2)} <= parts  # the other shard is done
    assert len(parts) < LONG / 4

    code, _, errors = ended(collect(*sweep, environment=ray_cluster.environment))
    assert code == 0, errors
    assert load_trace(folder).sequences.sequence_id == [f"prompts/p{i}/0/0" for i in range(LONG)]
    code, _, errors = ended(collect(f"limit={LONG}", "out=out/alone"))
    assert code == 0, errors
    for kind in ("sequences", "trace"):
        alone = pl.read_parquet(tmp_path / "out/alone" / kind / "*.parquet")
        assert alone.equals(pl.read_parquet(folder / kind / "*.parquet"))


def test_a_killed_sweep_of_trainings_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_collection(tmp_path / "traces", make_trace(prompts=12, new_tokens=30))
    small = ["traces=traces", "hardware=pocket_cpu", "steps=20", "batch_size=32", "out=runs/sweep"]
    sweep = ["train", "-m", "algo=bc,cql", "behaviour=uniform,full", "seed=0", *small]
    fitted: list[str] = []
    fit_policy = train.fit_policy

    def killed_at_the_third(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
        fitted.append(settings["name"])
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return fit_policy(data, settings, training)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "fit_policy", killed_at_the_third)
    assert cli.main(sweep) == 130
    assert pl.read_parquet("runs/sweep/results.parquet")["folder"].to_list() == [
        "algo-bc_behaviour-full",
        "algo-bc_behaviour-uniform",
    ]
    capsys.readouterr()
    assert cli.main(sweep) == 0
    assert capsys.readouterr().out.count("trained already") == 2
    assert fitted == ["bc", "bc", "cql", "cql", "cql"]
    results = pl.read_parquet("runs/sweep/results.parquet")
    assert results["algorithm"].to_list() == ["bc", "bc", "cql", "cql"]
    assert results["behaviour"].to_list() == ["full", "uniform"] * 2
    assert results["seed"].to_list() == [0] * 4


def test_optuna_looks_for_the_largest_gain_and_a_killed_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    tried: list[tuple[float, str]] = []

    def told(verb: str, values: dict[str, Any], *_: object) -> dict[str, float]:
        alpha = values["algo"]["alpha"]
        tried.append((alpha, values["out"]))
        if len(tried) == 5:
            raise KeyboardInterrupt
        if len(tried) == 7:
            raise InputError("no luck")
        return {"validation_gain": -abs(alpha - 0.3)}

    monkeypatch.setattr(cli, "call", told)
    sweep = ["train", "-m", "+sweep=optuna_cql", "traces=x", "out=runs/study", "hydra.sweeper.n_trials=8"]
    assert cli.main(sweep) == 130
    assert cli.main(sweep) == 2
    assert capsys.readouterr().err.endswith("radar-rl train: 1 of 4 jobs failed, the others are done\n")
    alphas, folders = zip(*tried, strict=True)
    assert alphas[5] == alphas[4]  # what was under way when it was killed
    assert folders[5] == folders[4]
    assert len(set(alphas)) == len(tried) - 1 == 8
    assert all(0.003 <= alpha <= 1.0 for alpha in alphas)
    assert all(folder.startswith("runs/study/algo.alpha-0") for folder in folders)
    assert cli.main(sweep) == 0  # what failed is made up for
    assert len(tried) == 10
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("runs/study/study.log"))
    (study,) = optuna.get_all_study_summaries(storage=storage)
    best = min((alpha for i, alpha in enumerate(alphas) if i not in (4, 6)), key=lambda alpha: abs(alpha - 0.3))
    assert study.best_trial.params["algo.alpha"] == pytest.approx(best) or abs(tried[-1][0] - 0.3) < abs(best - 0.3)


def test_a_study_of_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "call", lambda *_: {"validation_gain": None})
    study = ["train", "-m", "hydra/sweeper=optuna", "traces=x", "out=runs/x", "hydra.sweeper.n_trials=1"]
    assert cli.main(study) == 2
    assert "nothing varies" in capsys.readouterr().err
    assert cli.main([*study, "seed=range(0,9)"]) == 2
    assert "it tells nothing to maximise; train does with validation=0.2" in capsys.readouterr().err


def test_no_cluster_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")

    def init(**arguments: object) -> None:
        raise ConnectionError(f"nobody at\n{arguments['address']}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", init)
    address = "hydra.launcher.ray.init.address=h:1"
    assert cli.main(["convert", "-m", "source=x", "to=specforge", "out=y", "hydra/launcher=ray", address]) == 2
    assert capsys.readouterr().err == "radar-rl convert: no Ray cluster at h:1: nobody at h:1\n"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("out=s3://b/x?endpoint_override=h:1&scheme=http", 'out="s3://b/x?endpoint_override=h:1&scheme=http"'),
        ("traces=s3://a?x=1,s3://b?x=2", 'traces="s3://a?x=1","s3://b?x=2"'),
        ("runs=[s3://a?x=1&y=2,b]", 'runs=["s3://a?x=1&y=2",b]'),
        ("out=s3://b/${seed}?x=1", 'out="s3://b/${seed}?x=1"'),
        ("hardware=s3://b?x=1", '++hardware.plain="s3://b?x=1"'),
        ('out="s3://b?x=1,2"', 'out="s3://b?x=1,2"'),
        ("out=a/b", "out=a/b"),
    ],
)
def test_uris_need_no_quotes(written: str, read: str) -> None:
    assert settings.overrides([written]) == [read]


def test_an_object_store_as_pyarrow_sees_it(object_store: str) -> None:
    """What storage may rely on, and what it must not: a stream that is left by an error publishes what it has."""
    filesystem, root = FileSystem.from_uri(object_store)
    table = pa.table({"number": [1, 2, 3]})
    pq.write_table(table, f"{root}/a/b.parquet", filesystem=filesystem)
    assert pq.read_table(f"{root}/a/b.parquet", filesystem=filesystem).equals(table)
    kinds = {info.base_name: info.type for info in filesystem.get_file_info([root, f"{root}/a/b.parquet", f"{root}/c"])}
    assert kinds == {"prefix": FileType.Directory, "b.parquet": FileType.File, "c": FileType.NotFound}

    stream = filesystem.open_output_stream(f"{root}/late")
    stream.write(b"first")
    assert filesystem.get_file_info(f"{root}/late").type == FileType.NotFound
    stream.close()
    assert filesystem.get_file_info(f"{root}/late").size == 5

    def interrupted() -> None:
        with filesystem.open_output_stream(f"{root}/half") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert filesystem.get_file_info(f"{root}/half").type == FileType.File

    filesystem.move(f"{root}/late", f"{root}/half")  # a copy onto it, then a deletion
    with filesystem.open_input_stream(f"{root}/half") as read:
        assert read.read() == b"first"
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_file(f"{root}/late")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        pq.write_table(table, "elsewhere/x.parquet", filesystem=filesystem)
