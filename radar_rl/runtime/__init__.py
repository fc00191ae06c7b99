"""Where policies work: the exported artifact, the decoder, the profiler."""

from radar_rl.runtime.alone import autoregressive
from radar_rl.runtime.artifact import Artifact, load_artifact, load_policy, save_policy
from radar_rl.runtime.decoder import Generation, SpeculativeDecoder
from radar_rl.runtime.generate import radar_generate

__all__ = [
    "Artifact",
    "Generation",
    "SpeculativeDecoder",
    "autoregressive",
    "load_artifact",
    "load_policy",
    "radar_generate",
    "save_policy",
]
