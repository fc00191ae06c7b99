"""The decision problem as Gymnasium environments (https://gymnasium.farama.org).

Importing this package registers them, so that these work without arguments:

    gymnasium.make("radar_rl.envs:Radar/DraftTree-v0")           # live: a pair decodes
    gymnasium.make("radar_rl.envs:Radar/DraftTreeWallClock-v0")  # live, seconds as measured
    gymnasium.make("radar_rl.envs:Radar/DraftTreeReplay-v0")     # a collected trace is replayed
    gymnasium.make_vec("radar_rl.envs:Radar/DraftTreeReplay-v0", num_envs=4096)  # thousands of its texts in step
"""

if __name__ != "radar_rl.envs":
    raise ImportError(f"import radar_rl.envs, not {__name__}: this folder is part of the package radar_rl")

import gymnasium

from radar_rl.envs.base import DraftTreeBase
from radar_rl.envs.live import DraftTreeEnv, DraftTreeWallClockEnv
from radar_rl.envs.replay import DraftTreeReplayEnv
from radar_rl.envs.vector import DraftTreeReplayVectorEnv
from radar_rl.rollouts.payments import Payments

gymnasium.register(id="Radar/DraftTree-v0", entry_point="radar_rl.envs.live:DraftTreeEnv")
gymnasium.register(
    id="Radar/DraftTreeWallClock-v0", entry_point="radar_rl.envs.live:DraftTreeWallClockEnv", nondeterministic=True
)
gymnasium.register(
    id="Radar/DraftTreeReplay-v0",
    entry_point="radar_rl.envs.replay:DraftTreeReplayEnv",
    vector_entry_point="radar_rl.envs.vector:DraftTreeReplayVectorEnv",
)

__all__ = [
    "DraftTreeBase",
    "DraftTreeEnv",
    "DraftTreeReplayEnv",
    "DraftTreeReplayVectorEnv",
    "DraftTreeWallClockEnv",
    "Payments",
]
