"""Loading: what does not fit is an error that names it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radar_rl.errors import CheckpointError, InputError
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import load_pair


def edit(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replace tensors of a checkpoint; None removes one."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_pair_in_the_ordinary_layout_loads_and_decodes_losslessly(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    out = SpeculativeDecoder(pair, StaticDepth(3), max_depth=3, top_k=4, tree_size=16).generate(
        [5, 6], max_new_tokens=30
    )
    assert out.token_ids == list(autoregressive(pair, [5, 6], max_new_tokens=30))


def test_weights_of_any_split_are_read_the_same(tiny_pair: tuple[Path, Path]) -> None:
    target, draft = tiny_pair
    whole = load_pair(target, draft)
    tensors = load_file(draft / "model.safetensors")
    (draft / "model.safetensors").unlink()
    torch.save(tensors, draft / "pytorch_model.bin")
    again = load_pair(target, draft)
    assert all(torch.equal(a, b) for a, b in zip(whole.head.parameters(), again.head.parameters(), strict=True))
    assert whole.draft_identity != again.draft_identity
    assert whole.target_identity == again.target_identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"midlayer.mlp.up_proj.weight": None}, r"missing tensors \['midlayer.mlp.up_proj.weight'\]"),
        ({"midlayer.extra": torch.zeros(1)}, r"unexpected tensors \['midlayer.extra'\]"),
        ({"fc.weight": torch.zeros(32, 64)}, r"fc.weight: expected \[32, 96\], got \[32, 64\]"),
        ({"d2t": None, "t2d": None}, "d2t"),
        ({"d2t": torch.full((32,), 1000)}, "d2t maps"),
        ({"t2d": torch.zeros(64, dtype=torch.bool)}, "t2d and d2t"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    tiny_pair: tuple[Path, Path], change: dict[str, torch.Tensor | None], message: str
) -> None:
    edit(tiny_pair[1], change)
    with pytest.raises(CheckpointError, match=message):
        load_pair(*tiny_pair)


def test_a_target_with_a_missing_tensor_is_refused(tiny_pair: tuple[Path, Path]) -> None:
    edit(tiny_pair[0], {"model.layers.3.mlp.up_proj.weight": None})
    with pytest.raises(CheckpointError, match=r"missing_keys.*layers\.3\.mlp\.up_proj"):
        load_pair(*tiny_pair)


@pytest.mark.parametrize("part", [0, 1])
def test_a_truncated_file_is_refused(tiny_pair: tuple[Path, Path], part: int) -> None:
    path = tiny_pair[part] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load_pair(*tiny_pair)


def test_a_target_too_shallow_for_eagle3_is_refused(tiny_pair: tuple[Path, Path]) -> None:
    config = json.loads((tiny_pair[0] / "config.json").read_text())
    config["num_hidden_layers"] = 4
    config.pop("layer_types", None)
    (tiny_pair[0] / "config.json").write_text(json.dumps(config))
    edit(tiny_pair[0], {k: None for k in load_file(tiny_pair[0] / "model.safetensors") if ".4." in k or ".5." in k})
    with pytest.raises(CheckpointError, match="n = 4 layers"):
        load_pair(*tiny_pair)


def test_a_folder_without_config_and_a_name_of_nothing_are_refused(
    tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="no model at"):
        load_pair("no/such-model-anywhere", tiny_pair[1])
    (tiny_pair[1] / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_pair(*tiny_pair)
