"""Which prompts are held out: a stable hash of the prompt's id, the same on every machine and in every version."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(prompt_ids: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Whether each prompt is kept for evaluation: about ``fraction`` of all ids, [len(prompt_ids)] bool."""
    return _hashed(prompt_ids) < fraction


def learned_from(
    prompt_ids: Sequence[str], held_out: float, share: float, validation: float = 0.0
) -> NDArray[np.bool_]:
    """Whether each prompt is one to train on: ``share`` of those not held out or validated on, [len(prompt_ids)] bool.

    A smaller share is part of every larger one.
    """
    place, end = _hashed(prompt_ids), _end(held_out, validation)
    return (place >= held_out) & (place < held_out + share * (end - held_out)) & (place < end)


def validated_on(prompt_ids: Sequence[str], held_out: float, validation: float) -> NDArray[np.bool_]:
    """Whether each prompt is one to choose settings by: ``validation`` of those not held out, [len(prompt_ids)]."""
    place = _hashed(prompt_ids)
    return (place >= held_out) & (place >= _end(held_out, validation))


def _end(held_out: float, validation: float) -> float:
    """Where, of the range that is not held out, the prompts to validate on begin."""
    return 1.0 - validation * (1.0 - held_out)


def _hashed(prompt_ids: Sequence[str]) -> NDArray[np.float64]:
    """Where each id falls in [0, 1)."""
    return np.array([int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") / 2**64 for i in prompt_ids])
