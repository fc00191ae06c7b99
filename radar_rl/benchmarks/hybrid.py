"""``radar-rl bench hybrid``: acceptance length of the head, of n-grams and of both, in trees of the same size."""

import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from radar_rl.benchmarks.round import WIDTH, machine
from radar_rl.errors import check_whole
from radar_rl.evaluation.statistics import speedup_interval
from radar_rl.progress import track
from radar_rl.rollouts.tasks import fitting, load_prompts
from radar_rl.rollouts.writing import sequence_seed
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.text import DRAFT_SOURCES, DraftSource

ALL_TASKS = "all"
CALLED = {"head": "head", "ngram": "n-gram", "hybrid": "hybrid"}


def bench_hybrid(
    *,
    out: str | None,
    model: Mapping[str, Any],
    tasks: list[str],
    data_dir: str | None,
    limit: int,
    policy: str,
    max_depth: int,
    top_k: int,
    tree_size: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    resamples: int,
) -> pl.DataFrame:
    """The verb ``bench hybrid``: decode every prompt with each draft source; print τ by task, write the rows.

    Args:
        out: a Parquet file; None only prints.
        tasks, data_dir, limit: prompts, see ``load_prompts``.
        policy: stop rule of the head's draft calls, as ``decode`` takes it.
        resamples: of the bootstrap over prompts.

    Returns:
        One row per task, prompt and draft source: ``tokens``, ``rounds``, ``draft_calls``, ``nodes``, ``seconds``
        (prefill included), ``same_text`` (as the head's).

    Raises:
        InputError: a number out of range, a task that cannot be read.
    """
    check_whole("resamples", resamples, 1)
    check_whole("max_new_tokens", max_new_tokens, 2)  # the first one comes from the prefill
    pair = pair_from_config(model)
    prompts, skipped = fitting(pair, load_prompts(tasks, data_dir=data_dir, limit=limit), max_new_tokens)
    chosen = policy_from_string(policy, seed)
    decoders = {
        source: SpeculativeDecoder(
            pair, chosen, max_depth=max_depth, top_k=top_k, tree_size=tree_size, draft_source=source, strict=True
        )
        for source in DRAFT_SOURCES
    }
    measured = _decoded(decoders, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    for shown in tables(measured, f"{pair.label}, {policy}, {tree_size} nodes", resamples, seed):
        console.print(shown)
    told = [f"{key} {value}" for key, value in machine(pair).items()]
    told.append(f"{measured['same_text'].sum()} of {measured.height} texts are the head's")
    if skipped:
        told.append(f"{len(skipped)} prompts left out as longer than the context")
    console.print(", ".join(told))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        about = {key: str(value) for key, value in machine(pair).items()} | {"pair": pair.label, "policy": policy}
        shape = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size, "temperature": temperature}
        measured.write_parquet(out, metadata=about | {key: str(value) for key, value in shape.items()})
        print(f"bench hybrid: written to {out}")
    return measured


def _decoded(
    decoders: Mapping[DraftSource, SpeculativeDecoder],
    prompts: Sequence[tuple[Prompt, list[int]]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> pl.DataFrame:
    """Every prompt with every source, one source after the other; rows as ``bench_hybrid`` returns them."""
    rows: list[dict[str, Any]] = []
    text: list[int] = []
    runs = product(prompts, decoders.items())
    for (prompt, ids), (source, decoder) in track(runs, len(prompts) * len(decoders), "bench hybrid"):
        start = time.perf_counter()
        drawn = sequence_seed(seed, prompt.prompt_id, 0)
        done = decoder.generate(ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=drawn)
        seconds = time.perf_counter() - start
        text = done.token_ids if source == "head" else text
        rows.append(
            {
                "task": prompt.task,
                "prompt_id": prompt.prompt_id,
                "source": source,
                "tokens": len(done.token_ids) - 1,  # the first one comes from the prefill
                "rounds": len(done.rounds),
                "draft_calls": sum(ended.draft_calls for ended in done.rounds),
                "nodes": sum(ended.nodes for ended in done.rounds),
                "seconds": seconds,
                "same_text": done.token_ids == text,
            }
        )
    return pl.DataFrame(rows)


def tables(measured: pl.DataFrame, title: str, resamples: int, seed: int) -> list[Table]:
    """By task: τ of each source, with the hybrid's over the head's and its 95 % interval over prompts; tokens/s."""
    lengths = Table(title=f"τ, tokens emitted per verification: {title}", title_justify="left")
    speeds = Table(title="tokens/s, prefill included", title_justify="left")
    lengths.add_column("task")
    lengths.add_column("prompts", justify="right")
    speeds.add_column("task")
    for source in DRAFT_SOURCES:
        lengths.add_column(CALLED[source], justify="right")
        speeds.add_column(CALLED[source], justify="right")
    for column in ("hybrid / head", "95 % interval"):
        lengths.add_column(column, justify="right", no_wrap=True)
    tasks: list[str] = measured["task"].unique(maintain_order=True).to_list()
    for task in [*tasks, *([ALL_TASKS] if len(tasks) > 1 else [])]:
        of_task = measured if task == ALL_TASKS else measured.filter(pl.col("task") == task)
        if task == ALL_TASKS:
            lengths.add_section()
            speeds.add_section()
        tokens, rounds, seconds = (
            {
                source: of_task.filter(pl.col("source") == source)[column].to_numpy().astype(np.float64)
                for source in DRAFT_SOURCES
            }
            for column in ("tokens", "rounds", "seconds")
        )
        reached = {source: tokens[source].sum() / rounds[source].sum() for source in DRAFT_SOURCES}
        interval = speedup_interval(rounds["hybrid"], rounds["head"], resamples, seed)
        lengths.add_row(
            task,
            str(len(tokens["head"])),
            *(f"{length:.2f}" for length in reached.values()),
            f"{reached['hybrid'] / reached['head']:.2f}×",
            f"{interval[0]:.2f} … {interval[1]:.2f}" if interval else "–",
        )
        speeds.add_row(task, *(f"{tokens[source].sum() / seconds[source].sum():.0f}" for source in DRAFT_SOURCES))
    return [lengths, speeds]
