"""``radar-rl bench banditspec``: throughput by batch size and speculation length, and what bandits over lengths reach.

BanditSpec (arXiv 2505.15141, §6.2) compares static speculation lengths γ with a bandit that chooses γ round by round.
Here every arm, every bandit and the target alone decode the same batches live; alone (batch 1) they are replayed too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.benchmarks.banditspec_figures import ALONE, BANDITS, REPLAY, WARM_UP, figures
from radar_rl.benchmarks.banditspec_picture import draw_throughput
from radar_rl.benchmarks.banditspec_tables import WIDTH, differences, tables
from radar_rl.benchmarks.experiment import Experiment, experiment, sized
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.telling import machine
from radar_rl.console import wide_console
from radar_rl.errors import ConfigError, check_whole
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import Exp3Spec, Policy, StaticDepth, UcbSpec
from radar_rl.progress import track
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.tasks import digest, fitting, load_prompts
from radar_rl.rollouts.writing import sequence_seed
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.alone import autoregressive_batch
from radar_rl.runtime.models import architecture, pair_from_config
from radar_rl.runtime.profiler import clock
from radar_rl.runtime.profiler import measure as measure_hardware
from radar_rl.speculative import HardwareProfile, Pair
from radar_rl.speculative.checkpoints import read_config
from radar_rl.speculative.pair import target_checkpoint
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.text import Options

WARM_UP_TOKENS = 24
TARGETS = ("own", "qwen2")
PICTURE = "banditspec.png"

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {
        "tasks": ["dialogue", "instructions"],
        "limit": 2,
        "batches": [1, 2],
        "max_depth": 3,
        "max_new_tokens": 32,
    },
    "full": {
        "tasks": ["alpaca"],
        "limit": 100,
        "batches": [1, 10, 20, 30, 40, 50],
        "max_depth": 4,
        "max_new_tokens": 256,
    },
}


@dataclass(frozen=True)
class Asked:
    """What is decoded, and how.

    Attributes:
        prompts: token ids of each.
        seeds: of each one's sampling.
        shape: max_depth, top_k and tree_size of the drafts.
        options: length and sampling of the texts.
        seed: of what draws at random.
    """

    prompts: list[list[int]]
    seeds: list[int]
    shape: dict[str, Any]
    options: Options
    seed: int

    def groups(self, size: int) -> NDArray[np.int64]:
        """Every prompt in batches of one size, in random order: [batches, size]; the last one is filled from the first.

        The order is the same for every size.
        """
        order = np.random.default_rng(self.seed).permutation(len(self.prompts))
        return np.resize(order, (-(-len(order) // size), size))

    @property
    def arms(self) -> dict[str, StaticDepth]:
        """The static depths, by name."""
        return {arm.name: arm for arm in map(StaticDepth, range(1, self.shape["max_depth"] + 1))}

    def policies(self, seconds: tuple[float, ...], number: int = 0) -> dict[str, Policy]:
        """Arms and bandits by name.

        Args:
            seconds: of a round of each arm, for the bandit whose reward is throughput.
            number: of the batch: EXP3Spec draws anew in each.
        """
        depth = self.shape["max_depth"]
        bandits = (UcbSpec(depth), UcbSpec(depth, seconds=seconds), Exp3Spec(depth, seed=self.seed + number))
        return {**self.arms, **dict(zip(BANDITS, bandits, strict=True))}


def bench_banditspec(
    *,
    out: str,
    size: Literal["smoke", "full"],
    model: Mapping[str, Any],
    targets: list[str],
    tasks: list[str] | None,
    data_dir: str | None,
    limit: int | None,
    batches: list[int] | None,
    max_depth: int | None,
    top_k: int,
    tree_size: int | None,
    max_new_tokens: int | None,
    temperature: float,
    seed: int,
) -> pl.DataFrame:
    """The verb ``bench banditspec``: measure what is not measured yet, then tables, a picture, ``experiment.json``.

    Args:
        out: the folder; an interrupted experiment goes on, one of other settings is refused.
        size: fills ``tasks``, ``limit``, ``batches``, ``max_depth`` and ``max_new_tokens`` where they are None.
        model: target and draft head.
        targets: ``own``, the target as it is; ``qwen2``, its weights in Qwen2's architecture.
        tasks, data_dir, limit: prompts, see ``load_prompts``; of a conversation the first turn.
        batches: texts decoded side by side.
        max_depth: the largest arm, L.
        top_k, tree_size: of the drafts; None: all that a chain has, and 60 of a tree.
        max_new_tokens, temperature: of the texts.
        seed: where randomness starts.

    Returns:
        A row per target, batch size and policy, see ``figures``.

    Raises:
        ConfigError: a value is unknown or out of range, or ``out`` holds an experiment of other settings.
        InputError: a number out of range, a task that cannot be read.
    """
    given = {"tasks": tasks, "limit": limit, "batches": batches}
    chosen = sized(size, SIZES, {**given, "max_depth": max_depth, "max_new_tokens": max_new_tokens})
    _check(chosen, targets, model)
    shape = {"max_depth": chosen["max_depth"], "top_k": top_k}
    shape["tree_size"] = tree_size or (chosen["max_depth"] + 1 if top_k == 1 else 60)
    told = {"targets": targets, **shape, "temperature": temperature, "seed": seed, "model": dict(model)}
    prompts = load_prompts(chosen["tasks"], data_dir=data_dir, limit=chosen["limit"])
    told["prompts"] = digest((f"{prompt.task}/{prompt.prompt_id}", _said(prompt)) for prompt in prompts)
    about = {"size": size, "paper": published("banditspec")["source"]}
    with experiment("banditspec", out, {**chosen, **told}, about) as work:
        traces = _collected(work, model, data_dir, {**chosen, **shape, "temperature": temperature, "seed": seed})
        labels: dict[str, str] = {}
        for name in targets:
            pair = pair_from_config({**model, "architecture": name} if name == "qwen2" else model)
            family = pair.target.model.config.model_type
            labels[family], where = pair.label, machine(pair)
            kept, skipped = fitting(pair, prompts, chosen["max_new_tokens"])
            asked = Asked(
                prompts=[ids for _, ids in kept],
                seeds=[sequence_seed(seed, prompt.prompt_id, 0) for prompt, _ in kept],
                shape=shape,
                options={"max_new_tokens": chosen["max_new_tokens"], "temperature": temperature},
                seed=seed,
            )
            for batch in chosen["batches"]:
                decode_batches(work, pair, family, batch, asked)
                if batch == 1 and traces is not None:
                    replay(work, pair, family, traces, asked)
            del pair  # of large targets there is no room for two
        found = figures(pl.DataFrame(work.rows, infer_schema_length=None))
        draw_throughput(found, f"{model['name']}, {where['device']}", work.folder / PICTURE)
        work.finish(figures=found.to_dicts(), labels=labels, machine={key: str(value) for key, value in where.items()})
    console = wide_console(WIDTH)
    for shown in tables(found, labels, chosen["tasks"]):
        console.print(shown)
    console.print(differences(found, where, {**chosen, **told}))
    if skipped:
        console.print(f"{len(skipped)} prompts left out as longer than the context")
    console.print(f"bench banditspec: written to {out}")
    return found


def _said(prompt: Prompt) -> Sequence[int]:
    """A prompt as it stands in its set, as numbers."""
    return prompt.token_ids or list((prompt.text or "").encode())


def _check(chosen: Mapping[str, Any], targets: Sequence[str], model: Mapping[str, Any]) -> None:
    """Refuse what cannot be measured."""
    for name in ("limit", "max_depth"):
        check_whole(name, chosen[name], 1)
    check_whole("max_new_tokens", chosen["max_new_tokens"], 2)  # the first one comes from the prefill
    if not chosen["batches"] or len(set(chosen["batches"])) < len(chosen["batches"]):
        raise ConfigError(f"batches: expected batch sizes, each once, got {chosen['batches']}")
    for batch in chosen["batches"]:
        check_whole("batches", batch, 1)
    if not targets or len(set(targets)) < len(targets) or not set(targets) <= set(TARGETS):
        raise ConfigError(f"targets: expected some of {', '.join(TARGETS)}, each once, got {targets}")
    family = "qwen2" if architecture(model) else read_config(target_checkpoint(model["target"])).get("model_type")
    if "qwen2" in targets and family != "llama":
        raise ConfigError(f"targets: only a Llama target can be written as Qwen2, this is {family}; give targets=[own]")


def _collected(
    work: Experiment, model: Mapping[str, Any], data_dir: str | None, chosen: Mapping[str, Any]
) -> str | None:
    """The prompts' trace, for replay of batches of 1; one serves both targets, which write the same texts."""
    if 1 not in chosen["batches"]:
        return None
    keys = ("tasks", "limit", "max_new_tokens", "max_depth", "top_k", "tree_size", "temperature", "seed")
    made: dict[str, Any] = {key: chosen[key] for key in keys}
    return collect(out=str(work.folder / "traces"), model=model, task={"path": None}, data_dir=data_dir, **made)


def decode_batches(work: Experiment, pair: Pair, family: str, size: int, asked: Asked) -> None:
    """Decode every batch of a size with the target alone, every arm and every bandit, one after the other.

    Who is first changes from batch to batch, so that a machine's drift meets all alike. Rows: ``target``, ``batch``,
    ``policy``, ``part`` (the batch's number), ``tokens`` and ``seconds`` (prefill and the tokens that it brings not
    counted), ``rounds``, ``draft_calls``, and ``texts``, a digest of each.

    Args:
        work: keeps the rows; what it has already is not decoded again.
        pair: target and draft head.
        family: how rows call the target.
        size: of the batches.
        asked: prompts, arms and how they are decoded.
    """
    groups = asked.groups(size)
    names = [ALONE, *asked.arms, *BANDITS]
    todo = [
        (number, names[(number + turn) % len(names)])
        for number in range(len(groups))
        for turn in range(len(names))
        if not work.has(target=family, batch=size, policy=names[(number + turn) % len(names)], part=str(number))
    ]
    if not todo:
        return
    seconds = _round_seconds(work, pair, family, groups[0], asked)
    for number, name in track(todo, len(todo), f"bench banditspec: {family}, batches of {size}"):
        policy = asked.policies(seconds, number).get(name)
        took = _decoded(pair, policy, groups[number], asked, asked.options)
        work.add(target=family, batch=size, policy=name, part=str(number), **took)


def _round_seconds(
    work: Experiment, pair: Pair, family: str, group: NDArray[np.int64], asked: Asked
) -> tuple[float, ...]:
    """Seconds of a round of each arm with a batch, measured on the beginnings of its texts; they warm the models up."""
    short: Options = {**asked.options, "max_new_tokens": min(WARM_UP_TOKENS, asked.options["max_new_tokens"])}
    here = {"target": family, "batch": len(group), "part": WARM_UP}
    for policy in (None, StaticDepth(len(asked.arms))):
        _decoded(pair, policy, group, asked, short)
    for name, arm in asked.arms.items():
        if not work.has(policy=name, **here):
            took = _decoded(pair, arm, group, asked, short)
            work.add(policy=name, **here, round_seconds=took["round_seconds"])
    rows = {row["policy"]: row for row in work.rows if here.items() <= row.items()}
    return tuple(rows[name]["round_seconds"] for name in asked.arms)


def _decoded(
    pair: Pair, policy: Policy | None, group: NDArray[np.int64], asked: Asked, options: Options
) -> dict[str, Any]:
    """Decode a batch with a policy, or with the target alone; what that came to."""
    prompts, seeds = [asked.prompts[i] for i in group], [asked.seeds[i] for i in group]
    rounds = calls = steps = 0
    if policy is None:
        alone: dict[str, Any] = {"max_new_tokens": options["max_new_tokens"], "temperature": options["temperature"]}
        stepping = autoregressive_batch(pair, prompts, seeds, **alone)
        texts = next(stepping)
        start = clock(pair)
        steps = sum(1 for _ in stepping)
        seconds = clock(pair) - start
    else:
        decoder = SpeculativeDecoder(pair, policy, **asked.shape, strict=True)
        batch = decoder.start_batch(prompts, seeds, **options)
        texts = batch.texts
        start = clock(pair)
        for ended in decoder.play(batch):
            steps += 1
            rounds += len(ended)
            calls += sum(done.draft_calls for done in ended.values())
        seconds = clock(pair) - start
    return {
        "tokens": sum(len(text.token_ids) - 1 for text in texts),
        "seconds": seconds,
        "rounds": rounds,
        "draft_calls": calls,
        "round_seconds": seconds / max(steps, 1),
        "texts": [_digest(text.token_ids) for text in texts],
    }


def _digest(token_ids: Sequence[int]) -> str:
    """Hash of a text's tokens: equal ones are the same text."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]


def replay(work: Experiment, pair: Pair, family: str, traces: str, asked: Asked) -> None:
    """Walk every arm and bandit over the texts' trace with this machine's profile: what batches of 1 should take.

    Rows as ``decode_batches`` adds them, ``part`` being ``replay``.

    Args:
        work, pair, family, asked: as ``decode_batches`` has them; the profile is kept in ``work``'s folder.
        traces: folder of the trace over the same prompts' texts.
    """
    place = work.folder / f"hardware-{family}.json"
    if not place.is_file():
        measure_hardware(pair, **asked.shape, repeats=10, seed=asked.seed).save(place)
    profile = HardwareProfile.load(place)
    trace = load_trace(traces, keep=lambda texts: np.array([name.endswith("/0") for name in texts.sequence_id]))
    outcomes = Outcomes.of(trace, profile)
    walked: dict[str, Any] = {"target": family, "batch": 1, "part": REPLAY}
    for name, policy in asked.policies(tuple(outcomes.seconds)).items():
        run = walk_policy(outcomes, policy)
        sums = {"rounds": int(run.rounds.sum()), "draft_calls": int(run.draft_calls.sum())}
        tokens = int(run.emitted.sum())  # with every policy the same
        if not work.has(policy=name, **walked):
            work.add(**walked, policy=name, tokens=tokens, seconds=float(run.seconds.sum()), **sums)
    if not work.has(policy=ALONE, **walked):
        assert profile.autoregressive_seconds is not None  # which measuring fills in
        work.add(**walked, policy=ALONE, tokens=tokens, seconds=tokens * profile.autoregressive_seconds)
