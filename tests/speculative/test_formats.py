"""Draft heads in the formats of three projects: what they compute, that they are one head, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_heads
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_heads import EPS, HEADS, KV_HEADS, TARGET_HIDDEN, THETA, write_head
from torch import Tensor

from radar_rl.errors import CheckpointError
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import DraftState, Pair, load_pair
from radar_rl.speculative.formats import read_head

OPTIONS: list[dict[str, bool]] = [
    {},
    {"fc_norm": True},
    {"norm_before_fc": True},
    {"norm_before_residual": True},
    {"norm_output": True},
    {"fc_norm": True, "norm_output": True},
    {"norm_before_fc": True, "norm_output": True, "norm_before_residual": True},
]
KNOWN = {"safeailab": set(), "specforge": {"fc_norm", "norm_output"}, "speculators": set().union(*OPTIONS)}
CASES = [
    (format, options, hidden)
    for format in KNOWN
    for options in OPTIONS
    if set(options) <= KNOWN[format]
    for hidden in (TARGET_HIDDEN, 24)
]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


def turned(x: Tensor) -> Tensor:
    """[heads, m, D] at positions 0 … m − 1, each pair of channels (i, i + D / 2) turned as a complex number."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * THETA ** (-torch.arange(half) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((z.real, z.imag), dim=-1)


def reference(
    w: dict[str, Tensor], options: dict[str, bool], features: Tensor, token_ids: Tensor, draft_token: int
) -> tuple[Tensor, Tensor]:
    """Logits after a text and after one drafted token, straight from the definitions and without a cache."""
    if options.get("fc_norm"):
        parts = zip(features.split(TARGET_HIDDEN, dim=-1), range(3), strict=True)
        features = torch.cat([rms_norm(part, w[f"fc_norm.{i}.weight"]) for part, i in parts], dim=-1)
    if options.get("norm_before_fc"):
        features = rms_norm(features, w["input_norm.weight"])
    hidden = features @ w["fc.weight"].T

    def last(hidden: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        normed = rms_norm(hidden, w["midlayer.hidden_norm.weight"])
        residual = normed if options.get("norm_before_residual") else hidden
        embedded = rms_norm(w["embed_tokens.weight"][token_ids], w["midlayer.input_layernorm.weight"])
        x = torch.cat((embedded, normed), dim=-1)
        q, k, v = (x @ w[f"midlayer.self_attn.{name}_proj.weight"].T for name in "qkv")
        query = turned(q.view(len(x), HEADS, -1).transpose(0, 1))
        key = turned(k.view(len(x), KV_HEADS, -1).transpose(0, 1))
        value = v.view(len(x), KV_HEADS, -1).transpose(0, 1)
        mixed = []
        for i in range(HEADS):
            j = i * KV_HEADS // HEADS
            scores = query[i] @ key[j].T / query.shape[-1] ** 0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            mixed.append(scores.softmax(-1) @ value[j])
        x = residual + torch.cat(mixed, dim=-1) @ w["midlayer.self_attn.o_proj.weight"].T
        y = rms_norm(x, w["midlayer.post_attention_layernorm.weight"])
        gate, up = (y @ w[f"midlayer.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = (x + (F.silu(gate) * up) @ w["midlayer.mlp.down_proj.weight"].T)[-1]
        normed = rms_norm(x, w["norm.weight"])
        return normed @ w["lm_head.weight"].T, normed if options.get("norm_output") else x

    first, carried = last(hidden, token_ids)
    token_ids = torch.cat((token_ids, torch.tensor([draft_token])))
    second, _ = last(torch.cat((hidden, carried[None])), token_ids)
    return first, second


def computed(pair: Pair, features: Tensor, token_ids: Tensor, draft_token: int) -> tuple[Tensor, Tensor]:
    """The same two by the head."""
    keys, values = [], []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys.append(key.repeat_interleave(HEADS // KV_HEADS, dim=1))
        values.append(value.repeat_interleave(HEADS // KV_HEADS, dim=1))
        alone = query.shape[2] == 1
        return F.scaled_dot_product_attention(query, torch.cat(keys, 2), torch.cat(values, 2), is_causal=not alone)

    head, m = pair.head, len(token_ids)
    out = head.layer(head.condition(features)[None], token_ids[None], torch.arange(m)[None], attend)
    following = head.layer(out[:, -1:], torch.tensor([[draft_token]]), torch.tensor([[m]]), attend)
    return head.logits(out[0, -1]), head.logits(following[0, -1])


class Recording(StaticDepth):
    """A static depth that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(3)
        self.seen: list[tuple[int, int, bytes]] = []

    def act(self, state: DraftState) -> int:
        self.seen.append((state.position, state.depth, np.asarray(state.confidences)[: state.depth].tobytes()))
        return super().act(state)


def decode(pair: Pair) -> tuple[list[int], list[tuple[int, int, bytes]]]:
    policy = Recording()
    decoder = SpeculativeDecoder(pair, policy, max_depth=4, top_k=4, tree_size=16)
    return decoder.generate([5, 6, 9], max_new_tokens=30).token_ids, policy.seen


@pytest.mark.parametrize(("format", "options", "hidden"), CASES)
def test_a_head_computes_what_its_options_say(
    tiny_pair: tuple[Path, Path], tmp_path: Path, format: str, options: dict[str, bool], hidden: int
) -> None:
    pair = load_pair(tiny_pair[0], write_head(tmp_path / "head", format, options, hidden))
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(9, 3 * TARGET_HIDDEN, generator=generator) * torch.tensor([0.3, 1, 4]).repeat_interleave(32)
    token_ids = torch.randint(0, tiny_heads.VOCABULARY, (9,), generator=generator)
    expected = reference(tiny_heads.weights(options, hidden), options, features, token_ids, 7)
    for ours, theirs in zip(computed(pair, features, token_ids, 7), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS[1:])
def test_every_option_matters(tiny_pair: tuple[Path, Path], tmp_path: Path, options: dict[str, bool]) -> None:
    features, token_ids = torch.randn(5, 3 * TARGET_HIDDEN), torch.arange(5)
    w = tiny_heads.weights(options)
    first, second = reference(w, options, features, token_ids, 7)
    for name in options:
        other_first, other_second = reference(w, options | {name: False}, features, token_ids, 7)
        assert torch.equal(first, other_first) == (name == "norm_output")
        assert not torch.allclose(second, other_second, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"fc_norm": True, "norm_output": True}])
@pytest.mark.parametrize("hidden", [TARGET_HIDDEN, 24])
def test_the_same_weights_are_the_same_head_in_every_format(
    tiny_pair: tuple[Path, Path], tmp_path: Path, options: dict[str, bool], hidden: int
) -> None:
    formats = [format for format, known in KNOWN.items() if set(options) <= known]
    decoded = []
    for format in formats:
        pair = load_pair(tiny_pair[0], write_head(tmp_path / format, format, options, hidden))
        decoded.append(decode(pair))
        assert decoded[-1] == decoded[0]
    assert len(formats) == (2 if options else 3)
    assert len(decoded[0][1]) > 10


@pytest.mark.parametrize(("format", "options", "hidden"), CASES)
def test_the_text_is_the_targets(
    tiny_pair: tuple[Path, Path], tmp_path: Path, format: str, options: dict[str, bool], hidden: int
) -> None:
    pair = load_pair(tiny_pair[0], write_head(tmp_path / "head", format, options, hidden))
    assert decode(pair)[0] == list(autoregressive(pair, [5, 6, 9], max_new_tokens=30))


def test_the_format_is_found_from_config_and_keys(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    for format in KNOWN:
        assert read_head(write_head(tmp_path / format, format)).format == format
    with pytest.raises(CheckpointError, match="expected tensors midlayer"):
        read_head(tiny_pair[0])


def test_embeddings_are_the_targets_unless_the_head_has_its_own(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    own = tiny_heads.weights({})
    borrowed = {name: tensor for name, tensor in own.items() if name != "embed_tokens.weight"}
    for name, tensors in (("own", own), ("borrowed", borrowed)):
        pair = load_pair(tiny_pair[0], write_head(tmp_path / name, "specforge", tensors=tensors))
        expected = tensors.get("embed_tokens.weight", pair.target.model.get_input_embeddings().weight)
        assert torch.equal(pair.head.embed_tokens.weight, expected)


def test_what_speculators_training_leaves_behind_is_known_by_name(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    left = {"verifier_norm.weight": torch.ones(32), "verifier_lm_head.weight": torch.ones(22, 32)}
    tensors = tiny_heads.weights({}) | left
    assert read_head(write_head(tmp_path / "a", "speculators", tensors=tensors)).unused == tuple(left)
    with pytest.raises(CheckpointError, match=r"unexpected tensors \['verifier_lm_head.weight', 'verifier_norm"):
        load_pair(tiny_pair[0], write_head(tmp_path / "b", "specforge", tensors=tensors))


def test_a_full_vocabulary_needs_no_map(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    full = tiny_heads.weights({}) | {"lm_head.weight": torch.randn(64, 32)}
    full |= {"d2t": torch.zeros(64, dtype=torch.int64), "t2d": torch.ones(64, dtype=torch.bool)}
    bare = {name: tensor for name, tensor in full.items() if name not in ("d2t", "t2d")}
    for name, tensors in (("full", full), ("bare", bare)):
        pair = load_pair(tiny_pair[0], write_head(tmp_path / name, "specforge", tensors=tensors, draft_vocab_size=64))
        assert torch.equal(pair.head.draft_to_target, torch.arange(64))


def test_speculators_may_leave_out_the_defaults_of_llama(tmp_path: Path) -> None:
    layer = tiny_heads.layer()
    default = {"vocab_size": 32000, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 11008}
    kept = {key: value for key, value in layer.items() if key not in (*default, "head_dim", "num_key_value_heads")}
    description = read_head(write_head(tmp_path / "x", "speculators", transformer_layer_config=kept)).description
    got = description.layer
    assert {key: got[key] for key in default} == default
    assert (got["head_dim"], got["num_key_value_heads"], description.target_hidden_size) == (128, 32, 4096)


def test_rotary_scaling_is_one_thing_in_all_words(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    layers = [
        {"rope_theta": THETA, "rope_scaling": {"type": "llama3", **scaling}},
        {"rope_theta": THETA, "rope_scaling": {"rope_type": "llama3", "type": "llama3", **scaling}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": THETA, **scaling}, "rope_scaling": None},
    ]
    read = [
        read_head(write_head(tmp_path / str(i), "specforge", **words)).description for i, words in enumerate(layers)
    ]
    assert read[0] == read[1] == read[2]
    assert read[0].llama_config().rope_parameters == layers[2]["rope_parameters"]


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def setting(**values: Any) -> Change:
    return lambda config, tensors: config.update(values)


def layer_setting(**values: Any) -> Change:
    return lambda config, tensors: config["transformer_layer_config"].update(values)


def dropping(*keys: str) -> Change:
    return lambda config, tensors: [config.pop(key) for key in keys] and None


def placing(**tensors: Tensor | None) -> Change:
    def change(config: dict[str, Any], there: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            there.pop(name.replace("__", "."), None)
            if tensor is not None:
                there[name.replace("__", ".")] = tensor

    return change


NAMED_LAYERS = {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}


@pytest.mark.parametrize(
    ("format", "change", "message"),
    [
        # no format, or two
        ("speculators", dropping("speculators_model_type"), r"speculators_model_type None"),
        ("speculators", setting(speculators_model_type="dflash"), "expected 'eagle3', got 'dflash'"),
        ("safeailab", setting(speculators_model_type="eagle3"), r"got layers \['midlayer'\]"),
        ("safeailab", placing(layers__0__self_attn__q_proj__weight=torch.ones(1)), r"'layers.0', 'midlayer'"),
        # the target
        ("safeailab", setting(vocab_size=65), "vocab_size: expected 64, got 65"),
        ("speculators", layer_setting(vocab_size=65), "vocab_size: expected 64, got 65"),
        ("specforge", setting(target_hidden_size=48), "target_hidden_size, which fc takes: expected 32, got 48"),
        ("specforge", setting(hidden_size=24), "target_hidden_size, which fc takes: expected 32, got 24"),
        ("safeailab", placing(fc__weight=torch.ones(32, 64)), r"fc.weight: expected \[32, 96\], got \[32, 64\]"),
        ("speculators", setting(**NAMED_LAYERS), r"feature layers: expected \(2, 3, 3\), got \(1, 2, 4\)"),
        ("specforge", setting(eagle_config=NAMED_LAYERS), r"feature layers: expected \(2, 3, 3\), got \(2, 3, 5\)"),
        ("specforge", setting(eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 2]}), "expected three layers"),
        # the draft vocabulary
        ("safeailab", setting(draft_vocab_size=23), r"d2t: expected \[23\], got \[21\]"),
        ("safeailab", placing(d2t=None), "missing tensor d2t"),
        ("specforge", placing(d2t=torch.zeros(21, dtype=torch.int64)), "t2d and d2t name different tokens"),
        ("specforge", setting(draft_vocab_size="many"), "draft_vocab_size: expected a whole number"),
        ("safeailab", placing(lm_head__weight=None), "missing tensor lm_head.weight"),
        # options
        ("safeailab", setting(fc_norm=True), "safeailab: the format has no fc_norm; specforge and speculators can"),
        ("specforge", setting(norm_before_residual=True), "no norm_before_residual; speculators can"),
        ("specforge", setting(eagle_config={"norm_before_fc": True}), "no norm_before_fc; speculators can"),
        ("specforge", setting(eagle_config={"use_aux_hidden_state": False}), "got .*False"),
        ("specforge", setting(eagle_config={"use_mtp_layernorm": True}), "use_mtp_layernorm"),
        ("specforge", setting(eagle_config="yes"), "eagle_config: expected a mapping"),
        ("specforge", setting(fc_norm=True), r"missing tensors \['fc_norm.0.weight'"),
        ("speculators", placing(fc_norm__0__weight=torch.ones(32)), r"unexpected tensors \['fc_norm.0.weight'\]"),
        ("speculators", setting(fc_norm=True, norm_before_fc=True), "expected one of them, got both"),
        ("speculators", dropping("norm_before_residual"), "lacks norm_before_residual"),
        # the layer
        ("safeailab", dropping("hidden_size", "vocab_size"), "lacks vocab_size, hidden_size"),
        ("safeailab", setting(num_hidden_layers=2), "num_hidden_layers: expected 1, got 2"),
        ("safeailab", setting(hidden_act="gelu"), "hidden_act: expected 'silu', got 'gelu'"),
        ("safeailab", setting(mlp_bias=True), "mlp_bias: expected False, got True"),
        ("safeailab", setting(attention_bias=True), r"missing tensors \['midlayer.self_attn.k_proj.bias'"),
        ("speculators", layer_setting(model_type="qwen3"), "model_type: expected 'llama', got 'qwen3'"),
        ("speculators", layer_setting(layer_types=["sliding_attention"]), "layer_types: expected full_attention"),
        ("specforge", setting(rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]}), "got 'mrope'"),
        ("specforge", setting(rope_scaling={"type": "dynamic", "factor": 2.0}), "got 'dynamic'"),
        ("specforge", setting(rope_scaling=[1]), "rope_scaling: expected a mapping"),
        ("specforge", setting(hidden_size="wide"), "describes no Llama layer"),
    ],
)
def test_what_is_not_run_is_refused(
    tiny_pair: tuple[Path, Path], tmp_path: Path, format: str, change: Change, message: str
) -> None:
    tensors = tiny_heads.weights({})
    config = tiny_heads.CONFIGS[format]({}, TARGET_HIDDEN)
    change(config, tensors)
    folder = write_head(tmp_path / "head", format, tensors=tensors)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_pair(tiny_pair[0], folder)


def test_a_head_of_another_size_brings_its_embeddings(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = tiny_heads.weights({}, 24)
    del tensors["embed_tokens.weight"]
    head = write_head(tmp_path / "head", "specforge", hidden=24, tensors=tensors)
    with pytest.raises(CheckpointError, match="the target's embeddings are 32 wide, the head's hidden size is 24"):
        load_pair(tiny_pair[0], head)


def test_an_eagle2_head_of_another_target_is_refused(tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match="vocab_size: expected 64, got 4096"):
        load_pair(tiny_pair[0], "pocket-eagle2")


def test_names_are_the_formats_own(tmp_path: Path) -> None:
    folder = write_head(tmp_path / "head", "speculators", {"fc_norm": True})
    assert "layers.0.self_attn.q_proj.weight" in load_file(folder / "model.safetensors")
    assert set(read_head(folder).tensors) == set(tiny_heads.weights({"fc_norm": True}))
