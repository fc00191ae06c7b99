"""Choosing tokens so that the text depends on the seed alone, never on the policy (DESIGN §3.1).

A token at absolute position p is argmax(processed logits + Gumbel(seed, p)): the Gumbel-max trick, whose law is the
softmax of the processed logits, with noise indexed by position. Two logits that tie within floating-point error may be
decided differently by forward passes of different shapes; nothing else may.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radar_rl.errors import InputError, check_whole

COLDEST = 1e-5
"""Divided by less, logits overflow."""

Processor = Callable[[Tensor, Tensor], Tensor]
"""Takes logits [B, n, vocabulary] float32 and how many tokens each text has gained before them, [B, n] int64.

Returns logits of the same shape and type; those of a position may depend on nothing but that position's two inputs, or
nodes of one draft tree would be processed by what stands on another's path.
"""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 for greedy, else at least ``COLDEST``.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set with at least this probability; 1 keeps all.
        processor: applied to the target's logits first, under greedy decoding too; None: they are taken as they are.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    processor: Processor | None = None

    def __post_init__(self) -> None:
        real = all(isinstance(value, int | float) for value in (self.temperature, self.top_p))
        if not real or not (self.temperature == 0 or COLDEST <= self.temperature < float("inf")):
            raise InputError(f"temperature: expected 0 or a finite number ≥ {COLDEST}, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sample_top_p: expected a number above 0, at most 1, got {self.top_p!r}")
        check_whole("sample_top_k", self.top_k, 0)


class PositionNoise:
    """Gumbel noise by absolute position, drawn once each and kept while a text is decoded."""

    def __init__(self, seed: int, vocab_size: int, device: torch.device) -> None:
        self.seed, self.vocab_size, self.device = seed, vocab_size, device
        self._rows: dict[int, Tensor] = {}

    def at(self, position: int) -> Tensor:
        """[vocabulary] float32 for the token at ``position`` of prompt + completion."""
        row = self._rows.get(position)
        if row is None:
            key = np.array([self.seed % 2**64, position], dtype=np.uint64)
            exponential = np.random.Generator(np.random.Philox(key=key)).standard_exponential(self.vocab_size)
            row = torch.from_numpy(-np.log(exponential).astype(np.float32)).to(self.device)
            self._rows[position] = row
        return row

    def forget_before(self, position: int) -> None:
        """Drop rows that no later token needs."""
        self._rows = {p: row for p, row in self._rows.items() if p >= position}


def process(logits: Tensor, sampling: Sampling) -> Tensor:
    """Temperature, then top-k, then top-p, as transformers' logits processors do: [..., vocabulary] float32."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if sampling.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        below = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        below[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(below).scatter(-1, order, below), float("-inf"))
    return logits


def choose(
    logits: Tensor,
    first: list[int],
    offsets: Tensor,
    sampling: Sampling,
    noises: Sequence[PositionNoise],
    reach: int = 0,
    gained: Sequence[int] = (),
) -> Tensor:
    """The target's token after each node of B texts.

    Args:
        logits: [B, n, vocabulary] float32.
        first: absolute position of the token after each text's root.
        offsets: [B, n] int64, how far behind it each node's token stands, 0 … ``reach``.
        sampling: temperature, top-k, top-p, and what comes before them.
        noises: each text's noise.
        reach: the largest offset.
        gained: new tokens of each text before the one after its root; only a processor asks.

    Returns:
        [B, n] int64.
    """
    if sampling.processor is not None:
        before = torch.tensor(gained, device=offsets.device)[:, None] + offsets
        logits = sampling.processor(logits, before)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    chosen = []
    for row, (noise, position) in enumerate(zip(noises, first, strict=True)):
        drawn = torch.stack([noise.at(position + offset) for offset in range(reach + 1)])
        chosen.append((process(logits[row], sampling) + drawn[offsets[row]]).argmax(dim=-1))
    return torch.stack(chosen)
