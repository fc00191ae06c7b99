"""Loading: what does not fit is an error that names it."""

import json
import shutil
from fnmatch import fnmatch
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


def test_hub_ids_load_as_folders_do(
    tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        """A stand-in for the Hub: copies what it would give."""
        asked.append(name)
        source = tiny_pair[0 if name == "them/target" else 1]
        folder = tmp_path / "hub" / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, folder)
        assert not any(fnmatch("model.safetensors", pattern) for pattern in ignore_patterns)
        return str(folder)

    monkeypatch.setattr("radar_rl.speculative.checkpoints.snapshot_download", download)
    (ours, theirs) = load_pair(*tiny_pair), load_pair("them/target", "them/head")
    assert set(asked) == {"them/target", "them/head"}
    for mine, other in ((ours.target.model, theirs.target.model), (ours.head, theirs.head)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))


def test_a_sharded_head_is_the_whole_one(tiny_pair: tuple[Path, Path]) -> None:
    whole = load_pair(*tiny_pair)
    path = tiny_pair[1] / "model.safetensors"
    tensors = list(load_file(path).items())
    path.unlink()
    for i in range(3):
        save_file(dict(tensors[i::3]), tiny_pair[1] / f"model-{i + 1:05}-of-00003.safetensors")
    sharded = load_pair(*tiny_pair)
    assert all(torch.equal(a, b) for a, b in zip(whole.head.parameters(), sharded.head.parameters(), strict=True))


def test_what_generate_would_do_beside_choosing_is_told(
    tiny_pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_pair[0] / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 1.3, "min_new_tokens": 4}))
    load_pair(*tiny_pair)
    assert [record.message for record in caplog.records] == [
        "generation_config: not applied, texts are those of generate without it: repetition_penalty=1.3, "
        "min_new_tokens=4"
    ]


def test_a_dtype_and_a_device_that_are_none_are_refused(tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"dtype: expected a torch\.dtype"):
        load_pair(*tiny_pair, dtype="float32")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"device: .*foo"):
        load_pair(*tiny_pair, device="foo")
