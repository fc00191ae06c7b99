"""Policies on the Hub. Real: the mixin, the card, folders, the checks. Stood in for: what the Hub answers and sends."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard

from radar_rl.errors import ArtifactError
from radar_rl.policies import ConfidenceThreshold, LearnedPolicy, ObservationSpec
from radar_rl.runtime import Artifact, hub, load_artifact, save_policy
from radar_rl.runtime.hub import HubPolicy

SPEC = ObservationSpec(max_depth=3, top_k=2)
MADE = {"target": "a@1", "draft": "b@2", "max_depth": 3, "top_k": 2, "tree_size": 8, "best_static_depth": 2}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    weight = np.random.default_rng(0).normal(size=(2, SPEC.size)).astype(np.float32)
    save_policy(tmp_path / "policy", LearnedPolicy("net", SPEC, [(weight, np.zeros(2, np.float32))]), MADE)
    return load_artifact(tmp_path / "policy")


def test_a_folder_comes_back_as_it_was(artifact: Artifact, tmp_path: Path) -> None:
    HubPolicy(artifact).save_pretrained(tmp_path / "saved")
    again = HubPolicy.from_pretrained(tmp_path / "saved").artifact
    assert again.about == artifact.about
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "radar-rl"
    assert "made for: a@1 + b@2" in card.text
    assert "max_depth 3, top_k 2, tree_size 8" in card.text


def test_a_folder_of_something_else_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing \['config.json', 'policy.safetensors'\]"):
        HubPolicy.from_pretrained(tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin", "weights.pt", "model.safetensors.index.json"):
        HubPolicy(artifact).save_pretrained(tmp_path / name)
        (tmp_path / name / name).touch()
        with pytest.raises(ArtifactError, match=rf"unexpected weights \['{name}'\]"):
            HubPolicy.from_pretrained(tmp_path / name)
    config = tmp_path / "policy" / "config.json"
    for text in ("{", "[]", '"x"', "{}", json.dumps({**json.loads(config.read_text()), "format_version": 2})):
        config.write_text(text)
        with pytest.raises(ArtifactError, match=r"config\.json"):
            HubPolicy.from_pretrained(tmp_path / "policy")


class StandInHub:
    """One repository, kept in a folder: what ``huggingface_hub`` would send to the Hub and get from it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []  # type: ignore[var-annotated]

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: str, **_: Any) -> str:
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)
        return f"commit of {repo_id}"

    def model_info(self, repo_id: str, revision: str | None = None) -> Any:
        files = [SimpleNamespace(rfilename=path.name) for path in self.folder.iterdir()]
        return SimpleNamespace(sha="c0ffee", siblings=files)

    def download(self, repo_id: str, filename: str, *, revision: str | None = None, **_: Any) -> str:
        self.asked.append((repo_id, filename, revision))
        return str(self.folder / filename)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    there = StandInHub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder", "model_info"):
        monkeypatch.setattr(HfApi, name, getattr(there, name))
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", there.download)
    monkeypatch.setattr(hub, "hf_hub_download", there.download)
    return there


def test_to_the_hub_and_back(artifact: Artifact, stand_in: StandInHub) -> None:
    assert HubPolicy(artifact).push_to_hub("me/policy") == "commit of me/policy"
    assert {path.name for path in stand_in.folder.iterdir()} == {"config.json", "policy.safetensors", "README.md"}
    again = HubPolicy.from_pretrained("me/policy").artifact
    assert again.about == artifact.about
    assert ("me/policy", "policy.safetensors", "c0ffee") in stand_in.asked  # of the commit whose files were checked


def test_a_repository_with_other_weights_is_refused(artifact: Artifact, stand_in: StandInHub) -> None:
    HubPolicy(artifact).push_to_hub("me/policy")
    (stand_in.folder / "model.bin").touch()
    with pytest.raises(ArtifactError, match=r"me/policy.*unexpected weights \['model.bin'\]"):
        HubPolicy.from_pretrained("me/policy")
    (stand_in.folder / "model.bin").unlink()
    (stand_in.folder / "policy.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"missing \['policy.safetensors'\]"):
        HubPolicy.from_pretrained("me/policy")


def test_rules_go_there_too(stand_in: StandInHub) -> None:
    HubPolicy(Artifact(ConfidenceThreshold(0.4), {})).push_to_hub("me/rule")
    assert HubPolicy.from_pretrained("me/rule").artifact.policy == ConfidenceThreshold(0.4)
