"""The whole of train-pair on a few lines of text: it finishes, resumes to the same weights, and its pair loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import load_pair
from radar_rl.zoo import training
from radar_rl.zoo.train_pair import train_pair

SMALL: dict[str, Any] = {
    "epochs": {"sums": 2.0},
    "anneal_epochs": {"sums": 1.0},
    "target": {
        "steps": 4,
        "anneal_from": 3,
        "batch": 2,
        "block": 32,
        "save_every": 2,
        "warmup": 1,
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 6,
        "head_dim": 8,
        "max_position_embeddings": 128,
    },
    "texts": {"prompts": {"sums": 20}, "max_new_tokens": 16, "max_prompt": 60, "sampled_share": 1.0, "batch": 8},
    "draft": {"steps": 4, "save_every": 2, "warmup": 1, "draft_vocab_size": 200, "intermediate_size": 32, "unroll": 3},
}


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "sums"
    folder.mkdir(parents=True)
    rows = [{"id": f"s{i}", "prompt": f"What is {i} plus {i}?", "answer": f"It is {2 * i}."} for i in range(200)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def run(data: Path, out: Path, head: Any = "eagle3", stage: Any = "all", **change: Any) -> None:
    train_pair(data=str(data), out=str(out), head=head, stage=stage, limit=4, seed=0, **{**SMALL, **change})


@pytest.mark.parametrize("head", ["eagle3", "eagle2"])
def test_a_pair_is_trained_and_decodes(sums: Path, tmp_path: Path, head: str) -> None:
    run(sums, tmp_path / "out", head)
    draft = tmp_path / "out" / ("draft" if head == "eagle3" else "draft_eagle2")
    pair = load_pair(tmp_path / "out/target", draft)
    ids = pair.encode_prompt("What is 3 plus 3?")
    out = SpeculativeDecoder(pair, StaticDepth(3), max_depth=3, top_k=4, tree_size=12).generate(ids, max_new_tokens=20)
    assert out.token_ids == list(autoregressive(pair, ids, max_new_tokens=20))


@pytest.mark.parametrize("stage", ["target", "head"])
def test_an_interrupted_training_ends_at_the_same_weights(
    sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run(sums, tmp_path / "whole")
    if stage == "head":
        run(sums, tmp_path / "cut", stage="target")
    save_state = training.save_state

    def save_and_die(path: Path, state: dict[str, Any]) -> None:
        save_state(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(sums, tmp_path / "cut")
    monkeypatch.undo()
    part = "target" if stage == "target" else "draft"
    assert torch.load(tmp_path / "cut" / part / "state.pt", weights_only=True)["step"] == 2
    run(sums, tmp_path / "cut")
    for part in ("target", "draft"):
        whole = (tmp_path / "whole" / part / "model.safetensors").read_bytes()
        assert (tmp_path / "cut" / part / "model.safetensors").read_bytes() == whole


def test_what_is_missing_is_named(sums: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished target"):
        run(sums, tmp_path / "out", stage="head")
    with pytest.raises(InputError, match="no set 'poems'"):
        run(sums, tmp_path / "out", epochs={"poems": 1.0})
    with pytest.raises(ConfigError, match="unknown training settings"):
        run(sums, tmp_path / "out", target={"stepz": 3})
