"""``policy.onnx`` computes what the policy computes, or is not written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recurrent_weights import make_weights

from radar_rl.errors import ArtifactError, ConfigError
from radar_rl.policies import LearnedPolicy, ObservationSpec, RadarPolicy, SampledRadar, StaticDepth, UcbSpec
from radar_rl.runtime import load_policy, save_policy
from radar_rl.runtime import onnx as onnx_export
from radar_rl.runtime.export import export
from radar_rl.runtime.onnx import write_onnx

SPEC = ObservationSpec(max_depth=3, top_k=2)


def learned() -> LearnedPolicy:
    generator = np.random.default_rng(0)
    sizes = ((SPEC.size, 16), (16, 16), (16, 2))
    layers = [
        (generator.normal(size=(out, into)).astype(np.float32), generator.normal(size=out).astype(np.float32))
        for into, out in sizes
    ]
    return LearnedPolicy("net", SPEC, layers)


def run(path: Path, seen: np.ndarray) -> np.ndarray:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: seen})[0]
    return output


def test_a_learned_policys_network_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    policy = learned()
    save_policy(tmp_path / "run", policy, {})
    export(run=str(tmp_path / "run"), out=str(tmp_path / "out"), onnx=True)
    seen = np.random.default_rng(1).normal(size=(33, SPEC.size)).astype(np.float32)
    there = run(tmp_path / "out" / "policy.onnx", seen)
    assert there.shape == (33, 2)
    assert np.abs(there - policy.network(seen)).max() <= 1e-6 * np.abs(there).max()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "policy.onnx",
        "policy.safetensors",
    ]
    assert isinstance(load_policy(tmp_path / "out"), LearnedPolicy)
    export(run="static:3", out=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "policy.onnx").exists()  # it was another policy's


def test_radars_network_is_exported_for_rounds_of_any_length(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    policy = RadarPolicy("radar", make_weights())
    write_onnx(tmp_path, SampledRadar(policy))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "policy.onnx"))
    assert session.get_inputs()[0].shape == ["texts", "levels", 3]
    assert session.get_outputs()[0].shape == ["texts", "levels"]
    for levels in (1, 5):
        states = -np.random.default_rng(2).exponential(2.0, (4, levels, 3)).astype(np.float32)
        assert np.allclose(run(tmp_path / "policy.onnx", states), policy.stop_probability(states), rtol=0, atol=1e-6)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    whole = onnx_export.ValueNetwork.forward
    monkeypatch.setattr(onnx_export.ValueNetwork, "forward", lambda self, seen: whole(self, seen) * 1.00001)
    with pytest.raises(ArtifactError, match=r"policy\.onnx: not written: its outputs differ by .* in NumPy"):
        write_onnx(tmp_path, learned())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", [StaticDepth(3), UcbSpec(3)], ids=lambda rule: rule.name)
def test_rules_have_no_network(rule: Any, tmp_path: Path) -> None:
    save_policy(tmp_path / "run", rule, {})
    with pytest.raises(ArtifactError, match="a rule has no network to write as ONNX"):
        export(run=str(tmp_path / "run"), out=str(tmp_path / "out"), onnx=True)
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *args: Any) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(onnx_export.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'radar-rl\[onnx\]'"):
        write_onnx(tmp_path, learned())
