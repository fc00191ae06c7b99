"""The target: any decoder of transformers whose layers can be hooked, with an in-place cache for tree verification."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from radar_rl.errors import CheckpointError


class TargetCache(Cache):
    """Keys and values of every layer in one block of memory, written in place; only ``update`` is asked of it.

    Attributes:
        block: [layers, 2, B, K, capacity, D]; the first ``length`` positions are committed.
    """

    def __init__(self, model: PreTrainedModel, capacity: int, batch: int = 1) -> None:
        super().__init__(layers=[])
        config = model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, width)
        self.block = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values after the committed ones; transformers calls it from every attention layer.

        Args:
            key_states, value_states: [B, K, m, D].

        Returns:
            Keys and values so far, [B, K, length + m, D] each.
        """
        stop = self.length + key_states.shape[2]
        keys, values = self.block[layer_idx]
        keys[:, :, self.length : stop], values[:, :, self.length : stop] = key_states, value_states
        return keys[:, :, :stop], values[:, :, :stop]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed positions."""
        return self.length

    def commit(self, kept: Tensor) -> None:
        """Keep some of the positions just written, moved together, and forget the others.

        Args:
            kept: [j] int64, indices among the new positions, ascending.
        """
        stop = self.length + len(kept)
        self.block[..., self.length : stop, :] = self.block[..., self.length + kept, :]
        self.length = stop


class Target:
    """A target model and the features that draft heads read from it.

    EAGLE-3's features are the inputs of layers 2, n // 2 and n − 3 side by side (``hidden_states[i]`` in
    transformers' words); EAGLE-2's is the last hidden state after the final norm.

    Args:
        model: a causal language model of transformers.
        eagle3: which features to read.
    """

    def __init__(self, model: PreTrainedModel, *, eagle3: bool) -> None:
        self.model = model.eval().requires_grad_(False)
        self.decoder: Any = model.get_decoder()
        self.output_layer: Any = model.get_output_embeddings()
        self.vocab_size: int = model.config.vocab_size
        self.hidden_size: int = model.config.hidden_size
        layers: nn.ModuleList | None = getattr(self.decoder, "layers", None)
        if layers is None or self.output_layer is None:
            raise CheckpointError(f"{type(model).__name__}: expected a decoder with .layers and an output layer")
        count = len(layers)
        if eagle3 and count < 5:
            raise CheckpointError(f"EAGLE-3 reads layers 2, n // 2 and n − 3; the target has only n = {count} layers")
        self.feature_layers = (2, count // 2, count - 3) if eagle3 else ()
        self._layers = layers

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.model.device
        return device

    @contextmanager
    def capturing(self, into: dict[int, Tensor]) -> Iterator[None]:
        """While open, the inputs of the feature layers are put into ``into`` by layer index."""

        def hook(index: int) -> Any:
            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                into[index] = args[0] if args else kwargs["hidden_states"]

            return before

        handles = [self._layers[i].register_forward_pre_hook(hook(i), with_kwargs=True) for i in self.feature_layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, token_ids: Tensor, positions: Tensor, mask: Tensor, cache: TargetCache) -> tuple[Tensor, Tensor]:
        """One forward pass; keys and values go into ``cache`` after the committed ones, uncommitted.

        Args:
            token_ids: [m] int64.
            positions: [m] int64.
            mask: [m, cache.length + m] bool, what each token sees.

        Returns:
            Last hidden states [m, hidden] (after the final norm; ``logits`` scores them) and the draft head's
            features [m, F].
        """
        captured: dict[int, Tensor] = {}
        with self.capturing(captured):
            hidden = self.decoder(
                input_ids=token_ids[None],
                position_ids=positions[None],
                attention_mask=mask[None, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[0]
        if not self.feature_layers:
            return hidden, hidden
        return hidden, torch.cat([captured[i][0] for i in self.feature_layers], dim=-1)

    def extend(self, token_ids: Tensor, cache: TargetCache) -> tuple[Tensor, Tensor]:
        """``forward`` over text that follows the cache's, committed: causal, positions in order."""
        start, count = cache.length, len(token_ids)
        positions = torch.arange(start, start + count, device=token_ids.device)
        mask = torch.arange(start + count, device=token_ids.device) <= positions[:, None]
        outputs = self.forward(token_ids, positions, mask, cache)
        cache.length += count
        return outputs

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token in float32: [..., hidden] → [..., vocabulary]."""
        scores: Tensor = self.output_layer(hidden)
        return scores.float()
