import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from synthetic_trace import make_trace, write_collection

import radar_rl.rollouts.rollout as module
from radar_rl.envs import DraftTreeReplayEnv
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies import CONTINUE, STOP, ObservationSpec, States
from radar_rl.rollouts import ReplayTexts, Trace, held_out, load_rollouts, load_trace, rollout_settings, trace_settings
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.manifest import DataSet, Manifest
from radar_rl.rollouts.rollout import rollout
from radar_rl.rollouts.storage import Store
from radar_rl.runtime.artifact import save_policy
from radar_rl.runtime.profiler import random_network
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.state import DraftState

MODEL = {"name": "none", "target": "nowhere", "draft": "nowhere", "dtype": "float32", "device": "cpu"}
THROUGHPUT = {"kind": "throughput", "rate": None}
MEASURED = ["draft_seconds", "verify_seconds", "decide_seconds"]


def replay(out: Path, collection: Path, policy: str = "random:0.7", **changed: Any) -> pl.DataFrame:
    settings: dict[str, Any] = {
        "model": MODEL,
        "reward": THROUGHPUT,
        "hardware": "pocket_cpu",
        "tasks": [],
        "task": {"path": None},
    }
    return load_rollouts(
        rollout(**{"out": str(out), "env": "replay", "policy": policy, "traces": str(collection)} | settings | changed)
    )


def test_every_transition_is_logged(tmp_path: Path, collection: Path, trace: Trace) -> None:
    rows = replay(tmp_path / "out", collection, "threshold:0.3")
    text = trace.sequences
    assert rows["episode"].unique().sort().to_list() == list(range(10))
    emitted = rows.group_by("episode", maintain_order=True).agg(pl.col("emitted").sum())["emitted"].to_numpy()
    np.testing.assert_array_equal(emitted, text.length - text.prompt_length - 1)
    assert rows.filter("terminated").group_by("episode").len()["len"].to_list() == [1] * 10
    stops = rows.filter(pl.col("action") == 0)
    expected = trace.accepted[
        [
            np.flatnonzero((trace.sequence == e) & (trace.position == p))[0]
            for e, p in stops.select("episode", "position").rows()
        ],
        stops["depth"].to_numpy() - 1,
    ]
    np.testing.assert_array_equal(stops["accepted"].to_numpy(), expected)
    settings = rollout_settings(tmp_path / "out")
    spec = ObservationSpec.from_json(settings["spec"])
    assert rows.schema["observation"] == pl.Array(pl.Float32, spec.size)
    rate = settings["reward"]["rate"]
    seconds = rows.select(pl.sum_horizontal(MEASURED).sum()).item() + len(stops) * settings["hardware"]["rest_seconds"]
    assert rows["reward"].sum() == pytest.approx(rows["emitted"].sum() - rate * seconds)


def test_censored_rows_are_the_traced_ones(tmp_path: Path, collection: Path, trace: Trace) -> None:
    rows = replay(tmp_path / "out", collection, "static:1")
    flags = {(s, p): c for s, p, c in zip(trace.sequence, trace.position, trace.censored, strict=True)}
    logged = rows.select("episode", "position", "censored").rows()
    assert any(flags.values())
    assert all(flags[episode, position] == censored for episode, position, censored in logged)


def test_a_rollout_repeats_and_is_not_made_twice(tmp_path: Path, collection: Path, capsys: Any) -> None:
    one = replay(tmp_path / "one", collection)
    assert one.equals(replay(tmp_path / "other", collection))
    capsys.readouterr()
    assert one.equals(replay(tmp_path / "one", collection))
    assert "there already" in capsys.readouterr().out
    with pytest.raises(TraceError, match=r"policy: 'random:0\.7' there"):
        replay(tmp_path / "one", collection, "random:0.5")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cut", ["write_parquet", "finish"])
def test_an_interrupted_rollout_goes_on(
    tmp_path: Path, collection: Path, monkeypatch: pytest.MonkeyPatch, cut: str, batch: int
) -> None:
    monkeypatch.setattr(module, "TEXTS_PER_PART", 3)
    whole = replay(tmp_path / "whole", collection, batch=batch)
    assert len(list((tmp_path / "whole" / "rollouts").iterdir())) == 4
    holder: Any = Store if cut == "write_parquet" else Manifest
    original, calls, acted = getattr(holder, cut), [], []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(holder, cut, killed)
        with pytest.raises(KeyboardInterrupt):
            replay(tmp_path / "cut", collection, batch=batch)
    with pytest.raises(TraceError, match="not finished"):
        load_rollouts(tmp_path / "cut")
    done = replay(tmp_path / "cut", collection, batch=batch, episodes=2)  # all that is asked for now is there
    assert done.equals(whole.filter(pl.col("episode") < 6))
    opened = ReplayTexts.open
    monkeypatch.setattr(ReplayTexts, "open", lambda texts, index: acted.append(index) or opened(texts, index))
    assert replay(tmp_path / "cut", collection, batch=batch).equals(whole)
    assert acted == [6, 7, 8, 9]  # the finished parts were not made again


KILLED = """
import json, os, signal, sys
import radar_rl.rollouts.rollout as module

left, written = int(sys.argv[1]), os.fsync

def fsync(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    written(descriptor)

os.fsync = fsync
module.TEXTS_PER_PART = 2
module.rollout(**json.loads(sys.argv[2]))
"""


def test_killed_again_and_again_nothing_is_lost_or_doubled(tmp_path: Path, collection: Path) -> None:
    settings: dict[str, Any] = {"env": "replay", "policy": "random:0.7", "traces": str(collection), "model": MODEL}
    settings |= {"reward": THROUGHPUT, "hardware": "pocket_cpu", "tasks": [], "task": {"path": None}}
    out = {"out": str(tmp_path / "cut")}
    for point in (2, 7, 4):
        command = [sys.executable, "-c", KILLED, str(point), json.dumps(settings | out)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    whole = load_rollouts(rollout(out=str(tmp_path / "whole"), **settings))
    assert load_rollouts(rollout(**settings | out)).equals(whole)


def test_more_of_it_is_added(tmp_path: Path, collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = replay(tmp_path / "out", collection, episodes=4)
    more = replay(tmp_path / "out", collection, episodes=13)
    assert more.head(len(few)).equals(few)
    assert more.equals(replay(tmp_path / "at once", collection, episodes=13))
    capsys.readouterr()
    assert replay(tmp_path / "out", collection, episodes=2).equals(more)
    assert "there already" in capsys.readouterr().out
    for changed in ({"max_depth": 3}, {"batch": 2}, {"seed": 1}, {"reward": {"kind": "linear"}}):
        with pytest.raises(TraceError, match="other settings"):
            replay(tmp_path / "out", collection, episodes=13, **changed)


def test_another_text_of_the_same_name_is_refused(tmp_path: Path, collection: Path) -> None:
    replay(tmp_path / "out", collection, episodes=4)
    other = write_collection(tmp_path / "other", make_trace(prompts=10, new_tokens=20, seed=4))
    with pytest.raises(TraceError, match=r"first/p0/0/0 was another text"):
        replay(tmp_path / "out", other)


def test_a_trace_of_other_prompts_is_refused_whatever_their_lengths(tmp_path: Path, trace: Trace) -> None:
    folders = [write_collection(tmp_path / name, trace) for name in ("one", "other")]
    manifest = folders[1] / "manifest-00000-of-00001.json"
    values = json.loads(manifest.read_text())
    values["settings"]["works_digest"] = "of other prompts"
    manifest.write_text(json.dumps(values))
    replay(tmp_path / "out", folders[0], episodes=4)
    with pytest.raises(TraceError, match="the prompts are others"):
        replay(tmp_path / "out", folders[1], episodes=8)


class Counting:
    """A policy that remembers: text by text it drafts deeper."""

    name, pays_decisions, asks_from, remembers = "counting", False, 1, True
    texts = 0

    def begin_sequence(self, text: str | None = None) -> None:
        self.texts += 1

    def act(self, state: DraftState) -> int:
        return CONTINUE if state.depth < self.texts else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        pass


def test_a_policy_that_remembers_starts_again(
    tmp_path: Path, collection: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "policy_from_string", lambda text, seed: Counting())
    few = replay(tmp_path / "out", collection, "counting", episodes=3)
    assert few.group_by("episode", maintain_order=True).agg(pl.col("depth").max())["depth"].to_list() == [1, 2, 3]
    more = replay(tmp_path / "out", collection, "counting", episodes=6)
    assert "remembers earlier texts" in capsys.readouterr().out
    assert more.group_by("episode", maintain_order=True).agg(pl.col("depth").max())["depth"].to_list() == [*range(1, 7)]
    monkeypatch.setattr(Counting, "remembers", False)  # each text then has a copy as it came
    alone = replay(tmp_path / "alone", collection, "counting", episodes=6)
    assert alone["depth"].max() == 1


def test_a_policy_that_learns_from_text_to_text_takes_them_one_by_one(tmp_path: Path, collection: Path) -> None:
    with pytest.raises(ConfigError, match="batch=1, got 2"):
        replay(tmp_path / "out", collection, "tapout:static:2+joint:0.4", batch=2)
    assert replay(tmp_path / "out", collection, "tapout:static:2+joint:0.4")["depth"].max() > 2


@pytest.mark.parametrize("policy", ["static:3", "threshold:0.3", "random:0.7", "plus-two:2", "exp3spec:8,scale=3"])
def test_texts_side_by_side_are_logged_as_they_are_alone(tmp_path: Path, collection: Path, policy: str) -> None:
    alone = replay(tmp_path / "alone", collection, policy)
    beside = replay(tmp_path / "beside", collection, policy, batch=4)
    assert alone.drop("batch").equals(beside.drop("batch"))
    assert alone["batch"].to_list() == alone["episode"].to_list()
    assert beside["batch"].to_list() == [4 * (episode // 4) for episode in beside["episode"]]


def test_the_environment_and_the_log_are_one_decision_problem(tmp_path: Path, collection: Path) -> None:
    rows = replay(tmp_path / "out", collection, "random:0.6", batch=3)
    env = DraftTreeReplayEnv(load_trace(collection), hardware="pocket_cpu")
    for _, episode in rows.group_by("episode", maintain_order=True):
        observation, info = env.reset(options={"text": episode["episode"][0]})
        for row in episode.iter_rows(named=True):
            assert (row["position"], row["observation"]) == (info["position"], observation.tolist())
            observation, reward, terminated, _, info = env.step(row["action"])
            assert (row["reward"], row["terminated"]) == (reward, terminated)
            assert (row["accepted"], row["emitted"]) == (info["accepted"], info["emitted"])
        assert terminated


def test_subsets_and_episodes(tmp_path: Path, collection: Path, trace: Trace) -> None:
    names = trace.sequences.prompt_id
    held = [name for name, kept in zip(names, held_out(names, 0.5), strict=True) if kept]
    rest = [name for name in names if name not in held]
    for subset, expected in (("held_out", held), ("train", rest)):
        rows = replay(tmp_path / subset, collection, subset=subset, held_out=0.5)
        assert rows["prompt_id"].unique(maintain_order=True).to_list() == expected
    around = replay(tmp_path / "around", collection, episodes=12).group_by("episode", maintain_order=True)
    assert around.agg(pl.col("prompt_id").first())["prompt_id"].to_list() == [*names, *names[:2]]
    with pytest.raises(InputError, match="none of 10 prompts"):
        replay(tmp_path / "none", collection, subset="held_out", held_out=0.0)


def test_bad_arguments_are_named(tmp_path: Path, collection: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="static:DEPTH"):
        replay(out, collection, "always")
    with pytest.raises(TraceError, match="top_k=10, expected 8"):
        replay(out, collection, top_k=8)
    for name in ("episodes", "batch", "samples"):
        with pytest.raises(ConfigError, match=name):
            replay(out, collection, **{name: 0})
    with pytest.raises(ConfigError, match="set a temperature"):
        replay(out, collection, env="live", samples=2)
    with pytest.raises(ConfigError, match="traces=DIR"):
        rollout(
            out=str(out),
            env="replay",
            policy="static:8",
            model=MODEL,
            reward=THROUGHPUT,
            tasks=[],
            task={},
            traces=None,
        )
    assert not (out / "rollouts").exists()


QUESTIONS = [
    {"id": "s0", "turns": ["Name three colours.", "Why these?"]},
    {"id": "s1", "prompt": "Question: Tom has 3 boxes with 12 pens each. How many pens?\nAnswer:"},
    {"id": "s2", "turns": ["What is bread made of?", "How long does it rise?", "And then?"]},
    {"id": "s3", "prompt": "Write a Python function that doubles a number."},
]


@pytest.fixture(scope="module", params=[0.0, 1.0])
def collected(
    model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """What a live rollout and a collection of the same texts are told, conversations among them; and the collection."""
    folder = tmp_path_factory.mktemp("collected")
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    shared: dict[str, Any] = {
        "model": model,
        "tasks": [],
        "task": {"path": str(folder / "sums.jsonl")},
        "temperature": request.param,
        "max_new_tokens": 24,
    }
    traces = collect(out=str(folder / "traces"), features=["entropy", "log_probs"], **shared)
    return {"reward": THROUGHPUT, "hardware": "pocket_cpu", "traces": str(traces)} | shared


SEES = ObservationSpec(features=("depth", "entropy", "log_probs", "confidences", "history"), newest=2)


def learned(folder: Path, spec: ObservationSpec) -> str:
    """The folder of a network of random weights that decides both ways."""
    policy = random_network(spec, "net", 0, (64, 64))
    trace = load_trace(folder / "traces", features=["entropy", "log_probs"])
    seen, depth = np.repeat(trace.confidences, 3, axis=0), np.tile([1, 2, 3], len(trace))
    features = {name: np.repeat(values, 3, axis=0) for name, values in trace.features.items()}
    features["history"] = np.zeros((len(depth), *FEATURES["history"].shape(max_depth=8, top_k=10, feature_dim=0)))
    stop, go = policy.outputs(States(seen, depth, {name: features[name] for name in spec.looks_at})).T
    policy.layers[-1] = (policy.layers[-1][0], np.array([np.median(go - stop), 0.0], dtype=np.float32))
    made_by = trace_settings(folder / "traces")
    save_policy(folder / "learned", policy, {"target": made_by.target, "draft": made_by.draft})
    return str(folder / "learned")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("policy", ["static:3", "threshold:0.3", "random:0.7", "learned", "sees"])
def test_live_and_replay_log_the_same_rows(collected: dict[str, Any], tmp_path: Path, policy: str, batch: int) -> None:
    settings = {"policy": policy, "batch": batch} | collected
    spec = SEES if policy == "sees" else ObservationSpec()
    if policy in ("learned", "sees"):
        settings["policy"] = learned(Path(collected["traces"]).parent, spec)
    live = load_rollouts(rollout(out=str(tmp_path / "live"), env="live", **settings))
    replayed = load_rollouts(rollout(out=str(tmp_path / "replay"), env="replay", **settings))
    assert live["sequence_id"].unique(maintain_order=True).to_list() == [
        *("sums/s0/0/0", "sums/s0/0/1", "sums/s1/0/0", "sums/s2/0/0", "sums/s2/0/1", "sums/s2/0/2", "sums/s3/0/0")
    ]
    if policy != "static:3":
        assert live.filter(pl.col("depth") < 8)["action"].n_unique() == 2
    assert live.drop(*MEASURED, "observation").equals(replayed.drop(*MEASURED, "observation"))
    seen, again = live["observation"].to_numpy(), replayed["observation"].to_numpy()
    # A log-probability between two float16 numbers may round either way in forwards of different shapes, which differ
    # by about 1e-6 where those are 2e-3 apart.
    bits, others = (values.astype(np.float16).view(np.int16).astype(np.int32) for values in (seen, again))
    assert np.abs(bits - others).max() <= 1
    assert (seen != again).mean() < 5e-3
    for env in ("live", "replay"):  # what the policy looks at is what is logged
        assert ObservationSpec.from_json(rollout_settings(tmp_path / env)["spec"]) == spec
    assert seen.shape[1] == spec.size
    for rows in (live, replayed):
        assert (rows["draft_seconds"] > 0).all()
        assert ((rows["verify_seconds"] > 0) == (rows["emitted"] > 0)).all()
        assert (
            (rows["decide_seconds"] > 0) == ((policy in ("threshold:0.3", "learned", "sees")) & (rows["depth"] < 8))
        ).all()
    assert live["draft_seconds"].n_unique() > replayed["draft_seconds"].n_unique()
    shared = live.filter(pl.col("action") == STOP).group_by("batch", "round")
    assert shared.agg(pl.col("draft_seconds").n_unique())["draft_seconds"].max() == 1
    assert shared.agg(pl.col("verify_seconds").n_unique())["verify_seconds"].max() == 1


def test_a_live_rollout_of_more_prompts_adds_what_is_missing(collected: dict[str, Any], tmp_path: Path) -> None:
    settings = {"policy": "random:0.7", "env": "live", "batch": 2} | collected
    rollout(out=str(tmp_path / "grown"), limit=2, **settings)
    grown = load_rollouts(rollout(out=str(tmp_path / "grown"), **settings))
    whole = load_rollouts(rollout(out=str(tmp_path / "whole"), **settings))
    assert grown.drop(*MEASURED, "observation", "batch").equals(whole.drop(*MEASURED, "observation", "batch"))


def test_prompts_that_do_not_fit_are_listed(
    collected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": "long", "prompt": "many words " * 3000}, QUESTIONS[1]]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = collected | {"task": {"path": str(tmp_path / "sums.jsonl")}, "env": "live", "policy": "static:2"}
    out = rollout(out=str(tmp_path / "out"), **settings)
    assert load_rollouts(out)["prompt_id"].unique().to_list() == ["s1"]
    assert "1 texts skipped as too long" in capsys.readouterr().out
    (entry,) = DataSet.read(out, "rollouts").parts.values()
    assert [(one["prompt_id"], one["turn"]) for one in entry["skipped"]] == [("long", 0)]
    assert "exceed the context" in entry["skipped"][0]["reason"]
