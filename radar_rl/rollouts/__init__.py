"""Data: prompts, traces and rollouts, how they are collected, stored and read."""

from radar_rl.rollouts.jsonl import read_jsonl
from radar_rl.rollouts.reading import (
    load_rollouts,
    load_trace,
    read_traces,
    rollout_settings,
    trace_parts,
    trace_settings,
)
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import LiveTexts, ReplayTexts, Texts, TextSession, sequence_seed
from radar_rl.rollouts.split import held_out
from radar_rl.rollouts.tasks import Prompt, load_prompts
from radar_rl.rollouts.trace import NO_RANK, Sequences, Trace, TraceSettings

__all__ = [
    "NO_RANK",
    "LiveTexts",
    "Prompt",
    "ReplayTexts",
    "Reward",
    "Sequences",
    "TextSession",
    "Texts",
    "Trace",
    "TraceSettings",
    "held_out",
    "load_prompts",
    "load_rollouts",
    "load_trace",
    "read_jsonl",
    "read_traces",
    "rollout_settings",
    "sequence_seed",
    "trace_parts",
    "trace_settings",
]
