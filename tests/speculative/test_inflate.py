"""Inflation: the same trees and texts from a larger shape, in words that say so."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from radar_rl import cli, configs
from radar_rl.errors import ConfigError
from radar_rl.policies import RandomStop, StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.models import inflated_shape, pair_from_config
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative import HardwareProfile, InflatedShape, Pair, fast, inflate_pair, load_pair
from radar_rl.speculative.inflate import _on_meta
from radar_rl.speculative.target import TargetCache

SHAPE = InflatedShape(
    hidden_size=1024,  # four times pocket's: √(h/H) = 1/2
    intermediate_size=1280,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=5000,
    draft_vocab_size=2500,
)
SHAPES = {
    "wider groups of query heads": replace(SHAPE, num_attention_heads=16),
    "narrower groups, so that key/value heads are copied": replace(SHAPE, num_key_value_heads=8),
    "a ratio that is no power of four": replace(SHAPE, hidden_size=320),
    "an odd number of layers": replace(SHAPE, num_hidden_layers=9),
}
TINY = InflatedShape(48, 96, 7, 12, 6, 80, 40)
BLOCK = 256


def outputs(pair: Pair, prompt: str) -> tuple[Tensor, Tensor]:
    """Over a prompt: logits [m, vocabulary] and features [m, 3, hidden]."""
    with torch.inference_mode():
        ids = torch.tensor(pair.encode_prompt(prompt))
        hidden, features = pair.target.extend(ids, TargetCache(pair.target.model, len(ids)))
        return pair.target.logits(hidden), features.unflatten(-1, (3, -1))


@pytest.fixture(scope="module")
def inflated(pocket: Pair) -> Pair:
    return inflate_pair(pocket, SHAPE)


@pytest.fixture(scope="module")
def unpacked() -> tuple[Pair, Pair]:
    """Pocket and its inflation, computing with ``F.linear`` throughout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "can_pack", lambda weight: False)
        pocket = load_pair()
        return pocket, inflate_pair(pocket, SHAPE)


@pytest.fixture
def sums_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products add up 256 inputs at a time, in order, so that further zeros cannot change the order of a sum.

    BLAS orders the sums of 256 inputs otherwise than those of 1024, in their last bits.
    """
    plain = torch.nn.functional.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        assert bias is None
        missing = -x.shape[-1] % BLOCK
        x, weight = torch.nn.functional.pad(x, (0, missing)), torch.nn.functional.pad(weight, (0, missing))
        total = torch.zeros(())
        for part, columns in zip(x.split(BLOCK, -1), weight.split(BLOCK, -1), strict=True):
            total = total + plain(part, columns)
        return total

    monkeypatch.setattr(torch.nn.functional, "linear", linear)


@pytest.mark.usefixtures("sums_in_blocks")
def test_logits_and_features_are_the_same_bits(unpacked: tuple[Pair, Pair], shipped_prompts: list[str]) -> None:
    pocket, inflated = unpacked
    for prompt in shipped_prompts[::4]:
        (logits, features), (wide_logits, wide_features) = outputs(pocket, prompt), outputs(inflated, prompt)
        assert torch.equal(wide_logits, logits)
        assert torch.equal(wide_features[..., : features.shape[-1]], features)
        assert not wide_features[..., features.shape[-1] :].any()


@pytest.mark.usefixtures("sums_in_blocks")
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 5}], ids=["greedy", "sampled"])
def test_every_round_drafts_the_same_tree_and_accepts_the_same(
    unpacked: tuple[Pair, Pair], shipped_prompts: list[str], sampling: dict[str, float]
) -> None:
    pocket, inflated = unpacked
    for prompt in shipped_prompts[1::4]:
        ids = pocket.encode_prompt(prompt)
        ours, theirs = (
            SpeculativeDecoder(pair, RandomStop(0.8, 0)).generate(ids, max_new_tokens=32, **sampling)  # type: ignore[arg-type]
            for pair in (inflated, pocket)
        )
        assert ours.token_ids == theirs.token_ids
        assert len(ours.rounds) == len(theirs.rounds)
        for mine, other in zip(ours.rounds, theirs.rounds, strict=True):
            assert (mine.emitted, mine.accepted) == (other.emitted, other.accepted)
            for part in ("tokens", "parents", "depths", "log_probs"):
                assert getattr(mine.tree, part) == getattr(other.tree, part)


@pytest.mark.parametrize("shape", [SHAPE, *SHAPES.values()], ids=["same groups", *SHAPES])
def test_any_shape_agrees_to_rounding_and_in_text(
    pocket: Pair, shipped_prompts: list[str], shape: InflatedShape
) -> None:
    wide = inflate_pair(pocket, shape, seed=1)
    ids = pocket.encode_prompt(shipped_prompts[0])
    for ours, theirs in zip(outputs(wide, shipped_prompts[0]), outputs(pocket, shipped_prompts[0]), strict=True):
        torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs, rtol=0, atol=1e-4)
    text = list(autoregressive(pocket, ids, max_new_tokens=24))
    assert list(autoregressive(wide, ids, max_new_tokens=24)) == text
    assert SpeculativeDecoder(wide, StaticDepth(4)).generate(ids, max_new_tokens=24).token_ids == text


def test_a_pair_of_other_proportions_inflates(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    wide = inflate_pair(pair, TINY)
    out = SpeculativeDecoder(wide, StaticDepth(3), max_depth=3, top_k=4, tree_size=16)
    assert out.generate([5, 6], max_new_tokens=30).token_ids == list(autoregressive(pair, [5, 6], max_new_tokens=30))


def test_what_is_not_live_is_random_where_it_is_read(inflated: Pair) -> None:
    further = inflated.target.decoder.layers[5]  # layers 2 and 3 of pocket are at 2 and 3, layer 4 at 6
    assert further.self_attn.q_proj.weight.std() == pytest.approx(0.02, rel=0.01)
    assert not further.self_attn.o_proj.weight.any()
    assert not further.mlp.down_proj.weight.any()
    assert inflated.target.decoder.layers[6].mlp.down_proj.weight.any()
    assert inflated.target.output_layer.weight.shape == (5000, 1024)
    assert inflated.target.output_layer.weight[4096:].std() == pytest.approx(0.02, rel=0.01)
    assert inflated.head.lm_head.weight.shape == (2500, 1024)
    assert not any(weight.requires_grad for weight in inflated.head.parameters())


def test_the_default_shape_is_an_8b_models(pocket: Pair) -> None:
    shape = inflated_shape(configs.load("model", "inflated"))
    assert shape is not None
    model, head = _on_meta(pocket, shape)
    sizes = {name: size for name, size in asdict(shape).items() if not name.startswith("draft")}
    llama = LlamaConfig(**(sizes | {"num_attention_heads": 32, "num_key_value_heads": 8}))  # Llama-3.1-8B: 128 wide
    with torch.device("meta"):
        assert model.num_parameters() == LlamaForCausalLM(llama).num_parameters() == 8_030_261_248
    assert sum(weight.numel() for weight in head.parameters()) == 424_689_664 + 128256 * 4096  # its own embeddings
    assert model.lm_head(torch.empty(1, 4096, dtype=model.dtype, device="meta")).shape == (1, 4096)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 192}, "hidden_size: the pair needs at least 256, got 192"),
        ({"intermediate_size": 640}, "intermediate_size: the pair needs at least 768, got 640"),
        ({"num_hidden_layers": 7}, "num_hidden_layers: the pair needs at least 8, got 7"),
        ({"vocab_size": 4095}, "vocab_size: the pair needs at least 4096"),
        ({"draft_vocab_size": 2047}, "draft_vocab_size: the pair needs at least 2048"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2}, "num_key_value_heads: the pair needs at least 4, got 2"),
        ({"num_key_value_heads": 3}, "num_attention_heads: expected a multiple of num_key_value_heads = 3, got 8"),
        ({"hidden_size": 1020}, "hidden_size: expected a multiple of num_attention_heads = 8, got 1020"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected at least 1, got 0"),
        ({"intermediate_size": 2**40}, "GiB"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(pocket: Pair, change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inflate_pair(pocket, InflatedShape(**(asdict(SHAPE) | change)))


def test_a_pair_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="EAGLE-3"):
        inflate_pair(load_pair("pocket", "pocket-eagle2"), SHAPE)


def test_sizes_that_are_missing_or_unknown_are_refused() -> None:
    model = configs.load("model", "inflated") | {"device": "cpu"}
    for sizes in ({"hidden_size": 1024}, asdict(SHAPE) | {"head_dim": 64}, asdict(SHAPE) | {"vocab_size": "many"}):
        with pytest.raises(ConfigError, match="expected whole numbers for hidden_size, "):
            pair_from_config(model | {"inflate": sizes})


def test_a_policy_of_the_pair_applies_and_its_profile_does_not(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    target, draft = map(str, tiny_pair)
    model = {"target": target, "draft": draft, "dtype": "float32", "device": "cpu"}
    wide_model = model | {"inflate": asdict(TINY)}
    pair, wide = pair_from_config(model), pair_from_config(wide_model)
    assert (wide.target_identity, wide.draft_identity) == (pair.target_identity, pair.draft_identity)
    cache, shape = tmp_path / "hardware.json", {"max_depth": 2, "top_k": 2, "tree_size": 3}
    HardwareProfile(f"{pair.label} on somewhere", (1.0,), (3,), (1.0,), 0.0, 0.0).save(cache)
    assert resolve_hardware(None, cache, model, **shape).name == f"{pair.label} on somewhere"
    measured = resolve_hardware(None, cache, wide_model, **shape)
    assert measured.name.startswith(
        f"{pair.label} inflated (hidden 48, intermediate 96, 7 layers, heads 12/6, vocabulary 80/40) on cpu"
    )
    assert resolve_hardware(None, cache, wide_model, **shape) == measured
    assert resolve_hardware(None, cache, model, **shape).name.startswith(f"{pair.label} on cpu")


def test_the_command_line_says_inflated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["model=inflated", "model.device=cpu", "model.dtype=float32"]
    model += [f"model.inflate.{name}={size}" for name, size in asdict(replace(SHAPE, hidden_size=320)).items()]
    sizes = ["repeats=1", "max_depth=2", "tree_size=12"]
    assert cli.main(["profile", *model, f"out={tmp_path / 'profile.json'}", *sizes]) == 0
    assert "inflated (hidden 320" in capsys.readouterr().out
    assert cli.main(["decode", *model, "max_new_tokens=8", "--prompt", "Hello.", "--compare"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "inflated (hidden 320" in told
    assert "the text is the same for every row" in told
