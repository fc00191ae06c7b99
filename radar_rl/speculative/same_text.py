"""Whether a model's text will be its own: what a target must be, and that our passes give the logits its own do."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from radar_rl.errors import CheckpointError
from radar_rl.speculative.target import Target, TargetCache

PROBE = 8  # tokens
SAME = {torch.float32: 1e-3, torch.float64: 1e-3}
SAME_HALF = 5e-2
"""Largest difference of two logits, as a share of the largest logit, that floating point explains."""


def check_kind(model: PreTrainedModel) -> None:
    """Refuse models that are more than a decoder of text.

    Raises:
        CheckpointError: saying what it lacks.
    """
    kind, config = type(model).__name__, model.config
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    lacking = [name for name in (*needed, "max_position_embeddings") if getattr(config, name, None) is None]
    if config.is_encoder_decoder or config.get_text_config() is not config or lacking:
        raise CheckpointError(
            f"{kind}: expected a decoder-only model of text, such as Llama or Qwen"
            + (f"; its config lacks {', '.join(lacking)}" if lacking else "")
        )


def own_logits(model: PreTrainedModel) -> Tensor:
    """What a model says of some tokens by itself, before anything of it is replaced: [PROBE, vocabulary] float32."""
    with torch.inference_mode():
        said: Any = model(input_ids=_probe(model)[None], use_cache=False)
    logits: Tensor = said.logits[0].float()
    return logits


def check_logits(target: Target, own: Tensor) -> None:
    """Refuse a model that does something to its logits, or within attention, that our passes leave out.

    Args:
        target: the model, its passes ours.
        own: what ``own_logits`` gave; where they are not finite nothing can be compared, and decoding says so.

    Raises:
        CheckpointError: the logits differ by more than floating point explains.
    """
    if not bool(own.isfinite().all()):
        return
    with torch.inference_mode():
        hidden, _ = target.extend(_probe(target.model), TargetCache(target.model, PROBE))
        ours = target.logits(hidden)
    limit = SAME.get(target.model.dtype, SAME_HALF) * float(own.abs().max())
    if ours.shape != own.shape or not float((ours - own).abs().max()) <= limit:
        raise CheckpointError(
            f"{target.model.config.model_type}: its logits are not what its layers and output layer give with plain "
            "attention (soft-capped or scaled ones, for example); its text would not be its own. Known to work: Llama, "
            "Mistral, Qwen2, Qwen3"
        )


def _probe(model: PreTrainedModel) -> Tensor:
    return torch.arange(PROBE, device=model.device) % int(model.config.vocab_size)
