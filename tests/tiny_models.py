"""Tiny random targets of several families, with EAGLE-3 heads: for loading, and for laws that hold for any weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from radar_rl.speculative.target import Target
from radar_rl.zoo.head import HeadTraining, new_head, save_head

VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA31_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
HALF_SLIDING = ["full_attention", "sliding_attention"] * 3
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama-3.1 rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA31_ROPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2 half sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=12, layer_types=HALF_SLIDING)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "mistral sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=12)),
}


def write_tiny_pair(folder: Path, max_position_embeddings: int = 128) -> tuple[Path, Path]:
    """Write a target of the Llama family, its embeddings tied, and its head; returns their folders."""
    torch.manual_seed(0)
    own = {"max_position_embeddings": max_position_embeddings, "tie_word_embeddings": True}
    return write_pair(folder, LlamaForCausalLM(LlamaConfig(**SIZES | own)))


def write_pair(folder: Path, model: PreTrainedModel, shard: str = "1GB") -> tuple[Path, Path]:
    """Write a target and a random head for it in the Hugging Face layout; returns their folders."""
    model.save_pretrained(folder / "target", max_shard_size=shard)
    write_head(folder / "draft", model)
    return folder / "target", folder / "draft"


def write_head(folder: Path, model: PreTrainedModel) -> None:
    """Write a random head that drafts every second token of a model's vocabulary; the model stays as it is."""
    folder.mkdir(exist_ok=True)
    target = Target(copy.deepcopy(model), eagle3=True)
    every_second = torch.arange(0, VOCABULARY, 2)
    save_head(new_head(target, HeadTraining(intermediate_size=48), every_second, eagle3=True), folder, eagle3=True)
