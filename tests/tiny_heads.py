"""Tiny EAGLE-3 heads on disk in the layouts of the three projects, each written out by hand."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

TARGET_HIDDEN = 32
VOCABULARY = 64
DRAFT_IDS = torch.arange(1, VOCABULARY, 3)
HEADS, KV_HEADS, INTERMEDIATE = 4, 2, 40
THETA, EPS = 500000.0, 1e-5


def weights(options: dict[str, bool], hidden: int = TARGET_HIDDEN, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by SafeAILab's names."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    def norm(size: int) -> Tensor:
        return torch.rand(size, generator=generator) + 0.5

    tensors = {
        "fc.weight": matrix(hidden, 3 * TARGET_HIDDEN),
        "midlayer.hidden_norm.weight": norm(hidden),
        "midlayer.input_layernorm.weight": norm(hidden),
        "midlayer.post_attention_layernorm.weight": norm(hidden),
        "midlayer.self_attn.q_proj.weight": matrix(hidden, 2 * hidden),
        "midlayer.self_attn.k_proj.weight": matrix(hidden // 2, 2 * hidden),
        "midlayer.self_attn.v_proj.weight": matrix(hidden // 2, 2 * hidden),
        "midlayer.self_attn.o_proj.weight": matrix(hidden, hidden),
        "midlayer.mlp.gate_proj.weight": matrix(INTERMEDIATE, hidden),
        "midlayer.mlp.up_proj.weight": matrix(INTERMEDIATE, hidden),
        "midlayer.mlp.down_proj.weight": matrix(hidden, INTERMEDIATE),
        "norm.weight": norm(hidden),
        "lm_head.weight": matrix(len(DRAFT_IDS), hidden) * 4,
        "d2t": DRAFT_IDS - torch.arange(len(DRAFT_IDS)),
        "t2d": torch.zeros(VOCABULARY, dtype=torch.bool).index_fill(0, DRAFT_IDS, True),
        "embed_tokens.weight": matrix(VOCABULARY, hidden) * 4,
    }
    if options.get("fc_norm"):
        tensors |= {f"fc_norm.{i}.weight": norm(TARGET_HIDDEN) for i in range(3)}
    if options.get("norm_before_fc"):
        tensors["input_norm.weight"] = norm(3 * TARGET_HIDDEN)
    return tensors


def layer(hidden: int = TARGET_HIDDEN) -> dict[str, Any]:
    """The decoder layer as the configs of all three have it."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": hidden // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "model_type": "llama",
    }


def safeailab(options: dict[str, bool], hidden: int) -> dict[str, Any]:
    assert not options
    aside = {"target_hidden_size": TARGET_HIDDEN} if hidden != TARGET_HIDDEN else {}
    return {"architectures": ["LlamaForCausalLM"], **layer(hidden), "draft_vocab_size": len(DRAFT_IDS), **aside}


def specforge(options: dict[str, bool], hidden: int) -> dict[str, Any]:
    return safeailab({}, hidden) | {"architectures": ["LlamaForCausalLMEagle3"], "use_sliding_window": False, **options}


def speculators(options: dict[str, bool], hidden: int) -> dict[str, Any]:
    flags = {"norm_before_residual": False, "norm_before_fc": False, "fc_norm": False, "norm_output": False}
    return {
        "architectures": ["Eagle3DraftModel"],
        "auto_map": {"": "eagle3.Eagle3SpeculatorConfig"},
        "draft_vocab_size": len(DRAFT_IDS),
        "dtype": "float32",
        "eagle_aux_hidden_state_layer_ids": None,
        "embed_requires_grad": False,
        **(flags | options),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
            "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": "tiny"},
        },
        "speculators_model_type": "eagle3",
        "speculators_version": "0.6.0",
        "target_hidden_size": TARGET_HIDDEN if hidden != TARGET_HIDDEN else None,
        "transformer_layer_config": layer(hidden),
    }


CONFIGS = {"safeailab": safeailab, "specforge": specforge, "speculators": speculators}


def write_head(
    folder: Path,
    format: str,
    options: dict[str, bool] | None = None,
    hidden: int = TARGET_HIDDEN,
    tensors: dict[str, Tensor] | None = None,
    **changed: Any,
) -> Path:
    """Write a head; ``changed`` replaces keys of the config."""
    options = options or {}
    tensors = weights(options, hidden) if tensors is None else tensors
    if format == "speculators":
        tensors = {name.replace("midlayer.", "layers.0."): tensor for name, tensor in tensors.items()}
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[format](options, hidden) | changed))
    return folder
