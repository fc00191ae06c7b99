"""``radar-rl collect``: the target writes texts, and each becomes an exact trace (DESIGN: 3.2)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from radar_rl.errors import ConfigError
from radar_rl.progress import track
from radar_rl.rollouts.columns import TracedText, sequences_table, trace_table
from radar_rl.rollouts.sessions import near_cut
from radar_rl.rollouts.storage import Manifest, shard_name, write_parquet
from radar_rl.rollouts.tasks import digest, fitting, load_prompts
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.rollouts.writing import Work, WrittenText, write_texts
from radar_rl.runtime.models import pair_from_config
from radar_rl.speculative.pair import Pair


def collect(
    *,
    out: str,
    model: Mapping[str, Any],
    tasks: list[str],
    task: Mapping[str, Any],
    split: str = "eval",
    data_dir: str | None = None,
    limit: int | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 128,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
    shard_size: int = 64,
    positions_per_batch: int = 256,
) -> Path:
    """Collect a trace; an interrupted collection goes on where it stopped.

    Args:
        out: folder to write: ``sequences/``, ``trace/`` and ``manifest.json``.
        model: target, draft, dtype and device.
        tasks, task, split, data_dir, limit: which prompts, see ``load_prompts``; ``task["path"]`` is a file of rows.
        samples: texts per prompt.
        temperature, sample_top_k, sample_top_p: sampling of the target, 0 is greedy.
        seed: each sequence's own seed derives from it, the prompt's id and the number of the sample.
        max_new_tokens: length at which a text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        shard_size: sequences per file.
        positions_per_batch: positions whose trees grow together; bounds memory.

    Returns:
        The folder.

    Raises:
        InputError: a task, file, prompt or folder is not usable.
        TraceError: the folder holds a trace made with other settings.
        ConfigError: a number is out of range.
    """
    counts = {"samples": samples, "shard_size": shard_size, "positions_per_batch": positions_per_batch}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    if samples > 1 and temperature == 0:
        raise ConfigError(f"samples={samples} with temperature=0 would make the same text again; set a temperature")
    prompts = load_prompts(tasks, path=task.get("path"), split=split, data_dir=data_dir, limit=limit)
    pair = pair_from_config(model)
    pair.check_shape(max_depth, top_k, tree_size, widen_first_level=False)
    encoded, skipped = fitting(pair, prompts, max_new_tokens)
    works = [Work(prompt, tuple(ids), sample) for prompt, ids in encoded for sample in range(samples)]
    settings = TraceSettings(
        target=pair.target_identity,
        draft=pair.draft_identity,
        max_depth=max_depth,
        top_k=top_k,
        tree_size=tree_size,
        temperature=temperature,
        sample_top_k=sample_top_k,
        sample_top_p=sample_top_p,
        seed=seed,
    )
    about = asdict(settings) | {
        "max_new_tokens": max_new_tokens,
        "samples": samples,
        "shard_size": shard_size,
        "prompts": len(encoded),
        "prompts_digest": digest((work.sequence_id(0), work.prompt_ids) for work in works),
        "skipped": [asdict(one) for one in skipped],
    }
    folder = Path(out)
    manifest = Manifest.open(folder, "traces", about, -(-len(works) // shard_size))
    todo = [number for number in range(manifest.shards_total) if shard_name(number) not in manifest.shards]
    pending = [(number, work) for number in todo for work in works[number * shard_size : (number + 1) * shard_size]]
    start = time.monotonic()
    shown = track(pending, len(pending), "collecting") if pending else []
    for number, group in groupby(shown, key=itemgetter(0)):
        written, _ = write_texts(
            pair,
            [work for _, work in group],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            sample_top_k=sample_top_k,
            sample_top_p=sample_top_p,
            seed=seed,
        )
        traced = [_trace(pair, text, settings, positions_per_batch) for text in written]
        _write(manifest, shard_name(number), settings, traced)
    _report(manifest, len(skipped), len(todo), time.monotonic() - start)
    return folder


def _trace(pair: Pair, text: WrittenText, settings: TraceSettings, positions_per_batch: int) -> TracedText:
    """Trace a text."""
    confidences, ranks = trace_sequence(
        pair,
        text.token_ids,
        len(text.prompt_ids),
        max_depth=settings.max_depth,
        top_k=settings.top_k,
        tree_size=settings.tree_size,
        positions_per_batch=positions_per_batch,
    )
    censored = np.zeros(len(confidences), dtype=np.bool_)
    if text.completion_ids[-1] not in pair.eos_token_ids:
        positions = len(text.prompt_ids) + np.arange(len(confidences))
        censored = np.asarray(near_cut(positions, len(text.token_ids), settings.max_depth))
    return TracedText(text, confidences, ranks, censored)


def _write(manifest: Manifest, name: str, settings: TraceSettings, traced: Sequence[TracedText]) -> None:
    """Write one shard and record it."""
    folder, about = manifest.folder, asdict(settings)
    write_parquet(folder / "sequences" / f"{name}.parquet", sequences_table(traced, settings), "sequences", about)
    write_parquet(folder / "trace" / f"{name}.parquet", trace_table(traced, settings), "trace", about)
    rows = sum(len(text.confidences) for text in traced)
    manifest.finish(name, {"rows": rows, "sequences": len(traced)})


def _report(manifest: Manifest, skipped: int, new_shards: int, seconds: float) -> None:
    """Say what there is now."""
    rows = sum(entry["rows"] for entry in manifest.shards.values())
    sequences = sum(entry["sequences"] for entry in manifest.shards.values())
    old = len(manifest.shards) - new_shards
    print(
        f"{manifest.folder}: {rows:,} positions of {sequences:,} texts"
        + (f", {skipped} prompts skipped as too long (listed in manifest.json)" if skipped else "")
        + f"; {new_shards} shards in {seconds:.0f} s"
        + (f", {old} were done before" if old else "")
    )
