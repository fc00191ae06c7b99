"""A Llama target in Qwen2's architecture: the same function through another family's code.

What Qwen2 has beyond Llama are biases of queries, keys and values; here they are zero. Published tables have targets of
both families, and a pair then has one of each.
"""

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from radar_rl.errors import ConfigError
from radar_rl.speculative.fast import speed_up
from radar_rl.speculative.graphs import Arena
from radar_rl.speculative.heads import Eagle3Head
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.target import Target

AS_QWEN2 = " as Qwen2"
BIASED = ("q_proj", "k_proj", "v_proj")


def as_qwen2(llama: PreTrainedModel) -> Qwen2ForCausalLM:
    """A Llama model as Qwen2 writes it: with the same weights, shared, and the same logits.

    Args:
        llama: without biases, as Llama 2 and 3 are.

    Raises:
        ConfigError: it is of another family, or has biases that Qwen2 has no place for.
    """
    config = llama.config
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise ConfigError(
            f"only a Llama target without biases can be written as Qwen2, this one is {config.model_type}"
        )
    own = config.to_dict()
    shared = {key: own[key] for key in Qwen2Config().to_dict().keys() & own.keys() - {"model_type", "architectures"}}
    # Qwen2's configuration does not list head_dim, its attention does ask for one.
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    written = Qwen2Config(**shared | {"head_dim": width})
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(written, dtype=llama.dtype, attn_implementation="sdpa")
    ours, theirs = model.get_decoder(), llama.get_decoder()
    ours.layers.load_state_dict(_with_biases(theirs.layers.state_dict()), assign=True)
    for part in ("embed_tokens", "norm", "rotary_emb"):
        setattr(ours, part, getattr(theirs, part))
    model.set_output_embeddings(llama.get_output_embeddings())
    model.generation_config = copy.deepcopy(llama.generation_config)
    return cast(Qwen2ForCausalLM, model.eval())


def _with_biases(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of Llama's layers, and the biases of Qwen2's."""
    zeros = {
        name.removesuffix("weight") + "bias": weight.new_zeros(len(weight))
        for name, weight in layers.items()
        if name.split(".")[-2] in BIASED
    }
    return layers | zeros


def qwen2_pair(pair: Pair) -> Pair:
    """A pair whose target is written as Qwen2, with the same head: it drafts, accepts and emits what ``pair`` does.

    Identities stay ``pair``'s, so its traces and policies apply; ``label`` tells the two apart. The weights are shared.

    Raises:
        ConfigError: see ``as_qwen2``.
    """
    model = as_qwen2(pair.target.model)
    target = Target(model, eagle3=isinstance(pair.head, Eagle3Head))
    speed_up(model)
    return replace(pair, target=target, architecture=AS_QWEN2, arena=Arena(pair.arena.capture))
