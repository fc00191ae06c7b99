"""Stages of ``bench radar`` before anything is decoded live: both trainings, and the evaluation by replay."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from radar_rl.configs import load
from radar_rl.evaluation.evaluate import TABLE_FILE, evaluate
from radar_rl.offline.fit import EPOCHS
from radar_rl.offline.train import train
from radar_rl.rollouts import held_out as is_held_out
from radar_rl.rollouts import load_trace
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes

# Which training of their grid the authors test for Llama-3.1-8B (``cmd/gen_cmd.py``), and its batches.
ALPHA, DROPOUT, LEARNED, BATCH = 0.02, 0.2, 0.8, 64


def _rounds(traces: str, held_out: float) -> int:
    """Rounds that RADAR's training learns from or picks its epoch by."""
    trace = load_trace(traces, keep=lambda sequences: ~is_held_out(sequences.prompt_id, held_out))
    return int(np.count_nonzero(~trace.censored))


def radar_reward(profile: HardwareProfile, max_depth: int, top_k: int, tree_size: int) -> dict[str, Any]:
    """RADAR's reward on another machine: the published constants, in units of a full-depth round.

    β turns tokens a second into a reward, so its published value is one machine's: where rounds take twice as long
    speeds are half as high, and β is twice the published one.

    Args:
        profile: the machine.
        max_depth, top_k, tree_size: of the drafts.
    """
    reward = load("reward", "radar")
    theirs = HardwareProfile.from_mapping(load("hardware", "radar_llama31_8b"), "radar_llama31_8b")
    nodes = tree_nodes(max_depth, top_k, tree_size)
    longer = float(profile.round_seconds(nodes)[-1] / theirs.round_seconds(nodes)[-1])
    return {**reward, "alpha": ALPHA, "beta": reward["beta"] * longer}


def train_both(place: Path, traces: str, profile: HardwareProfile, settings: Mapping[str, Any]) -> int:
    """Train RADAR's policy as its authors do, and ours, in ``runs/radar`` and ``runs/ours``, unless they are.

    Args:
        place: the experiment's folder, ``hardware.json`` in it.
        traces: what to learn from.
        profile: the same hardware.
        settings: of ``bench_radar``.

    Returns:
        The best static depth on the training texts.
    """
    shared: dict[str, Any] = {
        "traces": traces,
        "rollouts": None,
        "behaviour": None,
        "hardware": str(place / "hardware.json"),
        "held_out": settings["held_out"],
        "seed": settings["seed"],
        "model": settings["model"],
        "wandb": "disabled",
        "tree_size": None,
    }
    rounds = _rounds(traces, settings["held_out"])
    drafts = {name: settings[name] for name in ("max_depth", "top_k", "tree_size")}
    train(
        out=str(place / "runs/radar"),
        algo={"name": "radar", "dropout": DROPOUT},
        episode="round",
        reward=radar_reward(profile, **drafts),
        steps=max(EPOCHS, math.ceil(settings["passes"] * LEARNED * rounds / BATCH)),
        batch_size=BATCH,
        **shared,
    )
    ours = train(
        out=str(place / "runs/ours"),
        algo=settings["algo"],
        episode="sequence",
        reward=load("reward", "throughput"),
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        observation=settings["observation"],
        newest=settings["newest"],
        **shared,
    )
    return int(ours["best_static_depth"])


def evaluate_both(place: Path, traces: str, settings: Mapping[str, Any], resamples: int) -> None:
    """Compare both runs with all rules by replay, in ``evaluation``, unless that is done.

    Args:
        place: the experiment's folder.
        traces: whose held-out prompts are compared on.
        settings: of ``bench_radar``.
        resamples: of the intervals.
    """
    if (place / "evaluation" / TABLE_FILE).is_file():
        return
    evaluate(
        out=str(place / "evaluation"),
        traces=traces,
        runs=[str(place / "runs/radar"), str(place / "runs/ours")],
        hardware=str(place / "hardware.json"),
        model=settings["model"],
        allow_other_pair=False,
        held_out=settings["held_out"],
        seed=settings["seed"],
        tree_size=None,
        resamples=resamples,
    )
