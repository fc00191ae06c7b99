"""A trained pair inside a larger shape that computes the same function, so that its seconds are a larger model's.

The residual's first channels are the small model's and all others stay exactly zero: rows that write to them are zero.
What reads the zeros, and what nothing reads, is random, so that a forward moves and multiplies real numbers. Over h
live channels of H, a mean of squares is h/H of the small model's; RMSNorm weights times √(h/H) and eps times h/H undo
that, without rounding where √(h/H) is a power of two. Further layers have output projections of zeros. What differs
then is the order in which a matrix product adds up: logits agree to rounding, or bit for bit if the order is the same.
"""

import copy
import os
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from radar_rl.errors import ConfigError
from radar_rl.speculative.fast import speed_up
from radar_rl.speculative.graphs import Arena
from radar_rl.speculative.heads import Eagle3Head
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.target import Target

WRITES = ("embed_tokens", "fc", "o_proj", "down_proj")  # the layers whose outputs the residual takes
RANDOM_STD = 0.02  # Llama's initializer_range


@dataclass(frozen=True)
class InflatedShape:
    """The shape that a pair is inflated to; names are those of a Hugging Face config, head_dim stays the pair's own.

    The draft head takes the target's sizes, as EAGLE3-LLaMA3.1-Instruct-8B does.

    Raises:
        ConfigError: a number is not positive, or heads do not divide as attention needs.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    draft_vocab_size: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"inflate.{field.name}: expected at least 1, got {getattr(self, field.name)}")
        for whole, part in (("num_attention_heads", "num_key_value_heads"), ("hidden_size", "num_attention_heads")):
            if getattr(self, whole) % getattr(self, part):
                divisor, got = getattr(self, part), getattr(self, whole)
                raise ConfigError(f"inflate.{whole}: expected a multiple of {part} = {divisor}, got {got}")

    @property
    def label(self) -> str:
        """What tables and profiles add to the pair's name."""
        return (
            f" inflated (hidden {self.hidden_size}, intermediate {self.intermediate_size}, "
            f"{self.num_hidden_layers} layers, heads {self.num_attention_heads}/{self.num_key_value_heads}, "
            f"vocabulary {self.vocab_size}/{self.draft_vocab_size})"
        )


class CutLinear(nn.Linear):
    """An output layer over a larger vocabulary: every row is computed, the live ones are returned."""

    def __init__(self, hidden_size: int, vocab_size: int, live: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)
        self.live = live

    def forward(self, input: Tensor) -> Tensor:
        """[..., hidden] → [..., live]."""
        return super().forward(input)[..., : self.live]


def inflate_pair(pair: Pair, shape: InflatedShape, seed: int = 0) -> Pair:
    """A pair of the given shape that drafts, accepts and emits what ``pair`` does.

    Identities stay ``pair``'s, so its traces and policies apply; ``inflated`` and ``label`` tell the two apart.

    Args:
        pair: a Llama target without biases and its EAGLE-3 head; the new one has its dtype and device.
        shape: at least as large as the pair.
        seed: names the weights that cannot matter.

    Raises:
        ConfigError: the pair is of another kind, the shape is too small for it, or memory is for the shape.
    """
    target, head = pair.target, pair.head
    if not isinstance(head, Eagle3Head) or any(
        config.model_type != "llama" or config.attention_bias or config.mlp_bias
        for config in (target.model.config, head.config)
    ):
        raise ConfigError("only a Llama target without biases and its EAGLE-3 head can be inflated")
    for config, draft_vocab_size in ((target.model.config, 0), (head.config, len(head.draft_to_target))):
        _check_fits(config, draft_vocab_size, shape)
    model, wide_head = _on_meta(pair, shape)
    _check_memory([model, wide_head], target.device)
    generator = torch.Generator(target.device).manual_seed(seed)
    for module in (model, wide_head):
        module.to_empty(device=target.device)
        _fill(module, generator)
    # Rotary positions have no shape to inflate, and to_empty left their tables empty.
    model.model.rotary_emb = copy.deepcopy(target.decoder.rotary_emb)
    wide_head.cos, wide_head.sin, wide_head.draft_to_target = head.cos, head.sin, head.draft_to_target
    wide = Target(model, eagle3=True)
    with torch.no_grad():
        _place_target(wide, target)
        _place_head(wide_head, head, target.hidden_size)
    wide_head.join()
    speed_up(model)
    return replace(
        pair,
        target=wide,
        head=wide_head.eval().requires_grad_(False),
        inflated=shape.label,
        arena=Arena(pair.arena.capture),
    )


def _check_fits(config: LlamaConfig, draft_vocab_size: int, shape: InflatedShape) -> None:
    """The shape holds a model; its key/value heads hold the model's, doubled where query heads share fewer of them."""
    live_heads, live_kv = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    copies = _copies(live_heads // live_kv, shape.num_attention_heads // shape.num_key_value_heads)
    needed = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": live_kv * copies,
        "vocab_size": config.vocab_size,
        "draft_vocab_size": draft_vocab_size,
    }
    for name, least in needed.items():
        if getattr(shape, name) < least:
            raise ConfigError(f"inflate.{name}: the pair needs at least {least}, got {getattr(shape, name)}")


def _on_meta(pair: Pair, shape: InflatedShape) -> tuple[Any, Eagle3Head]:
    """Target model and head of the shape, without memory."""
    target, head = pair.target, pair.head
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            _config(target.model.config, shape), dtype=target.model.dtype, attn_implementation="sdpa"
        )
        model.lm_head = CutLinear(shape.hidden_size, shape.vocab_size, target.vocab_size).to(target.model.dtype)
        wide_head = Eagle3Head(_config(head.config, shape), shape.hidden_size, shape.vocab_size)
        wide_head.lm_head = CutLinear(shape.hidden_size, shape.draft_vocab_size, len(head.draft_to_target))
    model.config.vocab_size = target.vocab_size  # what the logits are over
    return model, wide_head.to(target.model.dtype)


def _config(config: LlamaConfig, shape: InflatedShape) -> LlamaConfig:
    """A model's config with the shape's sizes, and eps scaled to the wider mean of squares."""
    kept = {
        "rms_norm_eps": config.rms_norm_eps * config.hidden_size / shape.hidden_size,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**(config.to_dict() | asdict(shape) | kept))


def _check_memory(modules: list[nn.Module], device: torch.device) -> None:
    needed = sum(weight.nbytes for module in modules for weight in module.parameters())
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[0]
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ConfigError(
            f"the inflated pair's weights take {needed / 2**30:.1f} GiB, {device} has {there / 2**30:.1f} GiB; "
            "choose smaller model.inflate.… or another model.device"
        )


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """What is there before anything live: zeros where the residual is written, ones in norms, else random."""
    for name, weight in module.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1)
        elif name.split(".")[-2] in WRITES:
            weight.zero_()
        else:
            weight.normal_(0, RANDOM_STD, generator=generator)


def _place_target(wide: Target, live: Target) -> None:
    """Write the live model into the wide one; layers move so that the feature layers' inputs stay the same."""
    starts, wide_starts = (0, *live.feature_layers), (0, *wide.feature_layers)
    for i, layer in enumerate(live.decoder.layers):
        segment = bisect_right(starts, i) - 1
        into = wide.decoder.layers[wide_starts[segment] + i - starts[segment]]
        for name in ("input_layernorm", "post_attention_layernorm"):
            _place_norm(getattr(into, name), getattr(layer, name))
        _place_attention(into.self_attn, layer.self_attn, inputs=1)
        _place_mlp(into.mlp, layer.mlp)
    _place_norm(wide.decoder.norm, live.decoder.norm)
    for into, part in ((wide.decoder.embed_tokens, live.decoder.embed_tokens), (wide.output_layer, live.output_layer)):
        _place(into.weight, part.weight)


def _place_head(wide: Eagle3Head, live: Eagle3Head, target_hidden_size: int) -> None:
    into: Any = wide.midlayer
    layer: Any = live.midlayer
    for name in ("hidden_norm", "input_layernorm", "post_attention_layernorm"):
        _place_norm(into[name], layer[name])
    _place_norm(wide.norm, live.norm)
    _place_attention(into["self_attn"], layer["self_attn"], inputs=2)  # [embedding, hidden]
    _place_mlp(into["mlp"], layer["mlp"])
    _place(wide.embed_tokens.weight, live.embed_tokens.weight)
    _place(wide.lm_head.weight, live.lm_head.weight)
    for part, columns in zip(wide.fc.weight.chunk(3, dim=1), live.fc.weight.split(target_hidden_size, 1), strict=True):
        _place(part, columns)


def _place(into: Tensor, live: Tensor) -> None:
    """Live rows and columns come first."""
    into[: live.shape[0], : live.shape[1]] = live


def _place_norm(into: Any, live: Any) -> None:
    count = len(live.weight)
    into.weight[:count] = live.weight * (count / len(into.weight)) ** 0.5


def _place_mlp(into: Any, live: Any) -> None:
    for name in ("gate_proj", "up_proj", "down_proj"):
        _place(getattr(into, name).weight, getattr(live, name).weight)


def _place_attention(into: Any, live: Any, inputs: int) -> None:
    """Query heads go where the wide grouping gives them their key/value head, which is copied if groups are smaller.

    Args:
        into, live: attention of Llama or of a draft head.
        inputs: hidden states that the projections read side by side.
    """
    width = live.head_dim
    heads, kv_heads = live.q_proj.out_features // width, live.k_proj.out_features // width
    group, wide_group = heads // kv_heads, into.q_proj.out_features // into.k_proj.out_features
    copies = _copies(group, wide_group)
    query = torch.arange(heads)
    query_at = (query // group * copies + query % group // wide_group) * wide_group + query % group % wide_group
    kv_at = torch.arange(kv_heads * copies)
    for name, at, of in (
        ("q_proj", query_at, query),
        ("k_proj", kv_at, kv_at // copies),
        ("v_proj", kv_at, kv_at // copies),
    ):
        # [heads, D, inputs, hidden]
        wide_weight = getattr(into, name).weight.unflatten(0, (-1, width)).unflatten(2, (inputs, -1))
        weight = getattr(live, name).weight.unflatten(0, (-1, width)).unflatten(2, (inputs, -1))
        wide_weight[at, ..., : weight.shape[-1]] = weight[of]
    output = live.o_proj.weight.unflatten(1, (-1, width))  # [hidden, heads, D]
    into.o_proj.weight.unflatten(1, (-1, width))[: len(output), query_at] = output


def _copies(group: int, wide_group: int) -> int:
    """Key/value heads of the wide model that serve one of the live model's."""
    return -(-group // wide_group)
