"""Data: prompts, traces and rollouts, how they are collected, stored and read."""

from radar_rl.jsonl import read_jsonl
from radar_rl.rollouts.live import LiveTexts
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.reading import (
    data_digest,
    load_rollouts,
    load_trace,
    read_traces,
    rollout_settings,
    trace_parts,
    trace_settings,
)
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import ReplayTexts, Texts, TextSession
from radar_rl.rollouts.split import held_out
from radar_rl.rollouts.tasks import load_prompts
from radar_rl.rollouts.trace import NO_RANK, Sequences, Trace, TraceSettings
from radar_rl.rollouts.writing import sequence_seed
from radar_rl.speculative.prompts import Prompt

__all__ = [
    "NO_RANK",
    "DataSet",
    "LiveTexts",
    "Prompt",
    "ReplayTexts",
    "Reward",
    "Sequences",
    "TextSession",
    "Texts",
    "Trace",
    "TraceSettings",
    "data_digest",
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
