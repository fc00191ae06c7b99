"""The target: any decoder of transformers whose layers can be hooked, with an in-place cache for tree verification."""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from radar_rl.errors import CheckpointError
from radar_rl.speculative.attention import additive, fold, folded_attention
from radar_rl.speculative.graphs import BUCKET, Replays, rounded

FOLDED = "radar_rl_folded"
FULL, SLIDING = "full_attention", "sliding_attention"
MOVING_ROPE = ("dynamic", "longrope")  # frequencies that change with the text's length: cached keys would be stale


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The attention interface of transformers: ``folded_attention`` for masks that ``fold`` made, else theirs."""
    rows = query.shape[2] * (query.shape[1] // key.shape[1])
    if attention_mask is None or attention_mask.shape[2] != rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return folded_attention(query, key, value, attention_mask, options.get("scaling")).transpose(1, 2), None


AttentionInterface.register(FOLDED, _attention)
AttentionMaskInterface.register(FOLDED, sdpa_mask)


class TargetCache(Cache):
    """Keys and values of every layer for B texts in one block of memory, written in place.

    New keys and values are written at ``start`` for all texts alike, behind the longest; ``commit`` moves those that
    stay behind their own text. Of transformers' cache only ``update`` is asked.

    Args:
        model: whose keys and values it will hold.
        capacity: positions of each text.
        batch: texts.
        replays: captured passes over trees; None: they run operation by operation.

    Attributes:
        block: [layers, 2, B, K, capacity, D]; the first ``lengths[b]`` positions of text b are committed.
        lengths: committed positions of each text.
        start: where new keys and values go.
    """

    def __init__(self, model: PreTrainedModel, capacity: int, batch: int = 1, replays: Replays | None = None) -> None:
        super().__init__(layers=[])
        config = model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, width)
        self.block = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.replays = replays
        self.settle([0] * batch)

    def settle(self, lengths: Sequence[int]) -> None:
        """Say how many positions of each text are committed; what is written next goes behind the longest."""
        self.lengths = list(lengths)
        self.start = rounded(max(lengths), BUCKET if self.replays else 1)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values; transformers calls it from every attention layer.

        Args:
            key_states, value_states: [B, K, m, D].

        Returns:
            Keys and values so far, [B, K, start + m, D] each.
        """
        start = self.start
        stop = start + key_states.shape[2]
        keys, values = self.block[layer_idx]
        keys[:, :, start:stop], values[:, :, start:stop] = key_states, value_states
        return keys[:, :, :stop], values[:, :, :stop]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before the new ones."""
        return self.start

    def fresh(self) -> "TargetCache":
        """For new texts, in the same memory."""
        part = copy.copy(self)
        part.settle([0] * len(self.lengths))
        return part

    def row(self, index: int) -> "TargetCache":
        """One text's part, in the same memory; its ``lengths`` are its own."""
        part = copy.copy(self)
        part.block, part.replays = self.block[:, :, index : index + 1], None
        part.settle([self.lengths[index]])
        return part

    def commit(self, kept: Tensor, counts: Sequence[int]) -> None:
        """Keep some of the positions just written, moved together behind each text, and forget the others.

        Args:
            kept: [B, j] int64, indices among the new positions.
            counts: how many of the j each text keeps; what lies behind them is overwritten later.
        """
        start, j = self.start, kept.shape[1]
        if len(self.lengths) == 1:
            length = self.lengths[0]
            self.block[..., length : length + j, :] = self.block[..., start + kept[0], :]
        else:
            rows = torch.arange(len(self.lengths), device=kept.device)[:, None]
            lengths = torch.tensor(self.lengths, device=kept.device)[:, None]
            to = lengths + torch.arange(j, device=kept.device)  # [B, j]
            self.block[:, :, rows, :, to] = self.block[:, :, rows, :, start + kept]
        self.settle([length + count for length, count in zip(self.lengths, counts, strict=True)])

    def keep(self, rows: Sequence[int]) -> None:
        """Let texts leave: the rows named here, ascending, move to the front; the others are forgotten."""
        for to, row in enumerate(rows):
            if to != row:
                self.block[:, :, to] = self.block[:, :, row]
        self.block = self.block[:, :, : len(rows)]
        self.settle([self.lengths[row] for row in rows])


class Target:
    """A target model and the features that draft heads read from it.

    EAGLE-3's features are the inputs of layers 2, n // 2 and n − 3 side by side (``hidden_states[i]`` in
    transformers' words); EAGLE-2's is the last hidden state after the final norm.

    Args:
        model: a causal language model of transformers.
        eagle3: which features to read.
        lent: the model is someone else's: it is kept alive by its owner alone, stays as it is, and its passes are ours
            only inside ``borrowed``.

    Raises:
        CheckpointError: the model has no layers to hook, too few of them, or layers that a tree cannot go through.
    """

    def __init__(self, model: PreTrainedModel, *, eagle3: bool, lent: bool = False) -> None:
        self.model: Any = weakref.proxy(model) if lent else model.eval().requires_grad_(False)
        self.decoder: Any = model.get_decoder()
        self.output_layer: Any = model.get_output_embeddings()
        config = model.config
        self.vocab_size: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        layers: nn.ModuleList | None = getattr(self.decoder, "layers", None)
        if layers is None or self.output_layer is None:
            raise CheckpointError(f"{type(model).__name__}: expected a decoder with .layers and an output layer")
        count = len(layers)
        if eagle3 and count < 5:
            raise CheckpointError(f"EAGLE-3 reads layers 2, n // 2 and n − 3; the target has only n = {count} layers")
        self.group: int = config.num_attention_heads // config.num_key_value_heads
        self.layer_kinds, self.window = _attention_kinds(config)
        self.feature_layers = (2, count // 2, count - 3) if eagle3 else ()
        self._captured: dict[int, Tensor] = {}
        if not lent:
            self._equip()

    def _equip(self) -> list[RemovableHandle]:
        """Our attention in every layer, and hooks where features are; returns the hooks' handles."""
        self.model.set_attn_implementation(FOLDED)
        layers = self.decoder.layers
        return [layers[i].register_forward_pre_hook(self._hook(i), with_kwargs=True) for i in self.feature_layers]

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """A lent model's passes are ours while this lasts; after it the model is as it was."""
        attention = self.model.config._attn_implementation
        handles = self._equip()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._captured.clear()
            self.model.set_attn_implementation(attention)

    def _hook(self, index: int) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._captured[index] = args[0] if args else kwargs["hidden_states"]

        return before

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.model.device
        return device

    def features(self, hidden: Tensor) -> Tensor:
        """What the head reads from the forward pass just made: [B, m, F].

        Args:
            hidden: [B, m, hidden], the pass's last hidden states.
        """
        if not self.feature_layers:
            return hidden
        inputs = [self._captured[i] for i in self.feature_layers]
        self._captured.clear()
        return torch.cat(inputs, dim=-1)

    def forward(
        self, token_ids: Tensor, positions: Tensor, visible: Tensor, cache: TargetCache
    ) -> tuple[Tensor, Tensor]:
        """One forward pass; keys and values go into ``cache`` behind the committed ones, uncommitted.

        Args:
            token_ids: [B, m] int64.
            positions: [B, m] int64.
            visible: [B, m, cache.start + m] bool, what each token sees.
            cache: committed positions of each text.

        Returns:
            Last hidden states [B, m, hidden] (after the final norm; ``logits`` scores them) and the draft head's
            features [B, m, F].
        """
        masks = {}
        for kind in self.layer_kinds:
            seen = visible
            if kind == SLIDING:
                committed = torch.arange(cache.start, device=positions.device).expand(len(positions), -1)
                key_positions = torch.cat((committed, positions), dim=1)
                seen = visible & (positions[:, :, None] - key_positions[:, None] < self.window)
            masks[kind] = fold(additive(seen, self.model.dtype), self.group)
        hidden = self.decoder(
            input_ids=token_ids,
            position_ids=positions,
            attention_mask=masks if len(masks) > 1 else masks[self.layer_kinds[0]],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden, self.features(hidden)

    def over_tree(
        self, token_ids: Tensor, positions: Tensor, visible: Tensor, cache: TargetCache
    ) -> tuple[Tensor, Tensor]:
        """``forward`` over trees: replayed where the cache's passes are captured."""
        if cache.replays is None:
            return self.forward(token_ids, positions, visible, cache)
        here = copy.copy(cache)  # whose start stays

        def over_tree(token_ids: Tensor, positions: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
            return self.forward(token_ids, positions, visible, here)

        hidden, features = cache.replays(cache.start, over_tree, token_ids, positions, visible)
        return hidden, features

    def step(self, token_id: Tensor, cache: TargetCache) -> Tensor:
        """``extend`` by one token [1] int64, as a tree of one node: last hidden state [1, hidden]."""
        if cache.replays is None:
            return self.extend(token_id, cache)[0]
        position = torch.full_like(token_id, cache.lengths[0])
        seen = torch.arange(cache.start + 1, device=position.device)
        visible = (seen < position) | (seen == cache.start)
        hidden, _ = self.over_tree(token_id[None], position[None], visible[None, None], cache)
        cache.commit(torch.zeros_like(token_id)[None], [1])
        return hidden[0]

    def extend(self, token_ids: Tensor, cache: TargetCache) -> tuple[Tensor, Tensor]:
        """``forward`` over text that follows a cache's one text, committed: causal, positions in order.

        Args:
            token_ids: [m] int64.

        Returns:
            Last hidden states [m, hidden] and features [m, F].
        """
        start, count = cache.start, len(token_ids)
        positions = torch.arange(start, start + count, device=token_ids.device)
        visible = torch.arange(start + count, device=token_ids.device) <= positions[:, None]
        hidden, features = self.forward(token_ids[None], positions[None], visible[None], cache)
        cache.settle([start + count])
        return hidden[0], features[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token in float32: [..., hidden] → [..., vocabulary]."""
        scores: Tensor = self.output_layer(hidden)
        return scores.float()


def _attention_kinds(config: Any) -> tuple[list[str], int]:
    """Which kinds of attention the layers have, and the width of the sliding one's window in tokens.

    Raises:
        CheckpointError: a kind that cannot be told by a mask, or positions that move as the text grows.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_kind = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    types = [str(value.get("rope_type", value.get("type", "default"))) for value in by_kind]
    moving = [name for name in types if name in MOVING_ROPE]
    if moving:
        raise CheckpointError(
            f"{config.model_type}: rope type {moving[0]!r} changes with the text's length, so cached keys would be "
            "stale; expected default, linear, llama3 or yarn"
        )
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or [SLIDING if window else FULL]))
    if not set(kinds) <= {FULL, SLIDING}:
        raise CheckpointError(f"{config.model_type}: layers of kind {kinds}; expected {FULL} or {SLIDING}")
    return kinds, int(window or 0)
