"""Which prompts are held out: a stable hash of the prompt's id, the same on every machine and in every version."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(prompt_ids: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Whether each prompt is kept for evaluation: about ``fraction`` of all ids, [len(prompt_ids)] bool."""
    buckets = [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") / 2**64 for i in prompt_ids]
    return np.asarray(buckets) < fraction
