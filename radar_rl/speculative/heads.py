"""Draft heads: EAGLE-3 (arXiv 2503.01840) and EAGLE-2 (arXiv 2406.16858).

A head reads slots. Slot i of a text x holds the target's features at token i beside the embedding of token i + 1, and
the head's output there predicts token i + 2. Past the committed text, a node's own output stands in for features.
Parameter names are those of SafeAILab's checkpoints, so a state dict loads as it is.
"""

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from radar_rl.speculative.attention import additive, fold, folded_attention, rotate
from radar_rl.speculative.fast import can_pack, join, speed_up
from radar_rl.speculative.graphs import BUCKET, Replays, rounded

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query [B, H, m, D], key [B, K, m, D], value [B, K, m, D]) → [B, H, m, D]: stores keys, attends to what it should."""


class RMSNorm(nn.Module):
    """Root-mean-square norm (Llama)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] → [..., size]."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """The head's self-attention: projections and rotary positions; what is attended to is the caller's affair."""

    def __init__(self, config: LlamaConfig, input_size: int) -> None:
        super().__init__()
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or self.heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        bias = bool(getattr(config, "attention_bias", False))
        self.q_proj = nn.Linear(input_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=bias)
        self.joined: Callable[[Tensor], Tensor] | None = None

    def join(self) -> None:
        """For inference: query, key and value in one product. The module must not change type or device after it."""
        self.joined = join((self.q_proj, self.k_proj, self.v_proj))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """[B, m, input] → [B, m, hidden]; cos, sin: [B or 1, m, D]."""
        batch, m, _ = x.shape
        together = self.joined(x) if self.joined else torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), -1)
        together = together.view(batch, m, -1, self.head_dim).transpose(1, 2)  # [B, H + 2K, m, D]
        turned = rotate(together[:, : self.heads + self.kv_heads], cos[:, None], sin[:, None])
        mixed = attend(turned[:, : self.heads], turned[:, self.heads :], together[:, self.heads + self.kv_heads :])
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, m, -1))
        return projected


class MLP(nn.Module):
    """Llama's gated feed-forward block."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.joined: Callable[[Tensor], Tensor] | None = None

    def join(self) -> None:
        """For inference: gate and up in one product. The module must not change type or device after it."""
        self.joined = join((self.gate_proj, self.up_proj))

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] → [..., hidden]."""
        gate, up = self.joined(x).chunk(2, dim=-1) if self.joined else (self.gate_proj(x), self.up_proj(x))
        down: Tensor = self.down_proj(F.silu(gate) * up)
        return down


class DraftHead(nn.Module):
    """What both heads share: rotary tables, embeddings, the map from draft to target vocabulary.

    Attributes:
        draft_to_target: [draft vocabulary] int64, the target's token id of each draft token id.
        feature_size: width of the target's features that a slot takes.
    """

    draft_to_target: Tensor
    cos: Tensor
    sin: Tensor
    feature_size: int

    def __init__(self, config: LlamaConfig, vocab_size: int, draft_vocab_size: int, embedding_size: int) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(vocab_size, embedding_size)
        self.register_buffer("draft_to_target", torch.arange(draft_vocab_size), persistent=False)
        self.outgrown: list[tuple[Tensor, Tensor]] = []  # tables that captured passes still read, by address
        self.build_rotary_tables(config.max_position_embeddings)

    def build_rotary_tables(self, length: int) -> None:
        """Tables of the rotary embedding (with the config's scaling) for positions below ``length``."""
        positions = torch.arange(length)[None]
        cos, sin = LlamaRotaryEmbedding(self.config)(torch.zeros(1), positions)
        sin[..., : sin.shape[-1] // 2].neg_()  # as ``rotate`` wants it
        self.register_buffer("cos", cos[0], persistent=False)  # [length, D]
        self.register_buffer("sin", sin[0], persistent=False)

    def reach(self, length: int) -> None:
        """Make the rotary tables cover positions below ``length``: near a context's end trees look past it."""
        if len(self.cos) < length:
            like = self.cos
            self.outgrown.append((self.cos, self.sin))
            self.build_rotary_tables(length)
            self.cos, self.sin = self.cos.to(like), self.sin.to(like)

    def join(self) -> None:
        """For inference: fewer and larger operations. The head must not change type or device after it."""
        for module in self.modules():
            if isinstance(module, Attention) or (isinstance(module, MLP) and not can_pack(module.up_proj.weight)):
                module.join()
        speed_up(self)

    def condition(self, features: Tensor) -> Tensor:
        """The target's features as the head's hidden state: [..., feature_size] → [..., hidden]."""
        raise NotImplementedError

    def layer(self, hidden: Tensor, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The head's one decoder layer.

        Args:
            hidden: [B, m, hidden] conditioned features, or outputs of parent nodes.
            token_ids: [B, m] the token that follows each.
            positions: [B or 1, m] slot positions for the rotary embedding.

        Returns:
            [B, m, hidden].
        """
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: [..., hidden] → [..., draft vocabulary]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Eagle3Options:
    """Where a head departs from EAGLE-3 as published; all off is SafeAILab's.

    Definitions: vllm-project/speculators, ``models/eagle3/config.py`` and ``core.py``, and vllm-project/vllm,
    ``models/llama_eagle3.py``, which agree. ``fc_norm`` with ``norm_output`` is EAGLE-3.1 (arXiv 2605.09992).

    Attributes:
        fc_norm: each of the three features passes a norm of its own before ``fc``.
        norm_before_fc: the three features side by side pass one norm before ``fc``; excludes ``fc_norm``.
        norm_before_residual: the layer's residual path starts after ``hidden_norm``, not before it.
        norm_output: the layer's output passes ``norm`` before it is fed to the next draft call, not only before
            ``lm_head``.
    """

    fc_norm: bool = False
    norm_before_fc: bool = False
    norm_before_residual: bool = False
    norm_output: bool = False


class Eagle3Head(DraftHead):
    """EAGLE-3: features of three target layers, fused by ``fc``; attention reads [embedding, hidden].

    Args:
        config: the decoder layer, and ``draft_vocab_size``.
        target_hidden_size: width of one feature; the head's own hidden size may be another.
        vocab_size: the target's.
        options: departures from EAGLE-3 as published.
    """

    def __init__(
        self,
        config: LlamaConfig,
        target_hidden_size: int,
        vocab_size: int,
        options: Eagle3Options = Eagle3Options(),
    ) -> None:
        draft_vocab_size = getattr(config, "draft_vocab_size", None) or vocab_size
        super().__init__(config, vocab_size, draft_vocab_size, config.hidden_size)
        self.options = options
        self.feature_size = 3 * target_hidden_size
        size, eps = config.hidden_size, config.rms_norm_eps
        if options.fc_norm:
            self.fc_norm = nn.ModuleList([RMSNorm(target_hidden_size, eps) for _ in range(3)])
        if options.norm_before_fc:
            self.input_norm = RMSNorm(self.feature_size, eps)
        self.fc = nn.Linear(self.feature_size, size, bias=False)
        self.midlayer = nn.ModuleDict(
            {
                "hidden_norm": RMSNorm(size, eps),
                "input_layernorm": RMSNorm(size, eps),
                "self_attn": Attention(config, 2 * size),
                "post_attention_layernorm": RMSNorm(size, eps),
                "mlp": MLP(config),
            }
        )
        self.norm = RMSNorm(size, eps)
        self.lm_head = nn.Linear(size, draft_vocab_size, bias=False)

    def condition(self, features: Tensor) -> Tensor:
        """[..., 3 · target hidden] → [..., hidden]."""
        if self.options.fc_norm:
            parts = zip(self.fc_norm, features.chunk(3, dim=-1), strict=True)
            features = torch.cat([norm(part) for norm, part in parts], dim=-1)
        if self.options.norm_before_fc:
            features = self.input_norm(features)
        fused: Tensor = self.fc(features)
        return fused

    def layer(self, hidden: Tensor, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """See ``DraftHead.layer``."""
        part: Any = self.midlayer
        normed = part["hidden_norm"](hidden)
        x = torch.cat((part["input_layernorm"](self.embed_tokens(token_ids)), normed), dim=-1)
        residual = normed if self.options.norm_before_residual else hidden
        hidden = residual + part["self_attn"](x, self.cos[positions], self.sin[positions], attend)
        output: Tensor = hidden + part["mlp"](part["post_attention_layernorm"](hidden))
        return self.norm(output) if self.options.norm_output else output

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] → [..., draft vocabulary]."""
        scores: Tensor = self.lm_head(hidden if self.options.norm_output else self.norm(hidden))
        return scores


class Eagle2Head(DraftHead):
    """EAGLE-2: the target's last hidden state (after its final norm); ``fc`` fuses it with the embedding.

    ``lm_head`` is the target's own, handed over by ``load_pair``; it is no parameter of the head.
    """

    def __init__(self, config: LlamaConfig, target_hidden_size: int, vocab_size: int) -> None:
        super().__init__(config, vocab_size, vocab_size, config.hidden_size)
        self.feature_size = target_hidden_size
        size, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * size, size, bias=bool(getattr(config, "bias", True)))
        self.layers = nn.ModuleList(
            [
                nn.ModuleDict(
                    {
                        "self_attn": Attention(config, size),
                        "post_attention_layernorm": RMSNorm(size, eps),
                        "mlp": MLP(config),
                    }
                )
            ]
        )
        self.target_logits: Callable[[Tensor], Tensor] | None = None

    def condition(self, features: Tensor) -> Tensor:
        """EAGLE-2 takes features as they are."""
        return features

    def layer(self, hidden: Tensor, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """See ``DraftHead.layer``."""
        part: Any = self.layers[0]
        x = self.fc(torch.cat((self.embed_tokens(token_ids), hidden), dim=-1))
        x = x + part["self_attn"](x, self.cos[positions], self.sin[positions], attend)
        output: Tensor = x + part["mlp"](part["post_attention_layernorm"](x))
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] → [..., vocabulary], by the target's own output layer."""
        assert self.target_logits is not None, "load_pair hands the target's output layer over"
        return self.target_logits(hidden)


class DraftCache:
    """Keys and values of the committed slots of B texts, written in place, and room for a tree's slots behind them.

    Args:
        head: whose keys and values it will hold.
        capacity: slots of each text, its tree's included.
        batch: texts.
        replays: captured passes; None: they run operation by operation.

    Attributes:
        keys, values: [B, K, capacity, D].
        lengths: committed slots of each text.
    """

    def __init__(self, head: DraftHead, capacity: int, batch: int = 1, replays: Replays | None = None) -> None:
        attention: Any = next(module for module in head.modules() if isinstance(module, Attention))
        head.reach(capacity)
        like = attention.k_proj.weight
        shape = (batch, attention.kv_heads, capacity, attention.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.group = attention.heads // attention.kv_heads
        self.lengths = [0] * batch
        self.replays = replays
        self.judges: dict[Hashable, Any] = {}  # whose weights captured passes know by address

    @property
    def bucket(self) -> int:
        """Passes keep their shape over this many slots."""
        return BUCKET if self.replays else 1

    def fresh(self) -> "DraftCache":
        """For new texts, in the same memory."""
        part = copy.copy(self)
        part.lengths = [0] * len(self.lengths)
        return part

    def row(self, index: int) -> "DraftCache":
        """One text's part, in the same memory; its ``lengths`` are its own."""
        part = copy.copy(self)
        part.keys, part.values = self.keys[index : index + 1], self.values[index : index + 1]
        part.lengths, part.replays = [self.lengths[index]], None
        return part

    def keep(self, rows: Sequence[int]) -> None:
        """Let texts leave: the rows named here, ascending, move to the front; the others are forgotten."""
        for to, row in enumerate(rows):
            if to != row:
                self.keys[to], self.values[to] = self.keys[row], self.values[row]
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]
        self.lengths = [self.lengths[row] for row in rows]

    def extend(self, head: DraftHead, features: Tensor, token_ids: Tensor, counts: Sequence[int]) -> Tensor:
        """Commit slots: the head's forward over new text.

        Args:
            features: [B, m, feature_size] the target's features at each text's tokens ``length`` … ``length + m - 1``.
            token_ids: [B, m] the tokens that follow them.
            counts: how many of the m slots each text commits; what is computed behind them is overwritten later.

        Returns:
            [B, m, hidden], the head's outputs at the new slots.
        """
        batch, m = token_ids.shape
        starts = torch.tensor(self.lengths, device=token_ids.device)[:, None]
        positions = starts + torch.arange(m, device=token_ids.device)  # [B, m]
        stop = rounded(max(self.lengths) + m, self.bucket)
        visible = torch.arange(stop, device=token_ids.device) <= positions[:, :, None]
        bias = fold(additive(visible, self.keys.dtype), self.group)
        rows = torch.arange(batch, device=token_ids.device)[:, None]
        keys, values, in_order = self.keys, self.values, batch == 1 and self.replays is None

        def over_text(features: Tensor, token_ids: Tensor, positions: Tensor, bias: Tensor) -> tuple[Tensor]:
            def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                if in_order:
                    keys[:, :, stop - m : stop], values[:, :, stop - m : stop] = key, value
                else:
                    keys[rows, :, positions] = key.transpose(1, 2)
                    values[rows, :, positions] = value.transpose(1, 2)
                return folded_attention(query, keys[:, :, :stop], values[:, :, :stop], bias)

            return (head.layer(head.condition(features), token_ids, positions, attend),)

        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        run = partial(self.replays, ("text", stop), over_text) if self.replays else over_text
        return run(features, token_ids, positions, bias)[0]
