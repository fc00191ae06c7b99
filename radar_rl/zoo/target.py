"""Training a pocket target: a small Llama on mixed text, with Muon for matrices and AdamW for the rest.

Resumable (a state file is replaced atomically every ``save_every`` steps) and seeded (the batch of a step depends on
the seed and the step alone).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from radar_rl.zoo.corpus import documents, packed_blocks, train_tokenizer
from radar_rl.zoo.training import Log, Pace, run_steps


@dataclass(frozen=True)
class TargetTraining:
    """Settings of a target's training; lengths in tokens.

    Attributes:
        epochs: how often each set is seen in the mixture of the first ``anneal_from`` steps.
        anneal_epochs: the mixture of the rest, nearer to what the pair is for.
    """

    epochs: Mapping[str, float]
    anneal_epochs: Mapping[str, float]
    steps: int = 1200
    anneal_from: int = 820
    batch: int = 16
    block: int = 512
    learning_rate: float = 4e-3
    warmup: int = 40
    weight_decay: float = 0.1
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 1024
    save_every: int = 100
    seed: int = 0


def train_target(data: Path, out: Path, settings: TargetTraining, log: Log) -> None:
    """Train tokenizer and target on the text in ``data`` and write them to ``out`` in the Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    tokenizer = _tokenizer(data, out, settings, log)
    config = LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_key_value_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=settings.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    mixtures = [
        packed_blocks(tokenizer, data, epochs, settings.block, settings.seed)
        for epochs in (settings.epochs, settings.anneal_epochs)
    ]
    parameters = sum(p.numel() for p in model.parameters())
    sizes = " + ".join(f"{blocks.size / 1e6:.1f}" for blocks in mixtures)
    log(f"target: {parameters / 1e6:.2f} M parameters, {sizes} M tokens")

    def loss_of(step: int) -> tuple[torch.Tensor, list[float]]:
        tokens = torch.from_numpy(_batch(mixtures, step, settings))
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss, []

    pace = Pace(settings.steps, settings.learning_rate, settings.warmup, settings.weight_decay, settings.save_every)
    run_steps(model, loss_of, pace, out / "state.pt", "target", log)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")


def _batch(mixtures: list[NDArray[np.uint16]], step: int, settings: TargetTraining) -> NDArray[np.int64]:
    """The blocks of a step, [batch, block]: each mixture in an order of its own, over and over."""
    annealing = step >= settings.anneal_from
    blocks = mixtures[annealing]
    order = np.random.default_rng([settings.seed, annealing]).permutation(len(blocks))
    begin = (step - settings.anneal_from * annealing) * settings.batch
    return blocks[order[np.arange(begin, begin + settings.batch) % len(order)]].astype(np.int64)


def _tokenizer(data: Path, out: Path, settings: TargetTraining, log: Log) -> PreTrainedTokenizerFast:
    if (out / "tokenizer.json").is_file():
        stored: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(out)
        return stored
    log("target: training the tokenizer")
    generator = np.random.default_rng(settings.seed)
    texts = (
        document.render()
        for name, share in settings.epochs.items()
        for document in documents(data, name)
        if generator.random() < math.sqrt(share)
    )
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    tokenizer.save_pretrained(out)
    return tokenizer
