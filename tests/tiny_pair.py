"""A tiny random pair in the Hugging Face layout, for tests of loading and of laws that hold for any weights."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from radar_rl.speculative.target import Target
from radar_rl.zoo.head import HeadTraining, new_head, save_head

VOCABULARY = 64


def write_tiny_pair(folder: Path, max_position_embeddings: int = 128) -> tuple[Path, Path]:
    """Write target and EAGLE-3 head; returns their folders."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=max_position_embeddings,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder / "target")
    (folder / "draft").mkdir()
    every_second = torch.arange(0, VOCABULARY, 2)
    head = new_head(Target(model, eagle3=True), HeadTraining(intermediate_size=48), every_second, eagle3=True)
    save_head(head, folder / "draft", eagle3=True)
    return folder / "target", folder / "draft"
