"""Random weights of a policy like RADAR's, of any size."""

import numpy as np

from radar_rl.policies.recurrent import RadarPolicy, weight_shapes


def make_weights(
    top_k: int = 3, hidden: int = 6, inner: int = 5, seed: int = 0, states: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Weights that stop at about half of the ``states`` [N, L, top_k], by default made-up log-probabilities."""
    generator = np.random.default_rng(seed)
    shapes = weight_shapes(top_k, hidden, inner)
    weights = {name: generator.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["mlp.3.weight"] *= 0.3  # far from certain
    if states is None:
        states = -generator.exponential(2.0, size=(200, 3, top_k)).cumsum(axis=2)
    stop = float(np.median(RadarPolicy("", weights).stop_probability(states)))
    weights["mlp.3.bias"][1] += np.log(stop / (1.0 - stop))
    return weights
