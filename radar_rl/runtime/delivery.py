"""Tokens handed on as transformers' ``generate`` does: a step at a time, the same step of all texts together.

Speculative texts of a batch grow at different speeds. A step is delivered once every text that needs it has it; then
stopping criteria and streamer are called with what they would see without speculation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from radar_rl.errors import ConfigError
from radar_rl.speculative.text import Text

KNOWN_TO_TEXTS = (EosTokenCriteria, MaxLengthCriteria)


def eos_of(criteria: Sequence[Any]) -> frozenset[int]:
    """The tokens that end a text."""
    return frozenset(
        int(token) for one in criteria if type(one) is EosTokenCriteria for token in one.eos_token_id.tolist()
    )


def new_tokens_of(criteria: Sequence[Any], width: int) -> int:
    """The most tokens that follow prompts of ``width`` tokens, padding included; ``generate`` makes one at least.

    Raises:
        ConfigError: nothing says.
    """
    lengths = [one.max_length for one in criteria if type(one) is MaxLengthCriteria]
    if not lengths:
        raise ConfigError("max_new_tokens: expected a number, got no limit on the text's length")
    return max(1, min(lengths) - width)


class Delivery:
    """Delivers the steps of a batch.

    Args:
        input_ids: [B, width] int64, padded left.
        room: the most new tokens.
        criteria: what ends texts.
        streamer: gets each step's tokens [B] and is told the end; or None.
        pad: what follows a text that ended before others, or None.

    Raises:
        ConfigError: there are several texts and criteria that ask for padding, but no ``pad``.
    """

    def __init__(
        self, input_ids: Tensor, room: int, criteria: Sequence[Any], streamer: Any | None, pad: int | None
    ) -> None:
        batch, self.width = input_ids.shape
        # A text that ended goes on where nothing says how to pad it, and so does generate's.
        self.pads = any(hasattr(one, "eos_token_id") for one in criteria)
        if self.pads and pad is None and batch > 1:
            raise ConfigError("pad_token_id: expected one, as texts of a batch end at different lengths")
        self.pad = pad or 0
        self.others = StoppingCriteriaList([one for one in criteria if type(one) not in KNOWN_TO_TEXTS])
        self.streamer, self.steps = streamer, 0
        self.going = [True] * batch
        self._ids = torch.nn.functional.pad(input_ids, (0, room), value=self.pad)

    def deliver(self, texts: Sequence[Text]) -> list[int]:
        """Hand on all steps that are complete.

        Args:
            texts: as far as they are decoded.

        Returns:
            Indices of texts that need no more decoding.
        """
        while any(self.going) and self._complete(texts):
            at = self.width + self.steps
            tokens = [
                text.token_ids[self.steps] if going or not self.pads else self.pad
                for text, going in zip(texts, self.going, strict=True)
            ]
            step = torch.tensor(tokens, device=self._ids.device)
            self._ids[:, at] = step
            self.steps += 1
            ended = [text.finished and len(text.token_ids) == self.steps for text in texts]
            if self.others:
                said = self.others(self._ids[:, : at + 1], None).tolist()
                ended = [known or other for known, other in zip(ended, said, strict=True)]
            self.going = [going and not end for going, end in zip(self.going, ended, strict=True)]
            if self.streamer is not None:
                self.streamer.put(step.cpu())
        if not any(self.going):
            return list(range(len(texts)))
        return [i for i, going in enumerate(self.going) if not going and self.pads]

    def _complete(self, texts: Sequence[Text]) -> bool:
        needed = [text for text, going in zip(texts, self.going, strict=True) if going or not self.pads]
        return all(len(text.token_ids) > self.steps for text in needed)

    def finish(self) -> Tensor:
        """Tell the streamer; the prompts and all that was delivered, [B, width + steps]."""
        if self.streamer is not None:
            self.streamer.end()
        return self._ids[:, : self.width + self.steps].clone()
