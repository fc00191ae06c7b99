"""``radar-rl bench hybrid``: acceptance length of the head, of n-grams and of both, in trees of the same size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from radar_rl.benchmarks.experiment import experiment, sized, with_contents
from radar_rl.benchmarks.hybrid_report import ALL_TASKS, draw, figures, tables
from radar_rl.benchmarks.live import Asked, decode_all
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.telling import in_line, machine
from radar_rl.console import wide_console
from radar_rl.errors import ConfigError, check_whole
from radar_rl.rollouts.tasks import SHIPPED, digest, fitting, load_prompts
from radar_rl.rollouts.writing import sequence_seed
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative import Pair
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.text import DRAFT_SOURCES

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"tasks": list(SHIPPED[2:]), "limit": 6, "max_new_tokens": 64},
    "full": {"tasks": ["squad", "nq_rag", "spec_bench/rag"], "limit": 80, "max_new_tokens": 96},
}
PICTURE = "hybrid.png"
REPLAY = "Seconds are live: a replay's trees are the head's alone, so it says nothing of n-grams."


def bench_hybrid(
    *,
    out: str,
    size: Literal["smoke", "full"],
    model: Mapping[str, Any],
    tasks: list[str] | None,
    data_dir: str | None,
    limit: int | None,
    policy: str,
    max_depth: int,
    top_k: int,
    tree_size: int,
    max_new_tokens: int | None,
    temperature: float,
    seed: int,
    resamples: int,
) -> pl.DataFrame:
    """The verb ``bench hybrid``: decode every prompt with each draft source and alone; print τ by task, keep the rows.

    Args:
        out: the experiment's folder, which goes on where it was killed.
        size: ``smoke`` or ``full``: fills in ``tasks``, ``limit`` and ``max_new_tokens`` where they are None.
        tasks, data_dir, limit: prompts, see ``load_prompts``.
        policy: stop rule of the head's draft calls, as ``decode`` takes it.
        resamples: of the bootstrap over prompts.

    Returns:
        The rows of ``live.decode_all``: one for each prompt and draft source (or ``autoregressive``), which ``policy``
        names.

    Raises:
        ConfigError: ``out`` names a file or holds other settings, or there is no such size.
        InputError: a number out of range, a task that cannot be read.
    """
    if Path(out).suffix == ".parquet":
        raise ConfigError(f"out={out}: expected a folder; its measurements.parquet is what was written here before")
    chosen = sized(size, SIZES, {"tasks": tasks, "limit": limit, "max_new_tokens": max_new_tokens})
    length: int = chosen["max_new_tokens"]
    check_whole("resamples", resamples, 1)
    check_whole("max_new_tokens", length, 2)  # the first one comes from the prefill
    pair = pair_from_config(model)
    prompts, skipped = fitting(pair, load_prompts(chosen["tasks"], data_dir=data_dir, limit=chosen["limit"]), length)
    texts = [_asked(prompt, ids, seed) for prompt, ids in prompts]
    shape = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    of_pair = {"target": pair.target_identity, "draft": pair.draft_identity}
    told_apart = {"policy": with_contents(policy), "temperature": temperature, "seed": seed}
    settings = {**of_pair, **chosen, **shape, **told_apart}
    settings["prompts"] = digest((text.name, text.prompt_ids) for text in texts)
    about = {"size": size, "pair": pair.label, "machine": machine(pair), "published": published("hybrid")}
    decoders = _decoders(pair, policy, seed, shape)
    with experiment("hybrid", out, settings, about) as work:
        decode_all(work, pair, decoders, texts, {"max_new_tokens": length, "temperature": temperature})
        told = figures(pl.DataFrame(work.rows), resamples, seed)
        rows = work.finish(by_task=told, skipped=len(skipped))
        draw(told, f"{pair.label}, {tree_size} nodes", work.folder / PICTURE)
    sampling = f"temperature {temperature:g}" if temperature else "greedy"
    drafting = f"{pair.label}, {policy}, {tree_size} nodes, {sampling}, up to {length} tokens"
    _tell(told, drafting, len(skipped), machine(pair))
    print(f"bench hybrid: {out}")
    return rows


def _asked(prompt: Prompt, prompt_ids: Sequence[int], seed: int) -> Asked:
    own = sequence_seed(seed, prompt.prompt_id, 0)
    name = f"{prompt.task}/{prompt.prompt_id}"
    return Asked(name, prompt.task, prompt.prompt_id, tuple(prompt_ids), own)


def _decoders(pair: Pair, policy: str, seed: int, shape: Mapping[str, Any]) -> dict[str, SpeculativeDecoder]:
    """A decoder for every draft source, each with a policy of its own."""
    return {
        source: SpeculativeDecoder(pair, policy_from_string(policy, seed), draft_source=source, strict=True, **shape)
        for source in DRAFT_SOURCES
    }


def _tell(told: Sequence[Mapping[str, Any]], drafting: str, skipped: int, where: Mapping[str, Any]) -> None:
    """Print the tables, and what is different where the published figure comes from."""
    console = wide_console()
    theirs = published("hybrid")
    for shown in tables(told, drafting, theirs["ratio"]):
        console.print(shown)
    counted = f"{told[-1]['same_text']} of {told[-1]['texts']} texts are the target's own"
    if skipped:
        counted += f"; {skipped} prompts left out as longer than the context"
    tasks = ", ".join(row["task"] for row in told if row["task"] != ALL_TASKS)
    for line in (
        counted,
        in_line(where),
        f"Here: {drafting}; one text at a time; {tasks}; the tree's nodes are those most probably accepted, "
        "whoever proposed them.",
        f"Published: {theirs['setting']}.",
        f"Source: {theirs['source']}.",
        REPLAY,
    ):
        console.print(line, markup=False)
