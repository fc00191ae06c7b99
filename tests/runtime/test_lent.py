"""A model that is lent stays its owner's: as it was, no longer alive than they keep it, never misread."""

import copy
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SIZES, VOCABULARY, write_head
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from radar_rl.errors import CheckpointError
from radar_rl.runtime import radar_generate
from radar_rl.runtime.lent import lent_pair
from radar_rl.speculative import Pair, load_pair

IDS = torch.tensor([[3, 9, 4, 40]])


@pytest.fixture
def lent(tiny_pair: tuple[Path, Path]) -> tuple[Any, Path]:
    """A model as its owner loads it, and the folder of its head."""
    folder, head = tiny_pair
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), head


def generated(model: Any, head: Any, **options: Any) -> torch.Tensor:
    speculative = radar_generate(head, "static:3", tree_size=12, top_k=4)
    text: torch.Tensor = model.generate(IDS, max_new_tokens=12, do_sample=False, custom_generate=speculative, **options)
    return text


def test_between_generations_the_model_is_as_it_was(lent: tuple[Any, Path]) -> None:
    model, head = lent
    model.train()
    model.model.layers[2].eval()
    modes = [module.training for module in model.modules()]
    attention = model.config._attn_implementation
    expected = model.generate(IDS, max_new_tokens=12, do_sample=False)
    assert torch.equal(generated(model, head), expected)
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == attention
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_it_is_as_it_was_after_an_error_too(lent: tuple[Any, Path]) -> None:
    model, head = lent

    class Broken:
        def put(self, value: torch.Tensor) -> None:
            if value.ndim == 1:  # not the prompt
                raise OSError("the line is gone")

    with pytest.raises(OSError, match="gone"):
        generated(model, head, streamer=Broken())
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(generated(model, head), model.generate(IDS, max_new_tokens=12, do_sample=False))


def test_a_pair_is_made_once_for_a_model_and_a_head(lent: tuple[Any, Path]) -> None:
    model, head = lent
    pairs = []
    for of in (model, model, copy.deepcopy(model)):
        with lent_pair(of, head) as pair:
            pairs.append(pair)
    assert pairs[0] is pairs[1]
    assert pairs[0] is not pairs[2]


def test_a_model_is_freed_when_its_owner_lets_go(tiny_pair: tuple[Path, Path]) -> None:
    folder, head = tiny_pair
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generated(model, head)
    gone, weight = weakref.ref(model), weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    del model
    gc.collect()
    assert gone() is None
    assert weight() is None


def test_a_generation_within_a_generation_goes_its_own_way(lent: tuple[Any, Path]) -> None:
    model, head = lent
    expected, inner = generated(model, head), []

    class Nested:
        def put(self, value: torch.Tensor) -> None:
            inner.append(generated(model, head))

        def end(self) -> None:
            pass

    assert torch.equal(generated(model, head, streamer=Nested()), expected)
    assert all(torch.equal(text, expected) for text in inner)


def test_a_model_that_its_owner_changes_is_followed(lent: tuple[Any, Path]) -> None:
    model, head = lent
    first = generated(model, head)
    with torch.no_grad():
        model.model.layers[4].mlp.down_proj.weight.mul_(-3)  # trained on
    second = generated(model, head)
    assert not torch.equal(first, second)
    assert torch.equal(second, model.generate(IDS, max_new_tokens=12, do_sample=False))
    model.set_output_embeddings(torch.nn.Linear(32, 64, bias=False))
    third = generated(model, head)
    assert not torch.equal(second, third)
    assert torch.equal(third, model.generate(IDS, max_new_tokens=12, do_sample=False))
    model.to(torch.float64)
    assert torch.equal(generated(model, head), model.generate(IDS, max_new_tokens=12, do_sample=False))
    model.resize_token_embeddings(70)
    with pytest.raises(CheckpointError, match="vocab_size"):
        generated(model, head)


def test_two_threads_get_the_text_of_one(lent: tuple[Any, Path]) -> None:
    model, head = lent
    expected, texts = generated(model, head), []
    threads = [threading.Thread(target=lambda: texts.append(generated(model, head))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3
    assert all(torch.equal(text, expected) for text in texts)


@pytest.mark.parametrize("draft", ["pocket", "pocket-eagle2"])
def test_a_loaded_head_drafts_for_a_model_of_the_same_weights(draft: str, pocket: Pair) -> None:
    loaded = load_pair("pocket", draft)
    own_logits = getattr(loaded.head, "target_logits", None)
    model: Any = copy.deepcopy(pocket.target.model)
    expected = model.generate(IDS, max_new_tokens=12, do_sample=False)
    assert torch.equal(generated(model, loaded.head), expected)
    assert getattr(loaded.head, "target_logits", None) == own_logits
    with pytest.raises(CheckpointError, match="dtype"):
        generated(model.to(torch.bfloat16), loaded.head)


def test_a_head_of_another_model_is_refused(lent: tuple[Any, Path], pocket: Pair) -> None:
    model, _ = lent
    for head in ("pocket", pocket.head):
        with pytest.raises(CheckpointError, match=r"features|vocab_size|vocabulary"):
            generated(model, head)


@pytest.mark.parametrize("capped", ["final_logit_softcapping", "attn_logit_softcapping"])
def test_a_model_that_caps_its_logits_is_refused_not_misread(capped: str, tmp_path: Path) -> None:
    caps = {"final_logit_softcapping": None, "attn_logit_softcapping": None} | {capped: 0.5}
    model: Any = Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16, **caps)).eval()
    write_head(tmp_path, model)
    model.set_attn_implementation("eager")
    with pytest.raises(CheckpointError, match="soft-capped"):
        generated(model, tmp_path)
    assert model.config._attn_implementation == "eager"


def test_models_of_another_kind_are_refused(tiny_pair: tuple[Path, Path], lent: tuple[Any, Path]) -> None:
    _, head = tiny_pair
    size = {"vocab_size": VOCABULARY}
    others: list[Any] = [
        GPT2LMHeadModel(GPT2Config(**size, n_embd=32, n_layer=6, n_head=4)),
        T5ForConditionalGeneration(T5Config(**size, d_model=32, d_ff=48, num_layers=2, num_heads=2, d_kv=8)),
    ]
    for model in others:
        model.generation_config.decoder_start_token_id = 0
        with pytest.raises(CheckpointError, match="expected a decoder-only model"):
            generated(model.eval(), head)
    with torch.device("meta"):
        nowhere: Any = LlamaForCausalLM(lent[0].config)
    with pytest.raises(CheckpointError, match="one device, got meta"), lent_pair(nowhere, head):
        pass
