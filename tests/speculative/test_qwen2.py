"""A Llama target as Qwen2: another family's code, the same texts, rounds and identities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from radar_rl.configs import load
from radar_rl.errors import ConfigError
from radar_rl.policies import RandomStop
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative import HardwareProfile, InflatedShape, Pair, as_qwen2, inflate_pair, load_pair, qwen2_pair
from radar_rl.speculative.pair import target_checkpoint

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
SHAPE: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "vocab_size": 64}


@pytest.fixture(scope="module")
def qwen2() -> Pair:
    return pair_from_config(load("model", "pocket_qwen2"))


def test_the_model_is_qwen2_with_biases_of_zero(pocket: Pair, qwen2: Pair) -> None:
    model = qwen2.target.model
    assert isinstance(model, Qwen2ForCausalLM)
    biases = [weight for name, weight in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3 * len(pocket.target.decoder.layers)
    assert not any(bias.any() for bias in biases)
    assert model.get_input_embeddings().weight.shape == pocket.target.model.get_input_embeddings().weight.shape


def test_greedy_texts_and_rounds_of_both_targets_are_equal(
    pocket: Pair, qwen2: Pair, shipped_prompts: list[str]
) -> None:
    for prompt in shipped_prompts[1::8]:
        ids = pocket.encode_prompt(prompt)
        text = list(autoregressive(pocket, ids, max_new_tokens=24))
        assert list(autoregressive(qwen2, ids, max_new_tokens=24)) == text
        ours, theirs = (
            SpeculativeDecoder(pair, RandomStop(0.8, 0), tree_size=20).generate(ids, max_new_tokens=24)
            for pair in (qwen2, pocket)
        )
        assert ours.token_ids == theirs.token_ids == text
        assert [(r.draft_calls, r.accepted) for r in ours.rounds] == [
            (r.draft_calls, r.accepted) for r in theirs.rounds
        ]


def test_transformers_own_generate_gives_the_same_text() -> None:
    llama = AutoModelForCausalLM.from_pretrained(target_checkpoint("pocket"), dtype=torch.float32)
    given: dict[str, Any] = {"inputs": torch.tensor([[0, 40, 41, 42]]), "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(as_qwen2(llama).generate(**given), llama.generate(**given))


def test_other_pairs_are_written_too(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    text = list(autoregressive(pair, [5, 6], max_new_tokens=20))
    wide = inflate_pair(pair, InflatedShape(48, 96, 7, 12, 6, 80, 40))
    for written in (qwen2_pair(pair), qwen2_pair(wide), qwen2_pair(load_pair("pocket", "pocket-eagle2"))):
        assert isinstance(written.target.model, Qwen2ForCausalLM)
        if written.target_identity == pair.target_identity:
            assert list(autoregressive(written, [5, 6], max_new_tokens=20)) == text
    assert qwen2_pair(wide).label.startswith(f"{pair.label} as Qwen2 inflated (hidden 48")


@pytest.mark.parametrize(
    "model",
    [
        Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
        LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
        LlamaForCausalLM(LlamaConfig(**SHAPE, mlp_bias=True)),
    ],
    ids=["qwen2", "attention_bias", "mlp_bias"],
)
def test_what_cannot_be_written_as_qwen2_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="only a Llama target without biases"):
        as_qwen2(model)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.architecture: expected qwen2, .* got 'mamba'"):
        pair_from_config(load("model", "pocket") | {"architecture": "mamba"})


def test_policies_of_the_pair_apply_and_its_profile_does_not(pocket: Pair, qwen2: Pair, tmp_path: Path) -> None:
    assert (qwen2.target_identity, qwen2.draft_identity) == (pocket.target_identity, pocket.draft_identity)
    cache, shape = tmp_path / "hardware.json", {"max_depth": 1, "top_k": 1, "tree_size": 2}
    HardwareProfile(f"{pocket.label} on somewhere", (1.0,), (3,), (1.0,), 0.0, 0.0).save(cache)
    measured = resolve_hardware(None, cache, load("model", "pocket_qwen2"), **shape)
    assert measured.name.startswith(f"{pocket.label} as Qwen2 on cpu")
