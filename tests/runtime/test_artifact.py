"""The exported policy: what is written comes back; what was damaged is named."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from recurrent_weights import make_weights
from safetensors.numpy import load, save

from radar_rl.errors import ArtifactError, ConfigError, InputError
from radar_rl.policies import (
    AcceptanceAverage,
    AdaEdl,
    ConfidenceThreshold,
    EntropyBound,
    Exp3Spec,
    ExpectedGain,
    JointConfidence,
    LearnedPolicy,
    MinProbability,
    ObservationSpec,
    PlusTwo,
    Policy,
    RadarPolicy,
    RandomStop,
    SampledRadar,
    States,
    StaticDepth,
    Svip,
    TapOut,
    UcbSpec,
)
from radar_rl.runtime import load_artifact, load_policy, save_policy
from radar_rl.runtime.artifact import read_config
from radar_rl.runtime.export import export
from radar_rl.runtime.kinds import KINDS, Kind
from radar_rl.runtime.named import policy_from_string

SPEC = ObservationSpec(max_depth=3, top_k=2)


def learned() -> LearnedPolicy:
    generator = np.random.default_rng(0)
    layers = [(generator.normal(size=(2, SPEC.size)).astype(np.float32), np.zeros(2, np.float32))]
    return LearnedPolicy("cql", SPEC, layers)


RULES = [
    StaticDepth(3),
    ConfidenceThreshold(0.4),
    JointConfidence(0.6),
    MinProbability(0.2),
    Svip(1.5),
    EntropyBound(0.4, 0.3),
    ExpectedGain(123.4, (0.1, 0.2)),
    AdaEdl(0.4, target=0.8),
    PlusTwo(4, 6),
    AcceptanceAverage(3, (1, 3), up=0.5),
    UcbSpec(2, 0.2, 0.5, (0.1, 0.2)),
    Exp3Spec(4, 2.0, 9),
    TapOut((StaticDepth(2), Svip(0.5), ExpectedGain(9.0, (0.1,)))),
    RandomStop(0.3, 7),
]


@pytest.mark.parametrize("policy", [learned(), *RULES], ids=lambda policy: policy.name)
def test_every_kind_of_policy_comes_back_as_it_was(policy: Policy, tmp_path: Path) -> None:
    save_policy(tmp_path / "run", policy, {"target": "a@1", "best_static_depth": 2, "max_depth": 3})
    export(run=str(tmp_path / "run"), out=str(tmp_path / "out"))
    again = load_policy(tmp_path / "out")
    assert type(again) is type(policy)
    assert again.name == policy.name
    assert read_config(tmp_path / "out")["target"] == "a@1"
    if not isinstance(policy, LearnedPolicy):
        assert again == policy  # every parameter
    if isinstance(policy, LearnedPolicy) and isinstance(again, LearnedPolicy):
        confidences = np.random.default_rng(1).normal(size=(9, 3, 2)).astype(np.float16)
        depth = np.full(9, 2)
        assert np.array_equal(policy.outputs(States(confidences, depth)), again.outputs(States(confidences, depth)))


@dataclass
class Outsider(StaticDepth):
    """A rule of somebody else's package."""


def test_a_kind_registered_from_outside_is_named_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="no exported form"):
        save_policy(tmp_path, Outsider(2), {})
    monkeypatch.setitem(KINDS, "outsider", Kind(Outsider, "depth", "outsider:DEPTH"))
    save_policy(tmp_path, policy_from_string("outsider:2"), {})
    assert load_policy(tmp_path) == Outsider(2)
    with pytest.raises(ConfigError, match="outsider:DEPTH"):
        policy_from_string("nothing:1")


def sign(folder: Path, tensors: dict[str, np.ndarray], **edit: object) -> Path:
    """An artifact whose weights are others, with their hash: what only a look at the tensors finds."""
    weights = save(tensors)
    (folder / "policy.safetensors").write_bytes(weights)
    values = json.loads((folder / "config.json").read_text())
    values |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), **edit}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 99}, "version 99; this radar-rl reads version 1"),
        ({"format_version": 1.0}, r"version 1\.0; this radar-rl reads version 1"),
        ({"format_version": True}, "version True; this radar-rl reads version 1"),
        ({"kind": "surprise"}, "unknown kind of policy 'surprise'; valid: learned, radar"),
        ({"kind": ["learned"]}, "unknown kind of policy"),
        ({"observation": SPEC.to_json() | {"top_k": 5}}, r"hash: expected \w+, got \w+"),
        ({"observation": {"top_k": 5}}, "damaged policy: observation: features: expected a list of names"),
        ({"observation": SPEC.to_json() | {"floor": "low"}}, "observation: floor: expected a finite number, got 'low'"),
        ({"observation": SPEC.to_json() | {"max_depth": 10**9}}, "max_depth: expected a whole number in 1 … 4096"),
        ({"observation": SPEC.to_json() | {"features": [1]}}, "features: expected a list of names"),
        ({"observation_hash": None}, "observation_hash: expected a text, got None"),
        ({"weights_sha256": "0"}, "not the file .*expected sha256 0…, got"),
        ({"parameters": 3}, "parameters: expected a mapping, got 3"),
        ({"parameters": {"asks_from": 99}}, "asks_from: expected 1 … 3, got 99"),
        ({"parameters": {"asks_from": "1"}}, "asks_from: expected a whole number"),
        ({"parameters": {"surprise": 1}}, "unexpected .'surprise'."),
        ({"surprise": 1}, "unexpected .'surprise'."),
        ({"max_depth": 0}, "max_depth: expected a whole number in 1 … 4096, got 0"),
        ({"top_k": "x"}, "top_k: expected a whole number in 1 … 4096, got 'x'"),
        ({"best_static_depth": True}, "best_static_depth: expected a whole number"),
        ({"target": 7}, "target: expected a text, got 7"),
        ({"name": None}, "name: expected a name, printable and without path separators, got None"),
        ({"name": "../cql"}, r"name: expected a name, printable and without path separators, got '\.\./cql'"),
        ({"name": "c:\\cql"}, "without path separators"),
        ({"name": "cql\x1b[2J"}, "name: expected a name, printable"),
        ({"name": "a\nb"}, "name: expected a name, printable"),
        ({"name": " "}, "name: expected a name"),
        ({"max_depth": 8}, "max_depth: the policy observes drafts of 3, the config says 8"),
        ({"top_k": 10}, "top_k: the policy observes drafts of 2, the config says 10"),
        ({"best_static_depth": 99}, r"best_static_depth: expected at most 3 \(max_depth\), got 99"),
    ],
)
def test_damage_of_the_config_is_named(edit: dict[str, object], message: str, tmp_path: Path) -> None:
    save_policy(tmp_path, learned(), {})
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | edit))
    with pytest.raises(ArtifactError, match=message) as raised:
        load_policy(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("policy", "edit", "message"),
    [
        (ConfidenceThreshold(0.4), {"threshold": "0.4"}, "threshold: expected a finite number, got '0.4'"),
        (ConfidenceThreshold(0.4), {"threshold": 1.5}, r"expected a probability in \[0, 1\]"),
        (ConfidenceThreshold(0.4), {"asks_from": 0}, "asks_from: expected at least 1"),
        (StaticDepth(3), {"depth": 2.5}, "depth: expected a whole number"),
        (StaticDepth(3), {"depth": True}, "depth: expected a whole number"),
        (UcbSpec(2), {"max_depth": 10**9}, "max_depth: expected a whole number of at most 4096"),
        (UcbSpec(2), {"seconds": [0.1, "x"]}, r"seconds\[1\]: expected a finite number"),
        (TapOut((StaticDepth(2),)), {"rules": [{"kind": "tapout", "parameters": {}}]}, "memoryless rule"),
        (TapOut((StaticDepth(2),)), {"rules": [{"kind": "static", "parameters": {"depth": 0}}]}, "at least 1"),
        (TapOut((StaticDepth(2),)), {"across": 1}, "across: expected true or false"),
    ],
)
def test_parameters_of_rules_are_checked(policy: Policy, edit: dict[str, object], message: str, tmp_path: Path) -> None:
    save_policy(tmp_path, policy, {})
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"parameters": values["parameters"] | edit}))
    with pytest.raises(ArtifactError, match=message):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"parameters": {}}))
    with pytest.raises(ArtifactError, match="missing"):
        load_policy(tmp_path)


def test_what_contradicts_itself_is_neither_written_nor_read(tmp_path: Path) -> None:
    radar = RadarPolicy("radar", make_weights(top_k=4, hidden=5, inner=6))
    wrong: list[tuple[Policy, dict[str, int], str]] = [
        (learned(), {"max_depth": 4}, "max_depth: the policy observes drafts of 3, the config says 4"),
        (learned(), {"best_static_depth": 4}, "best_static_depth: expected at most 3"),
        (radar, {"top_k": 10}, "top_k: the policy observes drafts of 4, the config says 10"),
        (SampledRadar(radar), {"top_k": 10}, "top_k: the policy observes drafts of 4, the config says 10"),
        (StaticDepth(3), {"max_depth": 8, "best_static_depth": 99}, r"best_static_depth: expected at most 8 .* got 99"),
    ]
    for number, (policy, drafts, message) in enumerate(wrong):
        with pytest.raises(ArtifactError, match=message):
            save_policy(tmp_path / "never", policy, drafts)
        folder = tmp_path / str(number)
        save_policy(folder, policy, {})
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | drafts))
        with pytest.raises(ArtifactError, match=f"{folder}: damaged policy: {message}"):
            load_policy(folder)
    assert not (tmp_path / "never").exists()


def test_where_a_file_is_no_policy_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path / "mine.txt", tmp_path / "mine.txt" / "policy"):
        with pytest.raises(InputError, match=r"expected a folder to write to, .*mine\.txt is a file; name another one"):
            export(run="static:3", out=str(out))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_names_of_bandits_tell_them_apart(tmp_path: Path) -> None:
    names = {
        "ucbspec:8": "ucbspec-8",
        "ucbspec:4": "ucbspec-4",
        "ucbspec:4,scale=0.1,delta=0.2": "ucbspec-4-delta-0.2-scale-0.1",
        "ucbspec:2,seconds=0.1/0.2": "ucbspec-2-throughput",
        "exp3spec:4,scale=2": "exp3spec-4-scale-2",
        "tapout:static:4+joint:0.5,asks_from=2": "tapout-static-4+joint-0.5-from-2",
    }
    for number, (text, name) in enumerate(names.items()):
        export(run=text, out=str(tmp_path / str(number)))
        assert read_config(tmp_path / str(number))["name"] == load_policy(tmp_path / str(number)).name == name
    assert TapOut((StaticDepth(4),), blend=0.2, across=False).name == "tapout-static-4-blend-0.2-across-0"


def test_numbers_that_json_has_not_are_no_config(tmp_path: Path) -> None:
    save_policy(tmp_path, ConfidenceThreshold(0.5), {})
    text = (tmp_path / "config.json").read_text()
    for number in ("NaN", "Infinity", "1e999"):
        (tmp_path / "config.json").write_text(text.replace("0.5", number))
        with pytest.raises(ArtifactError, match="not JSON"):
            load_policy(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ArtifactError, match="not JSON"):
        load_policy(tmp_path)
    with pytest.raises(ArtifactError, match="JSON"):
        save_policy(tmp_path, ConfidenceThreshold(0.5), {"training": {"loss": float("nan")}})
    with pytest.raises(ArtifactError, match=r"unexpected \['note'\]"):
        save_policy(tmp_path, ConfidenceThreshold(0.5), {"note": "mine"})


def test_tensors_must_be_the_policys_own(tmp_path: Path) -> None:
    save_policy(tmp_path, learned(), {})
    good = load((tmp_path / "policy.safetensors").read_bytes())
    weight, bias = good["layers.0.weight"], good["layers.0.bias"]
    for tensors, message in (
        ({"layers.0.weight": weight}, r"missing \['layers.0.bias'\]"),
        ({}, "missing"),
        (good | {"layers.1.weight": weight}, r"unexpected \['layers.1.weight'\]"),
        (good | {"layers.0.weight": weight[:, 1:]}, "do not lead from 7 numbers to 2 actions"),
        (good | {"layers.0.bias": np.float32(1) + bias[:, None]}, "a matrix and a vector"),
        (good | {"layers.0.bias": bias * np.float32(np.nan)}, "layers.0.bias: weights are not finite"),
        (good | {"layers.0.bias": bias.astype(np.float64)}, "layers.0.bias: expected float32, got float64"),
    ):
        with pytest.raises(ArtifactError, match=message):
            load_policy(sign(tmp_path, tensors))
    save_policy(tmp_path, StaticDepth(3), {})
    with pytest.raises(ArtifactError, match=r"of a rule: unexpected \['surprise'\]$"):
        load_policy(sign(tmp_path, {"surprise": bias}))


def test_files_that_lack_or_are_cut_are_named(tmp_path: Path) -> None:
    save_policy(tmp_path, learned(), {})
    weights = tmp_path / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not the file"):
        load_policy(tmp_path)
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"no policy\.safetensors"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        load_policy(tmp_path)
    with pytest.raises(ArtifactError, match="no policy at"):
        load_policy(tmp_path / "nowhere")


def test_what_is_known_of_a_run_is_exported(tmp_path: Path) -> None:
    about = {"arguments": {"seed": 5}, "split": {"held_out": 0.2}, "data_hash": "d", "rate": 9.0}
    save_policy(tmp_path / "run", learned(), {"training": about, "max_depth": 3, "tree_size": 8})
    record = {"argv": ["train"], "versions": {"torch": "2"}, "commit": "c", "arguments": {"seed": 5}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"validation_gain": 0.1}))
    export(run=str(tmp_path / "run"), out=str(tmp_path / "out"), evaluation={"held_out": [{"task": "all"}]})
    artifact = load_artifact(tmp_path / "out")
    assert artifact.about["training"] == about | {key: record[key] for key in ("argv", "versions", "commit")} | {
        "seed": 5
    }
    assert artifact.about["evaluation"] == {"validation_gain": 0.1, "held_out": [{"task": "all"}]}
    assert artifact.about["tree_size"] == 8
    export(run=str(tmp_path / "out"), out=str(tmp_path / "again"))  # nothing is lost on the way
    assert load_artifact(tmp_path / "again").about == artifact.about
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"run\.json: expected the record of a run, got list"):
        export(run=str(tmp_path / "run"), out=str(tmp_path / "out"))


def test_rules_are_exported_by_name_and_radars_files_by_path(tmp_path: Path) -> None:
    export(run="threshold:0.3,asks_from=2", out=str(tmp_path / "rule"))
    assert load_policy(tmp_path / "rule") == ConfidenceThreshold(0.3, asks_from=2)
    weights = make_weights(top_k=4, hidden=5, inner=6)
    torch.save({name: torch.from_numpy(values) for name, values in weights.items()}, tmp_path / "mine.pt")
    export(run=f"sampled:{tmp_path / 'mine.pt'}", out=str(tmp_path / "sampled"))
    again = load_policy(tmp_path / "sampled")
    assert isinstance(again, SampledRadar)
    assert all(np.array_equal(again.policy.weights[name], values) for name, values in weights.items())
    with pytest.raises(ArtifactError, match="no policy at nowhere"):
        export(run="nowhere", out=str(tmp_path / "out"))


def test_export_does_not_overwrite_its_own_run(tmp_path: Path) -> None:
    save_policy(tmp_path, StaticDepth(2), {})
    with pytest.raises(ArtifactError, match="the run itself"):
        export(run=str(tmp_path), out=str(tmp_path))


def test_policies_by_name(tmp_path: Path) -> None:
    assert policy_from_string("static:3").name == "static-3"
    assert policy_from_string("threshold:0.25").name == "threshold-0.25"
    assert policy_from_string("random:0.5", seed=3).name == "random-0.5"
    save_policy(tmp_path, StaticDepth(2), {})
    assert policy_from_string(str(tmp_path)).name == "static-2"
    for text in ("static:many", "static:0", "threshold:2", "nothing/here"):
        with pytest.raises(ConfigError):
            policy_from_string(text)


def test_names_give_further_parameters_by_key() -> None:
    assert policy_from_string("adaedl:0.4,target=0.8") == AdaEdl(0.4, target=0.8)
    assert policy_from_string("ema:3,candidates=1/3,up=0.5") == AcceptanceAverage(3, (1, 3), up=0.5)
    assert policy_from_string("exp3spec:4,scale=2", seed=9) == Exp3Spec(4, 2.0, 9)
    assert policy_from_string("exp3spec:4,seed=3", seed=9) == Exp3Spec(4, 1.0, 3)
    rules = (StaticDepth(4), EntropyBound(0.4, 0.3))
    assert policy_from_string("tapout:static:4+entropy-bound:0.4,gamma=0.3") == TapOut(rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gain:300", "hardware profile"),
        ("joint:0.5,depth=3", "unknown .'depth'.; joint has asks_from, threshold"),
        ("joint:0.5,3", "KEY=VALUE"),
        ("tapout:static:4+plus-two:3", "memoryless"),
        ("tapout:static:4+nothing:3", "unknown rule; expected static:DEPTH"),
        ("ema:3,candidates=1/x", "invalid literal"),
        ("nothing:3", "expected static:DEPTH.*the folder"),
    ],
)
def test_names_that_say_nothing_are_told_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_from_string(text)
