"""Random networks over any observation, and numbers to observe."""

from itertools import pairwise

import numpy as np

from radar_rl.policies import LearnedPolicy, ObservationSpec
from radar_rl.speculative.features import FEATURES

EVERYTHING = ("confidences", "depth", *FEATURES)

GOING = {None: 32.0, 2: 2.0}
"""What makes random networks of this seed both stop and go on."""


def network(
    spec: ObservationSpec, hidden: tuple[int, ...] = (16, 8), seed: int = 0, towards_going: float = 0.0
) -> LearnedPolicy:
    generator = np.random.default_rng(seed)
    sizes = [spec.size, *hidden, 2]
    layers = [
        (generator.normal(size=(out, into)) / into**0.5, 0.1 * generator.normal(size=out))
        for into, out in pairwise(sizes)
    ]
    layers[-1][1][1] += towards_going
    return LearnedPolicy("n", spec, [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers])


def made_up(rows: int, spec: ObservationSpec) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(7)
    sizes = {"max_depth": spec.max_depth, "top_k": spec.top_k, "feature_dim": spec.feature_dim}
    confidences = -np.sort(generator.exponential(9.0, (rows, spec.max_depth, spec.top_k)), axis=2)
    confidences[::5, :, -1] = -np.inf
    features = {}
    for name in spec.looks_at:
        feature = FEATURES[name]
        low, high = max(feature.low, -30.0), min(feature.high, 30.0)
        features[name] = generator.uniform(low, high, (rows, *feature.shape(**sizes))).astype(feature.dtype)
    return confidences.astype(np.float16), features
