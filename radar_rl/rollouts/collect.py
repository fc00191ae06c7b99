"""``radar-rl collect``: texts of the target, written or given, and of each its exact trace (DESIGN: 3.2)."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from radar_rl.errors import ConfigError
from radar_rl.progress import track
from radar_rl.rollouts.again import texts_again
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.columns import TracedText, sequences_table, trace_table
from radar_rl.rollouts.manifest import DataSet, Manifest, check_shard, part_name
from radar_rl.rollouts.room import positions_that_fit
from radar_rl.rollouts.sessions import near_cut
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.tasks import Skipped, digest, fitting, load_prompts
from radar_rl.rollouts.trace import NO_RANK, TraceSettings
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.rollouts.writing import TEXTS_PER_BATCH, Work, WrittenText, given_texts, write_texts
from radar_rl.runtime.models import pair_from_config
from radar_rl.speculative.features import FEATURES, check_columns, checked_names
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import Sampling

FOREIGN_HEAD = 0.1
"""Share of tokens that are among the ``tree_size - 1`` best children of the token before, by the head, below which the
head hardly belongs to the target."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What there is to do, and how.

    Attributes:
        settings: what the trace is made with.
        pair: target and draft head.
        works: what the target is to write, or the texts as they were given; in order.
        max_new_tokens: length at which a text that the target writes is cut.
        part_size: works per part.
        texts_per_batch: texts written side by side.
        positions_per_batch: positions whose trees grow together.
        improbable: share of given tokens of probability below 1e-6 above which to warn.
    """

    settings: TraceSettings
    pair: Pair
    works: Sequence[Work] | Sequence[WrittenText]
    max_new_tokens: int
    part_size: int
    texts_per_batch: int
    positions_per_batch: int
    improbable: float

    @property
    def parts(self) -> int:
        """Parts that the works make."""
        return -(-len(self.works) // self.part_size)

    def of_part(self, part: int) -> Sequence[Work] | Sequence[WrittenText]:
        """The works that make a part."""
        return self.works[part * self.part_size : (part + 1) * self.part_size]

    def texts(self, works: Sequence[Work] | Sequence[WrittenText]) -> tuple[list[WrittenText], list[Skipped]]:
        """The texts of some works, and the turns of conversations that do not fit the context."""
        given = [work for work in works if isinstance(work, WrittenText)]
        if given:
            return given, []
        return write_texts(
            self.pair,
            [work for work in works if isinstance(work, Work)],
            max_new_tokens=self.max_new_tokens,
            temperature=self.settings.temperature,
            sample_top_k=self.settings.sample_top_k,
            sample_top_p=self.settings.sample_top_p,
            seed=self.settings.seed,
            texts_per_batch=self.texts_per_batch,
        )

    def trace(self, text: WrittenText) -> TracedText:
        """One text with its trace."""
        settings = self.settings
        token_ids = text.token_ids
        traced = trace_sequence(
            self.pair,
            token_ids,
            len(text.prompt_ids),
            max_depth=settings.max_depth,
            top_k=settings.top_k,
            tree_size=settings.tree_size,
            positions_per_batch=self.positions_per_batch,
            features=settings.features,
            feature_dim=settings.feature_dim,
            feature_seed=settings.feature_seed,
            judge=settings.source == "texts",
        )
        censored = np.zeros(len(traced.confidences), dtype=np.bool_)
        if token_ids[-1] not in self.pair.eos_token_ids:
            positions = len(text.prompt_ids) + np.arange(len(censored))
            censored = np.asarray(near_cut(positions, len(token_ids), settings.max_depth))
        return TracedText(
            text, traced.confidences, traced.ranks, censored, traced.features, traced.greedy, traced.improbable
        )


def collect(
    *,
    out: str,
    model: Mapping[str, Any],
    tasks: list[str],
    task: Mapping[str, Any],
    source: Literal["model", "texts"] = "model",
    texts_of: str | None = None,
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
    features: list[str] | None = None,
    feature_dim: int = 16,
    feature_seed: int = 0,
    shard: int = 0,
    shards: int = 1,
    part_size: int = 64,
    texts_per_batch: int = TEXTS_PER_BATCH,
    positions_per_batch: int | None = None,
    improbable: float = 0.01,
) -> str:
    """Collect a trace; an interrupted collection goes on where it stopped.

    Args:
        out: folder to write, or a URI that pyarrow knows: ``sequences/``, ``trace/`` and a manifest per shard.
        model: target, draft, dtype and device.
        tasks, task, split, data_dir, limit: which prompts, see ``load_prompts``; ``task["path"]`` is a file of rows.
        source: ``model``: the target writes the texts; ``texts``: the rows hold completions that it wrote elsewhere.
        texts_of: folder or URI of a collection by the same target whose very texts are traced again, decoded by nobody;
            what it says of its texts counts (tasks, sampling, seed, length), ``limit`` counts its prompts.
        samples: texts per prompt.
        temperature, sample_top_k, sample_top_p: sampling of the target, 0 is greedy.
        seed: each sequence's own seed derives from it, the prompt's id and the number of the sample.
        max_new_tokens: length at which a text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        features: further columns, see ``radar_rl.speculative.features``.
        feature_dim, feature_seed: numbers that hidden states are projected to, and where the projection comes from.
        shard, shards: which share of the work to do, of how many.
        part_size: texts per file.
        texts_per_batch: texts written side by side.
        positions_per_batch: positions whose trees grow together; None: what fits the free memory.
        improbable: warn if more than this share of given tokens have a probability below 1e-6.

    Returns:
        ``out``.

    Raises:
        InputError: a task, file, prompt or folder is not usable, or another process collects this shard.
        TraceError: the folder holds a trace made with other settings, or ``texts_of`` none of this target.
        ConfigError: a number is out of range.
    """
    counts = {"samples": samples, "part_size": part_size, "texts_per_batch": texts_per_batch}
    for name, value in (counts | {"positions_per_batch": positions_per_batch}).items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    check_shard(shard, shards)
    Sampling(temperature, sample_top_k, sample_top_p)  # which says what is wrong with it, before anything is written
    if samples > 1 and (temperature == 0 or source == "texts"):
        raise ConfigError(f"samples={samples} would make the same text again; set a temperature, and source=model")
    given = source == "texts"
    names = checked_names(features or (), feature_dim)
    check_columns(names)
    projected = any(FEATURES[name].projected for name in names)
    prompts = (
        load_prompts(tasks, path=task.get("path"), split=split, data_dir=data_dir, limit=limit, completions=given)
        if texts_of is None
        else []
    )
    pair = pair_from_config(model)
    pair.check_shape(max_depth, top_k, tree_size, True)
    made: dict[str, Any] = {
        "temperature": temperature,
        "sample_top_k": sample_top_k,
        "sample_top_p": sample_top_p,
        "seed": seed,
        "source": source,
        "max_new_tokens": max_new_tokens,
        "samples": samples,
    }
    works: Sequence[Work] | Sequence[WrittenText]
    skipped: list[Skipped] = []
    if texts_of is not None:
        works, made = texts_again(texts_of, pair.target_identity, limit)
    elif given:
        works, skipped = given_texts(pair, prompts)
    else:
        encoded, skipped = fitting(pair, prompts, max_new_tokens)
        works = [Work(prompt, tuple(ids), sample) for prompt, ids in encoded for sample in range(samples)]
    of_texts = {name: made[name] for name in made if name in TraceSettings.__dataclass_fields__}
    settings = TraceSettings(
        target=pair.target_identity,
        draft=pair.draft_identity,
        max_depth=max_depth,
        top_k=top_k,
        tree_size=tree_size,
        features=names,
        feature_dim=feature_dim if projected else 0,
        feature_seed=feature_seed if projected else 0,
        **of_texts,
    )
    about = asdict(settings) | {
        "max_new_tokens": made["max_new_tokens"],
        "samples": made["samples"],
        "part_size": part_size,
        "works": len(works),
        "works_digest": digest(_named(work) for work in works),
    }
    longest = max(_longest(work, max_new_tokens, pair.max_positions) for work in works)
    positions = positions_per_batch or positions_that_fit(pair, longest, max_depth=max_depth, top_k=top_k)
    notes = {"positions_per_batch": positions, "skipped": [asdict(entry) for entry in skipped]}
    plan = Plan(settings, pair, works, max_new_tokens, part_size, texts_per_batch, positions, improbable)
    store = Store.at(out)
    with claimed(store, Manifest(store, "traces", about, plan.parts, shard, shards).claim):
        manifest = Manifest.open(store, "traces", about, plan.parts, shard, shards, notes)
        if positions_per_batch is None:  # as before: float sums depend on it in their last bit
            plan = replace(plan, positions_per_batch=int(manifest.notes["positions_per_batch"]))
        _go_on(plan, manifest)
    return out


def _named(work: Work | WrittenText) -> tuple[str, tuple[int, ...]]:
    """What tells one work from another: its name and its token ids."""
    if isinstance(work, WrittenText):
        return work.sequence_id, (len(work.prompt_ids), *work.token_ids)
    return f"{work.sequence_id(0)}/{work.said}", work.prompt_ids


def _longest(work: Work | WrittenText, max_new_tokens: int, context: int) -> int:
    """Tokens of a work's longest text, at most; a conversation may fill the context."""
    if isinstance(work, WrittenText):
        return len(work.token_ids)
    return context if work.prompt.later_turns else len(work.prompt_ids) + max_new_tokens


def _go_on(plan: Plan, manifest: Manifest) -> None:
    """Make what is missing of a shard, and say what there is then."""
    done = set(DataSet.read(manifest.store, "traces").parts)
    mine = range(manifest.shard, plan.parts, manifest.shards)
    todo = [number for number in mine if part_name(number) not in done]
    works = [work for number in todo for work in plan.of_part(number)]
    texts = sum(1 if isinstance(work, WrittenText) else 1 + len(work.prompt.later_turns) for work in works)
    start = time.monotonic()
    shown = track(_collected(plan, manifest, todo), 2 * texts, "texts written and traced") if todo else ()
    for _ in shown:
        pass
    _report(manifest, len(mine) - len(todo), len(todo), time.monotonic() - start)


def _collected(plan: Plan, manifest: Manifest, todo: Sequence[int]) -> Iterator[None]:
    """Make parts; yields when a text is written, and again when it is traced (if it is skipped, twice at once)."""
    for number in todo:
        works = plan.of_part(number)
        traced: list[TracedText] = []
        skipped: list[Skipped] = []
        for first in range(0, len(works), plan.texts_per_batch):
            written, left_out = plan.texts(works[first : first + plan.texts_per_batch])
            skipped += left_out
            yield from (None for _ in range(len(written) + 2 * len(left_out)))
            for text in written:
                traced.append(plan.trace(text))
                yield
        _write(plan, manifest, part_name(number), traced, skipped)


def _write(plan: Plan, manifest: Manifest, part: str, texts: Sequence[TracedText], skipped: Sequence[Skipped]) -> None:
    """Write one part and record it."""
    tables = {"sequences": sequences_table(texts, plan.settings), "trace": trace_table(texts, plan.settings)}
    entry: dict[str, Any] = {
        "rows": len(tables["trace"]),
        "sequences": len(texts),
        "skipped": [asdict(one) for one in skipped],
    }
    if plan.settings.source == "texts":
        entry["judged"] = {
            "tokens": sum(len(text.text.completion_ids) for text in texts),
            "greedy": sum(text.greedy for text in texts),
            "improbable": sum(text.improbable for text in texts),
        }
        _doubt_texts(part, entry["judged"], plan.improbable)
    _doubt_head(plan, part, texts)
    manifest.add(part, tables, asdict(plan.settings), entry)


def _doubt_texts(part: str, judged: Mapping[str, int], threshold: float) -> None:
    share = judged["improbable"] / max(judged["tokens"], 1)
    if share > threshold:
        log.warning(
            "%s: %.1f %% of the given tokens have a probability below 1e-6 under this target (%.1f %% are its greedy "
            "choice): did another model write them, or with another prompt format?",
            part,
            100 * share,
            100 * judged["greedy"] / judged["tokens"],
        )


def _doubt_head(plan: Plan, part: str, texts: Sequence[TracedText]) -> None:
    first = np.concatenate([text.ranks[:, 0, 0] for text in texts] or [np.empty(0, np.uint16)])
    share = float((first != NO_RANK).mean()) if len(first) else 1.0
    if share < FOREIGN_HEAD:
        log.warning(
            "%s: only %.1f %% of the tokens are among the %d children that the head would verify after one call: "
            "does %s belong to %s?",
            part,
            100 * share,
            plan.settings.tree_size - 1,
            plan.settings.draft,
            plan.settings.target,
        )


def _report(manifest: Manifest, old: int, new: int, seconds: float) -> None:
    """Say what there is now."""
    found = DataSet.read(manifest.store, "traces")
    skipped = [*manifest.notes["skipped"], *(one for entry in found.parts.values() for one in entry["skipped"])]
    told = [f"{found.rows:,} positions of {sum(entry['sequences'] for entry in found.parts.values()):,} texts"]
    if skipped:
        told.append(f"{len(skipped)} prompts skipped as too long (listed in the manifest)")
    told.append(f"{new} parts in {seconds:.0f} s" + (f", {old} were done before" if old else ""))
    if not found.complete:
        told.append(f"{found.parts_total - len(found.parts)} of {found.parts_total} parts are left to other shards")
    judged = [entry["judged"] for entry in found.parts.values() if "judged" in entry]
    if judged:
        tokens, greedy, improbable = (sum(one[key] for one in judged) for key in ("tokens", "greedy", "improbable"))
        told.append(
            f"of {tokens:,} given tokens {greedy / tokens:.1%} are the target's greedy choice, "
            f"{improbable / tokens:.2%} have a probability below 1e-6"
        )
    print(f"{manifest.store.place}: {'; '.join(told)}")
