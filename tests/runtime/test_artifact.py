"""The exported policy: what is written comes back; what was damaged is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from radar_rl.errors import ArtifactError, ConfigError
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
    RandomStop,
    States,
    StaticDepth,
    Svip,
    TapOut,
    UcbSpec,
)
from radar_rl.runtime import load_policy, save_policy
from radar_rl.runtime.artifact import read_config
from radar_rl.runtime.export import export
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
    save_policy(tmp_path / "run", policy, {"target": "a@1", "best_static_depth": 4, "max_depth": 3})
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


def test_damage_is_named(tmp_path: Path) -> None:
    def damaged(edit: dict[str, object]) -> Path:
        save_policy(tmp_path, learned(), {})
        values = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(values | edit))
        return tmp_path

    spec = SPEC.to_json()
    for edit, message in (
        ({"format_version": 99}, "version 99"),
        ({"kind": "surprise"}, "unknown kind"),
        ({"observation": spec | {"top_k": 5}}, "hash"),
        ({"observation": {"top_k": 5}}, "damaged"),
        ({"weights_sha256": "0"}, "not the file"),
        ({"parameters": 3, "kind": "static"}, "damaged"),
    ):
        with pytest.raises(ArtifactError, match=message):
            load_policy(damaged(edit))
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
        ("joint:0.5,depth=3", "unknown .'depth'.; joint has threshold"),
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
