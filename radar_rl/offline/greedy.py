"""The greedy policy of a trained algorithm as one network of ReLU layers: what a policy's artifact holds."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.backend import d3rlpy
from radar_rl.policies.learned import Layer


def greedy_layers(algorithm: Any) -> list[Layer]:
    """A network whose second output (continue) exceeds its first (stop) where the greedy action is to continue.

    Args:
        algorithm: a built d3rlpy algorithm whose networks have ``StandardisedEncoder`` as bodies.

    Returns:
        (weight [out, in], bias [out]) float32 of each layer, standardisation folded into the first; the outputs are
        action values (CQL, double DQN), logits of the policy (BC, IQL), or 0 and a margin (BCQ).
    """
    modules = algorithm.impl.modules
    if isinstance(algorithm, d3rlpy.algos.DiscreteBCQ):
        return _constrained(modules.q_funcs[0], modules.imitator, algorithm.config.action_flexibility)
    if isinstance(algorithm, d3rlpy.algos.DiscreteCQL | d3rlpy.algos.DoubleDQN):
        network = modules.q_funcs[0]
    else:
        network = modules.imitator if isinstance(algorithm, d3rlpy.algos.DiscreteBC) else modules.policy
    weight, bias = _outputs(network)
    return [*network._encoder.folded(), (weight.astype(np.float32), bias.astype(np.float32))]


def _constrained(q_function: Any, imitator: Any, action_flexibility: float) -> list[Layer]:
    """BCQ's greedy action: of the actions whose imitated probability is not too small, the one with the larger value.

    An action is out where its probability is at most τ = ``action_flexibility`` times the other's. With q the value of
    continuing less that of stopping, l the difference of the imitator's logits and t = −log τ: continue where l ≥ t
    (stop is out), or −t < l and q > 0. That is min(l + t, max(l − t, q)) > 0, which two ReLU layers say exactly, since
    max(a, b) = a + relu(b − a) and x = relu(x) − relu(−x). Q-function and imitator share their body (``CONFIGS``).
    """
    (q_weight, q_bias), (l_weight, l_bias) = (_continue_less_stop(network) for network in (q_function, imitator))
    t = -math.log(action_flexibility)
    # m = max(l − t, q) = q + relu(l − t − q), and n = l + t
    weight = np.stack([q_weight, -q_weight, l_weight, -l_weight, l_weight - q_weight])
    bias = np.stack([q_bias, -q_bias, l_bias + t, -l_bias - t, l_bias - t - q_bias])
    m, n = np.array([1.0, -1.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, -1.0, 0.0])
    # min(m, n) = m − relu(m − n)
    second = np.stack([m, -m, m - n])
    margin = np.array([[0.0, 0.0, 0.0], [1.0, -1.0, -1.0]])
    added = [(weight, bias), (second, np.zeros(3)), (margin, np.zeros(2))]
    return [*q_function._encoder.folded(), *((w.astype(np.float32), b.astype(np.float32)) for w, b in added)]


def _continue_less_stop(network: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and bias of the difference of a network's two outputs: [in] and []."""
    weight, bias = _outputs(network)
    return weight[1] - weight[0], bias[1] - bias[0]


def _outputs(network: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [2, in] and bias [2] of a network's last layer."""
    head = network._fc
    return (
        np.asarray(head.weight.detach().cpu().numpy(), dtype=np.float64),
        np.asarray(head.bias.detach().cpu().numpy(), dtype=np.float64),
    )
