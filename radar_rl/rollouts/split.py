"""Which prompts are held out: a stable hash of the prompt's id, the same on every machine and in every version."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(prompt_ids: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Whether each prompt is kept for evaluation: about ``fraction`` of all ids, [len(prompt_ids)] bool."""
    return _hashed(prompt_ids) < fraction


def learned_from(prompt_ids: Sequence[str], held_out: float, share: float) -> NDArray[np.bool_]:
    """Whether each prompt is one to train on: ``share`` of those that are not held out, [len(prompt_ids)] bool.

    A smaller share is part of every larger one.
    """
    place = _hashed(prompt_ids)
    return (place >= held_out) & (place < held_out + share * (1.0 - held_out))


def _hashed(prompt_ids: Sequence[str]) -> NDArray[np.float64]:
    """Where each id falls in [0, 1)."""
    return np.array([int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") / 2**64 for i in prompt_ids])
