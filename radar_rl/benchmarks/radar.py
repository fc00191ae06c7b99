"""``radar-rl bench radar``: RADAR's tables anew: texts decoded live, the same texts replayed, the paper's numbers.

From prompts to tables in one folder: hardware profile, traces, a policy trained as RADAR's was and one of ours, their
evaluation, live decoding of the held-out texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from radar_rl.benchmarks.experiment import Experiment, experiment, sized, with_contents
from radar_rl.benchmarks.live import Asked, decode_all, held_out_texts
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.radar_figures import Contest, figures
from radar_rl.benchmarks.radar_picture import draw_contest
from radar_rl.benchmarks.radar_stages import evaluate_both, train_both
from radar_rl.benchmarks.radar_tables import WIDTH, differences, tables
from radar_rl.benchmarks.telling import machine
from radar_rl.console import wide_console
from radar_rl.errors import ConfigError, check_whole
from radar_rl.evaluation.statistics import MIN_RESAMPLES
from radar_rl.offline.fit import EPOCHS
from radar_rl.offline.ranges import BETWEEN, SEED, at_least, check_value
from radar_rl.policies import Policy, StaticDepth
from radar_rl.rollouts import held_out as is_held_out
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.tasks import SHIPPED
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.artifact import load_policy
from radar_rl.runtime.models import inflated_shape, pair_from_config
from radar_rl.runtime.named import policy_from_string
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.pair import Pair

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"tasks": list(SHIPPED), "limit": 10, "max_new_tokens": 40, "steps": 300, "passes": 10},
    "full": {
        "tasks": ["mt_bench", "gsm8k", "alpaca", "mbpp"],
        "limit": 80,
        "max_new_tokens": 128,
        "steps": 3000,
        "passes": 100,
    },
}

EAGLE2_HEADS = {
    "pocket": "pocket-eagle2",
    "meta-llama/Llama-3.1-8B-Instruct": "yuhuili/EAGLE-LLaMA3.1-Instruct-8B",
}
EAGLE2_CALLS = 6
"""Draft calls of EAGLE-2 as RADAR's repository runs it (``gen_ea2_answer_llama3chat.py``: depth 5, 60 nodes)."""

PICTURE = "radar.png"


def bench_radar(
    *,
    out: str,
    size: Literal["smoke", "full"],
    model: Mapping[str, Any],
    algo: Mapping[str, Any],
    tasks: list[str] | None,
    data_dir: str | None,
    limit: int | None,
    held_out: float,
    temperature: float,
    max_new_tokens: int | None,
    max_depth: int,
    top_k: int,
    tree_size: int,
    eagle2: str | None,
    observation: list[str],
    newest: int | None,
    steps: int | None,
    batch_size: int,
    passes: int | None,
    weights: str | None,
    paper: str,
    hardware: str | None,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """The verb ``bench radar``: every stage that is not done, then tables, a picture and ``experiment.json``.

    Args:
        out: the folder; an interrupted experiment goes on, one of other settings is refused.
        size: fills ``tasks``, ``limit``, ``max_new_tokens``, ``steps`` and ``passes`` where they are None.
        model: target and EAGLE-3 head.
        algo: what trains our policy, see ``train``.
        tasks, data_dir, limit: prompts, see ``load_prompts``.
        held_out: share of the prompts that is decoded live and replayed; the others are trained on.
        temperature, max_new_tokens: of the texts.
        max_depth, top_k, tree_size: of the drafts; ``max_depth`` is EAGLE-3's static depth too.
        eagle2: the target's EAGLE-2 head; None: the one known for it, if any.
        observation, newest, steps, batch_size: of our policy, see ``train``.
        passes: over its rounds, in RADAR's training.
        weights: a file of RADAR's published weights; None: no such row.
        paper: the target whose published numbers stand beside.
        hardware: FILE or NAME of a profile; None measures this machine.
        resamples: of the intervals, over prompts.
        seed: where randomness starts.

    Returns:
        A row per policy and task, columns as ``radar_figures.figures``.

    Raises:
        ConfigError: a value is unknown or out of range, or ``out`` holds an experiment of other settings.
        InputError, TraceError: see ``collect``, ``train`` and ``evaluate``.
    """
    chosen = sized(
        size,
        SIZES,
        {"tasks": tasks, "limit": limit, "max_new_tokens": max_new_tokens, "steps": steps, "passes": passes},
    )
    _check(chosen, paper, held_out, resamples, seed)
    second = _eagle2_head(eagle2, model)
    theirs = None if weights is None else policy_from_string(weights, seed)
    drafts: dict[str, Any] = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    about = {"held_out": held_out, "temperature": temperature, "seed": seed, **drafts}
    learns = {"algo": dict(algo), "observation": observation, "newest": newest, "batch_size": batch_size}
    settings = {**chosen, **about, **learns, "model": dict(model), "eagle2": second}
    settings |= {"weights": with_contents(weights), "hardware": with_contents(hardware), "resamples": resamples}
    with experiment("radar", out, settings, {"size": size, "paper": published("radar")["source"]}) as work:
        place = work.folder
        profile = resolve_hardware(hardware, place / "hardware.json", model, **drafts)
        profile.save(place / "hardware.json")
        traces = collect(
            out=str(place / "traces"),
            model=model,
            tasks=chosen["tasks"],
            task={"path": None},
            data_dir=data_dir,
            limit=chosen["limit"],
            temperature=temperature,
            seed=seed,
            max_new_tokens=chosen["max_new_tokens"],
            features=list(columns_of(observation)),
            **drafts,
        )
        depth = train_both(place, traces, profile, settings)
        evaluate_both(place, traces, settings, resamples)
        policies: dict[str, Policy] = {
            "EAGLE-3": StaticDepth(max_depth),
            "RADAR": load_policy(place / "runs/radar"),
            **({} if theirs is None else {"RADAR's weights": theirs}),
            "tuned static": StaticDepth(depth),
            "ours": load_policy(place / "runs/ours"),
        }
        texts = held_out_texts(traces, held_out)
        pair = pair_from_config(model)
        decoders = {name: SpeculativeDecoder(pair, policy, strict=True, **drafts) for name, policy in policies.items()}
        if second is not None:
            decoders = {"EAGLE-2": _eagle2(model, second, drafts), **decoders}
        decode_all(
            work,
            pair,
            decoders,
            texts,
            {"max_new_tokens": chosen["max_new_tokens"], "temperature": temperature},
        )
        contest = Contest(
            live=pl.DataFrame(work.rows, infer_schema_length=None),
            trace=load_trace(
                traces,
                keep=lambda sequences: is_held_out(sequences.prompt_id, held_out),
                features=columns_of(observation),
            ),
            profile=profile,
            policies=policies,
            shown=_shown(decoders, depth, str(algo["name"])),
        )
        return _told(work, contest, pair, texts, settings, paper, resamples)


def _check(chosen: Mapping[str, Any], paper: str, held_out: float, resamples: int, seed: int) -> None:
    """Refuse what cannot be measured."""
    known = published("radar")["targets"]
    if paper not in known:
        raise ConfigError(f"paper={paper}: no such target; valid: {', '.join(known)}")
    for name in ("limit", "passes"):
        check_whole(name, chosen[name], 1)
    check_value("steps", chosen["steps"], at_least(EPOCHS))
    check_whole("max_new_tokens", chosen["max_new_tokens"], 2)  # the first one comes from the prefill
    check_value("held_out", held_out, BETWEEN)
    check_value("resamples", resamples, at_least(MIN_RESAMPLES))
    check_value("seed", seed, SEED)


def _eagle2_head(given: str | None, model: Mapping[str, Any]) -> str | None:
    """The EAGLE-2 head to compare with, if there is one.

    Raises:
        ConfigError: one is given for an inflated pair, whose head must be EAGLE-3's.
    """
    if inflated_shape(model) is None:
        return given or EAGLE2_HEADS.get(model["target"])
    if given:
        raise ConfigError("eagle2: only an EAGLE-3 head can be inflated; leave it null, and the row is left out")
    return None


def _eagle2(model: Mapping[str, Any], head: str, drafts: Mapping[str, Any]) -> SpeculativeDecoder:
    pair = pair_from_config({**model, "draft": head})
    return SpeculativeDecoder(pair, StaticDepth(EAGLE2_CALLS), strict=True, **{**drafts, "max_depth": EAGLE2_CALLS})


def _shown(decoders: Mapping[str, SpeculativeDecoder], depth: int, algo: str) -> dict[str, str]:
    """The policies in the tables' order, with what tells more of them."""
    named = {
        "EAGLE-2": f"EAGLE-2 (static {EAGLE2_CALLS})",
        "EAGLE-3": f"EAGLE-3 (static {decoders['EAGLE-3'].max_depth})",
        "RADAR": "RADAR, trained here",
        "RADAR's weights": "RADAR's weights",
        "tuned static": f"tuned static ({depth})",
        "ours": f"ours ({algo})",
    }
    return {name: shown for name, shown in named.items() if name in decoders}


def _told(
    work: Experiment,
    contest: Contest,
    pair: Pair,
    texts: Sequence[Asked],
    settings: Mapping[str, Any],
    paper: str,
    resamples: int,
) -> pl.DataFrame:
    """Print the tables and what they are of, draw the picture, and end the experiment's record."""
    rows = figures(contest, resamples, settings["seed"])
    numbers = published("radar")
    console = wide_console(WIDTH)
    for table in tables(rows, contest.shown, numbers, paper):
        console.print(table)
    for line in differences(rows, pair, contest, settings, paper):
        console.print(line, soft_wrap=False)
    draw_contest(rows, contest.shown, numbers, paper, f"{pair.label}, {len(texts)} texts", work.folder / PICTURE)
    made_on = {**machine(pair), "pair": pair.label, "hardware": contest.profile.name}
    work.finish(machine=made_on, paper=paper, figures=rows.to_dicts(), same_texts=contest.same_texts())
    print(f"bench radar: written to {work.folder}")
    return rows
