"""``radar-rl collect``: the target writes texts, and each becomes an exact trace (DESIGN: 3.2)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from radar_rl.errors import ConfigError
from radar_rl.policies.static import StaticDepth
from radar_rl.progress import track
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.columns import TracedText, Work, sequences_table, trace_table
from radar_rl.rollouts.manifest import DataSet, Manifest, check_shard, part_name
from radar_rl.rollouts.sessions import near_cut, sequence_seed
from radar_rl.rollouts.storage import Store, plain
from radar_rl.rollouts.tasks import digest, fitting, load_prompts
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.models import pair_from_config


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
    shard: int = 0,
    shards: int = 1,
    part_size: int = 64,
    positions_per_batch: int = 256,
) -> str:
    """Collect a trace; an interrupted collection goes on where it stopped.

    Args:
        out: folder to write: ``sequences/``, ``trace/`` and a manifest per shard; a folder or a URI that pyarrow knows.
        model: target, draft, dtype and device.
        tasks, task, split, data_dir, limit: which prompts, see ``load_prompts``; ``task["path"]`` is a file of rows.
        samples: texts per prompt.
        temperature, sample_top_k, sample_top_p: sampling of the target, 0 is greedy.
        seed: each sequence's own seed derives from it, the prompt's id and the number of the sample.
        max_new_tokens: length at which a text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        shard, shards: which share of the work to do, of how many.
        part_size: sequences per file.
        positions_per_batch: positions whose trees grow together; bounds memory.

    Returns:
        The folder.

    Raises:
        InputError: a task, file, prompt or folder is not usable.
        TraceError: the folder holds a trace made with other settings.
        ConfigError: a number is out of range.
    """
    counts = {"samples": samples, "part_size": part_size, "positions_per_batch": positions_per_batch}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    check_shard(shard, shards)
    if samples > 1 and temperature == 0:
        raise ConfigError(f"samples={samples} with temperature=0 would make the same text again; set a temperature")
    prompts = load_prompts(tasks, path=task.get("path"), split=split, data_dir=data_dir, limit=limit)
    pair = pair_from_config(model)
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
        "part_size": part_size,
        "prompts": len(encoded),
        "prompts_digest": digest((work.sequence_id, work.prompt_ids) for work in works),
        "skipped": skipped,
    }
    store, parts = Store.at(out), -(-len(works) // part_size)
    mine = Manifest(store, "traces", about, parts, shard, shards)
    with claimed(store, mine.claim):
        manifest = Manifest.open(store, "traces", about, parts, shard, shards)
        done = set(DataSet.read(store, "traces").parts)
        todo = [number for number in range(shard, parts, shards) if part_name(number) not in done]
        pending = [(number, work) for number in todo for work in works[number * part_size : (number + 1) * part_size]]
        start = time.monotonic()
        # The text does not depend on the policy; about half the depth is fast on every machine.
        policy = StaticDepth((max_depth + 1) // 2)
        decoder = SpeculativeDecoder(pair, policy=policy, max_depth=max_depth, top_k=top_k, tree_size=tree_size)
        shown = track(pending, len(pending), "collecting") if pending else []
        for number, group in groupby(shown, key=itemgetter(0)):
            traced = [_trace(decoder, work, settings, max_new_tokens, positions_per_batch) for _, work in group]
            _write(manifest, part_name(number), settings, traced)
        _report(store, len(skipped), len(todo), time.monotonic() - start)
    return out


def _trace(
    decoder: SpeculativeDecoder, work: Work, settings: TraceSettings, max_new_tokens: int, positions_per_batch: int
) -> TracedText:
    """Let the target write one text, and trace it."""
    seed = sequence_seed(settings.seed, work.prompt.prompt_id, work.sample)
    written = decoder.generate(
        list(work.prompt_ids),
        max_new_tokens=max_new_tokens,
        temperature=settings.temperature,
        sample_top_k=settings.sample_top_k,
        sample_top_p=settings.sample_top_p,
        seed=seed,
    ).token_ids
    token_ids = [*work.prompt_ids, *written]
    traced = trace_sequence(
        decoder.pair,
        token_ids,
        len(work.prompt_ids),
        max_depth=settings.max_depth,
        top_k=settings.top_k,
        tree_size=settings.tree_size,
        positions_per_batch=positions_per_batch,
    )
    censored = np.zeros(len(traced.confidences), dtype=np.bool_)
    if written[-1] not in decoder.pair.eos_token_ids:
        positions = len(work.prompt_ids) + np.arange(len(traced.confidences))
        censored = np.asarray(near_cut(positions, len(token_ids), settings.max_depth))
    return TracedText(work, token_ids, seed, traced.confidences, traced.ranks, censored)


def _write(manifest: Manifest, name: str, settings: TraceSettings, traced: Sequence[TracedText]) -> None:
    """Write one part and record it."""
    tables = {"sequences": sequences_table(traced, settings), "trace": trace_table(traced, settings)}
    files = {
        f"{kind}/{name}.parquet": manifest.store.write_parquet(f"{kind}/{name}.parquet", table, kind, asdict(settings))
        for kind, table in tables.items()
    }
    rows = sum(len(text.confidences) for text in traced)
    manifest.finish(name, {"rows": rows, "sequences": len(traced), "files": plain(files)})


def _report(store: Store, skipped: int, new_parts: int, seconds: float) -> None:
    """Say what there is now."""
    found = DataSet.read(store, "traces")
    sequences = sum(entry["sequences"] for entry in found.parts.values())
    old = len(found.parts) - new_parts
    print(
        f"{store.place}: {found.rows:,} positions of {sequences:,} texts"
        + (f", {skipped} prompts skipped as too long (listed in the manifest)" if skipped else "")
        + f"; {new_parts} parts in {seconds:.0f} s"
        + (f", {old} were done before" if old else "")
        + (f", {found.parts_total - len(found.parts)} are other shards'" if not found.complete else "")
    )
