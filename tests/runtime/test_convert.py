"""``radar-rl convert``: round trips bit for bit, and what a format can't express."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_heads
import torch
from safetensors.torch import load_file
from tiny_heads import write_head

from radar_rl import cli
from radar_rl.errors import CheckpointError, InputError
from radar_rl.runtime.convert import convert
from radar_rl.speculative import load_pair
from radar_rl.speculative.formats import read_head

ROUND_TRIPS = [
    (a, b, options, hidden)
    for a in tiny_heads.CONFIGS
    for b in tiny_heads.CONFIGS
    for options in ({}, {"fc_norm": True}, {"norm_output": True}, {"fc_norm": True, "norm_output": True})
    for hidden in (32, 24)
    if a != b and not (options and "safeailab" in (a, b))
]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Names, dtypes, shapes and bits."""
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].contiguous().view(torch.uint8).equal(b[name].contiguous().view(torch.uint8))
        for name in a
    )


def mixed(options: dict[str, bool], hidden: int) -> dict[str, torch.Tensor]:
    """Weights of several dtypes, one of them with a NaN and a negative zero."""
    tensors = tiny_heads.weights(options, hidden)
    tensors["lm_head.weight"][0, :2] = torch.tensor([-0.0, torch.nan])
    tensors["fc.weight"] = tensors["fc.weight"].to(torch.bfloat16)
    tensors["norm.weight"] = tensors["norm.weight"].half()
    tensors["d2t"] = tensors["d2t"].to(torch.int32)
    return tensors


@pytest.mark.parametrize(("a", "b", "options", "hidden"), ROUND_TRIPS)
def test_there_and_back_is_the_same_head(tmp_path: Path, a: str, b: str, options: dict[str, bool], hidden: int) -> None:
    first = write_head(tmp_path / "first", a, options, hidden, tensors=mixed(options, hidden))
    convert(source=str(first), out=str(tmp_path / "there"), to=b, target=None)  # type: ignore[arg-type]
    convert(source=str(tmp_path / "there"), out=str(tmp_path / "back"), to=a, target=None)  # type: ignore[arg-type]
    there, back = read_head(tmp_path / "there"), read_head(tmp_path / "back")
    assert (there.format, back.format) == (b, a)
    assert same(load_file(first / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors"))
    assert same(read_head(first).tensors, there.tensors)
    assert read_head(first).description == there.description == back.description
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("to", ["safeailab", "specforge", "speculators"])
def test_a_converted_config_has_the_keys_that_the_format_reads(tmp_path: Path, to: str) -> None:
    source = write_head(tmp_path / "head", "speculators" if to != "speculators" else "safeailab", hidden=24)
    convert(source=str(source), out=str(tmp_path / "out"), to=to, target=None)  # type: ignore[arg-type]
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    expected: dict[str, Any] = tiny_heads.CONFIGS[to]({}, 24)
    for key in {"auto_map", "dtype", "speculators_version", "use_sliding_window", "embed_requires_grad"}:
        expected.pop(key, None)
    if to == "speculators":
        assert written.pop("speculators_config").keys() == expected.pop("speculators_config").keys()
        written |= written.pop("transformer_layer_config")
        expected |= expected.pop("transformer_layer_config")
    assert {key: written[key] for key in expected} == expected


def test_the_target_is_checked_and_named(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    head = write_head(tmp_path / "head", "safeailab")
    convert(source=str(head), out=str(tmp_path / "out"), to="speculators", target=str(tiny_pair[0]))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    verifier = {"name_or_path": str(tiny_pair[0]), "architectures": ["LlamaForCausalLM"]}
    assert written["speculators_config"]["verifier"] == verifier
    load_pair(tiny_pair[0], tmp_path / "out")
    with pytest.raises(CheckpointError, match="vocab_size: expected 4096, got 64"):
        convert(source=str(head), out=str(tmp_path / "other"), to="specforge", target="pocket")
    with pytest.raises(CheckpointError, match="expected vocab_size, hidden_size and num_hidden_layers"):
        convert(source=str(head), out=str(tmp_path / "other"), to="specforge", target=str(tmp_path / "out"))
    assert not (tmp_path / "other").exists()


def test_feature_layers_are_counted_as_each_format_counts(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    layers = {"eagle_aux_hidden_state_layer_ids": [2, 3, 3]}
    head = str(write_head(tmp_path / "head", "speculators", **layers))
    convert(source=head, out=str(tmp_path / "forge"), to="specforge", target=None)
    written = json.loads((tmp_path / "forge" / "config.json").read_text())
    assert written["eagle_config"] == {"eagle_aux_hidden_state_layer_ids": [1, 2, 2]}
    convert(source=str(tmp_path / "forge"), out=str(tmp_path / "back"), to="speculators", target=None)
    assert read_head(tmp_path / "back").description == read_head(Path(head)).description
    with pytest.raises(CheckpointError, match=r"no feature layers \[2, 3, 3\].*target="):
        convert(source=head, out=str(tmp_path / "plain"), to="safeailab", target=None)
    convert(source=head, out=str(tmp_path / "plain"), to="safeailab", target=str(tiny_pair[0]))
    assert read_head(tmp_path / "plain").description.feature_layers is None


@pytest.mark.parametrize(
    ("options", "changed", "to", "message"),
    [
        ({"norm_before_residual": True}, {}, "specforge", "specforge: the format has no norm_before_residual"),
        ({"norm_before_fc": True}, {}, "specforge", "specforge: the format has no norm_before_fc"),
        ({"fc_norm": True, "norm_output": True}, {}, "safeailab", "safeailab: the format has no fc_norm, norm_output"),
        (
            {},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "safeailab",
            "no rotary embedding of type linear",
        ),
        ({}, {}, "speculators", "in the format speculators already"),
    ],
)
def test_what_a_format_cannot_express_is_refused(
    tmp_path: Path, options: dict[str, bool], changed: dict[str, Any], to: str, message: str
) -> None:
    layer = tiny_heads.layer() | changed
    head = write_head(tmp_path / "head", "speculators", options, transformer_layer_config=layer)
    with pytest.raises(CheckpointError, match=message):
        convert(source=str(head), out=str(tmp_path / "out"), to=to, target=None)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 4}, "no head_dim 4 beside hidden_size 32"),
        ({"attention_bias": True}, "no attention_bias"),
    ],
)
def test_a_layer_that_safeailab_does_not_build_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors = tiny_heads.weights({})
    for name in ("q", "k", "v", "o"):
        key = f"midlayer.self_attn.{name}_proj"
        if "head_dim" in change:
            weight = tensors[f"{key}.weight"]
            tensors[f"{key}.weight"] = weight[:, :16] if name == "o" else weight[: len(weight) // 2]
        else:
            tensors[f"{key}.bias"] = torch.zeros(len(tensors[f"{key}.weight"]))
    layer = tiny_heads.layer() | change
    head = write_head(tmp_path / "head", "speculators", tensors=tensors, transformer_layer_config=layer)
    with pytest.raises(CheckpointError, match=message):
        convert(source=str(head), out=str(tmp_path / "out"), to="safeailab", target=None)


def test_an_incomplete_head_is_not_passed_on(tmp_path: Path) -> None:
    tensors = tiny_heads.weights({})
    del tensors["midlayer.hidden_norm.weight"]
    head = write_head(tmp_path / "a", "specforge", tensors=tensors)
    with pytest.raises(CheckpointError, match=r"missing tensors \['midlayer.hidden_norm.weight'\]"):
        convert(source=str(head), out=str(tmp_path / "out"), to="speculators", target=None)
    tensors = tiny_heads.weights({}, 24)
    del tensors["embed_tokens.weight"]
    head = write_head(tmp_path / "b", "specforge", hidden=24, tensors=tensors)
    with pytest.raises(CheckpointError, match=r"missing tensors \['embed_tokens.weight'\]"):
        convert(source=str(head), out=str(tmp_path / "out"), to="speculators", target=None)


def test_a_head_without_embeddings_or_in_a_bin_file_converts(tmp_path: Path) -> None:
    tensors = tiny_heads.weights({})
    del tensors["embed_tokens.weight"]
    head = write_head(tmp_path / "head", "safeailab", tensors=tensors)
    (head / "model.safetensors").unlink()
    shared = torch.cat((tensors["fc.weight"], tensors["fc.weight"]))  # two views of one memory
    tensors |= {"fc.weight": shared[:32], "midlayer.self_attn.o_proj.weight": shared[32:, :32]}
    torch.save(tensors, head / "pytorch_model.bin")
    convert(source=str(head), out=str(tmp_path / "out"), to="speculators", target=None)
    assert same(read_head(tmp_path / "out").tensors, tensors)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    head = write_head(tmp_path / "head", "safeailab")
    for full in (head, head / "config.json"):
        with pytest.raises(InputError, match="not an empty folder"):
            convert(source=str(head), out=str(full), to="specforge", target=None)
    (tmp_path / "empty").mkdir()
    convert(source=str(head), out=str(tmp_path / "empty"), to="specforge", target=None)


def test_the_embedded_heads_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "head")
    assert cli.main(["convert", "source=pocket", "to=speculators", "target=pocket", f"out={out}"]) == 0
    assert capfd.readouterr().out.startswith(f"convert: pocket (specforge) → {out} (speculators): 15 tensors")
    pocket, converted = load_pair("pocket"), load_pair("pocket", out)
    for one, other in zip(pocket.head.state_dict().items(), converted.head.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert cli.main(["convert", "source=pocket-eagle2", "to=speculators", f"out={tmp_path / 'x'}"]) == 2
    assert "an EAGLE-2 head; expected an EAGLE-3 head" in capfd.readouterr().err
    assert cli.main(["convert", "source=pocket", "to=specforg", f"out={tmp_path / 'x'}"]) == 2
    assert "did you mean 'specforge'" in capfd.readouterr().err


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    convert(source="pocket", out=str(tmp_path / "head"), to="speculators", target=None)
    assert len({path.stat().st_mode for path in (tmp_path / "head").iterdir()}) == 1


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tiny_heads.weights({}) | {"verifier_norm.weight": torch.ones(32)}
    head = write_head(tmp_path / "head", "speculators", tensors=tensors)
    convert(source=str(head), out=str(tmp_path / "out"), to="specforge", target=None)
    assert "left out, as no draft needs it: verifier_norm.weight" in capsys.readouterr().out
