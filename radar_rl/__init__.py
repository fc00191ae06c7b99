"""radar-rl: offline reinforcement learning of stop policies for speculative decoding.

The path through it: collect traces, train on them, evaluate by exact replay, export a small artifact, decode with it.
Importing this package pulls in nothing heavy; import the part that is needed: ``radar_rl.speculative`` (a round),
``radar_rl.policies``, ``radar_rl.runtime`` (decode), ``radar_rl.rollouts`` (data), ``radar_rl.envs`` (Gymnasium),
``radar_rl.offline`` (training), ``radar_rl.evaluation``.
"""

__version__ = "0.1.0"
