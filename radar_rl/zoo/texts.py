"""Texts that a target generates itself: what its draft head is trained on (EAGLE-3 §3)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from radar_rl.zoo.corpus import ASSISTANT, BOS, USER, documents, encode


@dataclass(frozen=True)
class Texts:
    """Token ids of many texts laid end to end.

    Attributes:
        token_ids: [tokens] uint16.
        offsets: [texts + 1] int64, where each text begins.
        prompt_length: [texts] int64.
    """

    token_ids: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    prompt_length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prompt_length)

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[texts] int64."""
        return np.diff(self.offsets)

    def in_completion(self) -> NDArray[np.bool_]:
        """[tokens] bool: which tokens are not the prompt's."""
        within = np.arange(len(self.token_ids)) - np.repeat(self.offsets[:-1], self.lengths)
        return within >= np.repeat(self.prompt_length, self.lengths)

    def save(self, path: Path) -> None:
        """Write as ``.npz``, whole or not at all."""
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, token_ids=self.token_ids, offsets=self.offsets, prompt_length=self.prompt_length)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Texts":
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["token_ids"], stored["offsets"], stored["prompt_length"])

    @classmethod
    def from_lists(cls, token_ids: list[list[int]], prompt_length: list[int]) -> "Texts":
        """Texts from lists of token ids."""
        offsets = np.cumsum([0, *map(len, token_ids)])
        return cls(
            np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in token_ids]), offsets, np.asarray(prompt_length)
        )


def repeated_share(token_ids: NDArray[np.integer] | list[int], n: int = 8) -> float:
    """Share of a text's n-grams that occurred in it before; a looping text drafts itself."""
    ids = np.asarray(token_ids)
    if len(ids) <= n:
        return 0.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, n)
    return float(1.0 - len(np.unique(grams, axis=0)) / len(grams))


def generate_texts(
    target: Path,
    data: Path,
    prompts: Mapping[str, int],
    *,
    max_new_tokens: int,
    max_prompt: int,
    sampled_share: float,
    batch: int,
    seed: int,
    log: Callable[[str], None],
) -> Texts:
    """Let the target answer training prompts: greedily, a share of them sampled at temperature 1.

    Texts that loop (more than a tenth of their 8-grams repeat) are left out.

    Args:
        prompts: how many prompts of each set, chosen by ``seed``.
        max_prompt: longer prompts, in tokens, are left out.
    """
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(target)
    model = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    generator = np.random.default_rng(seed)
    encoded: list[list[int]] = []
    for name, count in prompts.items():
        rendered = [f"{BOS}{USER}{d.prompt}{ASSISTANT}" for d in documents(data, name) if d.prompt is not None]
        chosen = generator.permutation(len(rendered))[:count]
        encoded += [ids for ids in encode(tokenizer, [rendered[i] for i in chosen]) if len(ids) <= max_prompt]
    sampled = generator.random(len(encoded)) < sampled_share
    token_ids: list[list[int]] = []
    prompt_length: list[int] = []
    looping = 0
    for done, (rows, sample) in enumerate(_batches(encoded, sampled, batch)):
        for ids, prompt in _complete(model, tokenizer, [encoded[i] for i in rows], sample, max_new_tokens):
            if repeated_share(ids[prompt:]) > 0.1:
                looping += 1
                continue
            token_ids.append(ids)
            prompt_length.append(prompt)
        if done % 10 == 0:
            log(f"texts: {len(token_ids) + looping}/{len(encoded)}, {looping} of them loop and are left out")
    return Texts.from_lists(token_ids, prompt_length)


def _batches(
    encoded: list[list[int]], sampled: NDArray[np.bool_], batch: int
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    lengths = np.array([len(ids) for ids in encoded])
    for sample in (False, True):
        rows = np.flatnonzero(sampled == sample)
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        for first in range(0, len(rows), batch):
            yield rows[first : first + batch], sample


def _complete(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    sample: bool,
    max_new_tokens: int,
) -> Iterator[tuple[list[int], int]]:
    longest = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=mask, do_sample=sample, top_k=0, max_new_tokens=max_new_tokens, pad_token_id=pad
        )
    for prompt, row in zip(prompts, output[:, longest:].tolist(), strict=True):
        answer = row[: row.index(eos) + 1] if eos in row else row
        yield prompt + answer, len(prompt)
