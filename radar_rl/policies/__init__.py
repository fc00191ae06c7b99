"""Stop rules: what a policy is, what it sees, and the ones there are."""

from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.oracle import oracle_depths
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, Policy, States
from radar_rl.policies.random import RandomStop
from radar_rl.policies.recurrent import RadarPolicy, SampledRadar
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.threshold import ConfidenceThreshold

__all__ = [
    "CONTINUE",
    "STOP",
    "ConfidenceThreshold",
    "LearnedPolicy",
    "MemorylessPolicy",
    "ObservationSpec",
    "Policy",
    "RadarPolicy",
    "RandomStop",
    "SampledRadar",
    "States",
    "StaticDepth",
    "oracle_depths",
]
