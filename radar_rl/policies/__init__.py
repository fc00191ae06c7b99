"""Stop rules: what a policy is, what it sees, and the ones there are."""

from radar_rl.policies.bandits import Exp3Spec, TapOut, UcbSpec
from radar_rl.policies.chain import DraftChain, RenormalisedChain
from radar_rl.policies.entropy import AdaEdl, EntropyBound, Svip
from radar_rl.policies.gain import ExpectedGain
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.oracle import oracle_depths
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy, Policy, States
from radar_rl.policies.random import RandomStop
from radar_rl.policies.recurrent import RadarPolicy, SampledRadar
from radar_rl.policies.schedules import AcceptanceAverage, PlusTwo
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.switching import SwitchingPolicy
from radar_rl.policies.threshold import ConfidenceThreshold, JointConfidence, MinProbability

__all__ = [
    "CONTINUE",
    "STOP",
    "AcceptanceAverage",
    "AdaEdl",
    "ConfidenceThreshold",
    "DraftChain",
    "EntropyBound",
    "Exp3Spec",
    "ExpectedGain",
    "JointConfidence",
    "LearnedPolicy",
    "MemorylessPolicy",
    "MinProbability",
    "ObservationSpec",
    "PlusTwo",
    "Policy",
    "RadarPolicy",
    "RandomStop",
    "RenormalisedChain",
    "SampledRadar",
    "States",
    "StaticDepth",
    "Svip",
    "SwitchingPolicy",
    "TapOut",
    "UcbSpec",
    "oracle_depths",
]
