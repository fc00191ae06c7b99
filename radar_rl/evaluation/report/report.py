"""``radar-rl report``: the story of a comparison in pictures, as one page."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.evaluation.halves import Halves
from radar_rl.evaluation.profiles import Hardware
from radar_rl.evaluation.report.accepted import accepted_picture
from radar_rl.evaluation.report.canvas import Picture
from radar_rl.evaluation.report.cast import Cast
from radar_rl.evaluation.report.evaluated import THRESHOLD, Evaluated, Row, best, depth_of, label, name_of, of_kind, the
from radar_rl.evaluation.report.gains import gains_picture
from radar_rl.evaluation.report.origin import command, origin
from radar_rl.evaluation.report.page import Page
from radar_rl.evaluation.report.prices import Line, Prices, prices_picture
from radar_rl.evaluation.report.replay import Stops, Texts, follow, follow_oracle, static_rounds
from radar_rl.evaluation.report.round_time import Bar, Machine, round_time_picture
from radar_rl.evaluation.report.stopping import stopping_picture
from radar_rl.evaluation.report.story import headline, machines_table, policies_table, summary, tiles
from radar_rl.evaluation.report.sweep import sweep_picture
from radar_rl.evaluation.report.wording import percent
from radar_rl.evaluation.trained import check_fits
from radar_rl.folders import made_folder
from radar_rl.offline.ranges import SHARE, check_value
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import StaticDepth
from radar_rl.rollouts import trace_settings
from radar_rl.rollouts.trace import Trace
from radar_rl.runtime.profiler import named_hardware
from radar_rl.speculative.hardware import HardwareProfile

PAGE_FILE = "report.html"
EVALUATION_FOLDER = "evaluation"
OTHERS = 2  # policies trained for other machines, in the picture of prices
AGREE = 1e-6  # throughputs that are the same, relative

log = logging.getLogger(__name__)


def report(
    *,
    out: str,
    traces: str,
    evaluation: str | None,
    runs: Sequence[str],
    sweep: str | None,
    hardware: Hardware,
    model: Mapping[str, Any],
    allow_other_pair: bool,
    held_out: float,
    seed: int,
    tree_size: int | None,
    resamples: int,
    tune_traces: str | None = None,
) -> dict[str, Any]:
    """Write ``report.html``, one page that needs nothing else, and its figures as PNGs.

    Args:
        out: the folder to write.
        traces: folder of the collected trace that policies were compared on.
        evaluation: what ``radar-rl evaluate`` wrote; None evaluates first, into ``out``.
        runs: folders of trained runs, or of several; none: those that the evaluation recorded.
        sweep: folder with the ``results.parquet`` of a sweep, or of ``radar-rl compare``; None: no such picture.
        hardware: FILE or NAME of the profile, of those of the evaluation, whose story is told; None: its first. Without
            ``evaluation``, as ``evaluate`` takes it.
        model, seed, tree_size, resamples: as ``evaluate`` takes them, where there is no ``evaluation``.
        allow_other_pair: accept a trace of another pair than the runs were trained on.
        held_out: share of held-out prompts where no run has recorded it.
        tune_traces: the other trace that rules were tuned on, if the evaluation had one.

    Returns:
        ``page`` and ``pictures``, paths; ``headline``; and the ``policy`` that it is about.

    Raises:
        InputError: a folder does not hold what it should, or there is a file where ``out`` is to be.
        ConfigError: the evaluation lacks the machine, or it is not known where a run lies that is to be drawn.
        TraceError: the evaluation was made from other texts.
    """
    check_value("held_out", held_out, SHARE)
    folder = Path(out)
    told = command({name: value for name, value in locals().items() if name not in ("folder", "model")})
    if sweep is not None:
        sweep_picture(sweep)  # what is wrong with it, before the work
    wanted = None
    if evaluation is None:
        evaluate(
            out=str(folder / EVALUATION_FOLDER),
            traces=traces,
            tune_traces=tune_traces,
            runs=runs,
            hardware=hardware,
            model=model,
            allow_other_pair=allow_other_pair,
            held_out=held_out,
            seed=seed,
            tree_size=tree_size,
            resamples=resamples,
        )
    elif hardware is not None:
        wanted = _profile(hardware)
    evaluated = Evaluated.read(evaluation or folder / EVALUATION_FOLDER)
    machine = evaluated.machine(wanted)
    cast = Cast.of(evaluated, runs)
    made = trace_settings(traces)
    for run in cast.runs.values():
        check_fits(run, made, allow_other_pair)
    share = min([held_out] if evaluated.held_out is None and not cast.runs else cast.held_out(evaluated))
    halves = Halves(traces, tune_traces, share, int(evaluated.made["tree_size"]))
    pictures, texts = _pictures(evaluated, machine, cast, halves)
    if sweep is not None:
        pictures.append(sweep_picture(sweep))
    judged = evaluated.judged(machine)
    row = best(judged)
    tables = [policies_table(judged, row), machines_table(evaluated, machine)]
    pair = f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}"
    page = Page(
        pair=f"When to stop drafting · {pair}",
        headline=headline(row, judged),
        summary=summary(row, judged, machine),
        tiles=tiles(row),
        tables=[table for table in tables if table is not None],
        pictures=pictures,
        origin=origin(told, traces, made, evaluated, texts, row),
    )
    made_folder(folder)
    (folder / PAGE_FILE).write_text(page.html(), encoding="utf-8")
    saved = [str(picture.save(folder)) for picture in pictures]
    print(f"report: {page.headline} → {folder / PAGE_FILE}")
    return {"page": str(folder / PAGE_FILE), "pictures": saved, "headline": page.headline, "policy": row["policy"]}


def _pictures(
    evaluated: Evaluated, machine: HardwareProfile, cast: Cast, halves: Halves
) -> tuple[list[Picture], Texts]:
    """The figures that follow from walks over the texts."""
    # One half after the other: counts are all that is left of the training texts when the held-out ones are loaded.
    training = halves.tuning()
    rounds, tuned_on = static_rounds(training), training.sequences
    del training
    trace = halves.compared(tuned_on, cast.columns())
    outcomes = {each.name: Outcomes.of(trace, each) for each in evaluated.machines}
    here = outcomes[machine.name]
    texts = Texts.of(here)
    statics = [follow(here, StaticDepth(depth)) for depth in range(1, here.max_depth + 1)]
    judged = evaluated.judged(machine)
    _check_same_texts(evaluated, machine, texts, statics)
    row = best(judged)
    name = name_of(row, judged)
    learned = {each: follow(here, run.policy) for each, run in cast.runs.items()}

    def stops(which: Row) -> Stops:
        return learned[which["policy"]] if which["kind"] == "learned" else follow(here, cast.policy(which))

    own, oracle = stops(row), follow_oracle(here)
    beside = {
        label(rule, []): (rule["kind"], stops(rule))
        for rule in of_kind(judged, "rule")
        if rule["policy"].startswith(THRESHOLD) and rule["policy"] != row["policy"]
    }
    seen = {name: (row["kind"], own), **beside, "oracle": ("oracle", oracle)}
    prices = Prices.around(machine, texts, rounds, statics)
    lines = _lines(prices, trace, evaluated, cast, learned, (name, row, own))
    machines = []
    order = sorted(zip(evaluated.machines, cast.leads, strict=True), key=lambda pair: pair[0] != machine)
    for each, lead in order:
        there = outcomes[each.name]
        lead_stops = learned[lead["policy"]] if lead["kind"] == "learned" else follow(there, cast.policy(lead))
        ideal = oracle if each == machine else follow_oracle(there)
        machines.append(_machine(each, lead, evaluated.judged(each), statics, lead_stops, ideal, texts))
    pictures = [
        gains_picture(judged, row),
        accepted_picture(evaluated.rows.filter(hardware=machine.name), judged, row),
        stopping_picture(seen),
        prices_picture(prices, lines),
        round_time_picture(machines),
    ]
    return pictures, texts


def _lines(
    prices: Prices,
    trace: Trace,
    evaluated: Evaluated,
    cast: Cast,
    learned: Mapping[str, Stops],
    main: tuple[str, Row, Stops],
) -> list[Line]:
    """The policies whose gains are drawn by price: the page's, oracle, default depth, those for other machines."""
    nodes = prices.texts.nodes
    name, row, own = main

    def trained_at(policy: str) -> float | None:
        if policy not in cast.runs:
            return None
        made = HardwareProfile.from_mapping(cast.runs[policy].about["hardware"], policy)
        return made.draft_share(int(nodes[-1]))

    others = {
        lead["policy"]: float(trained_at(lead["policy"]) or 0)
        for each, lead in zip(evaluated.machines, cast.leads, strict=True)
        if lead["kind"] == "learned" and lead["policy"] != row["policy"] and lead["trained_for"] == each.name
    }
    far = sorted(others, key=lambda other: others[other])
    far = far if len(far) <= OTHERS else [far[0], far[-1]]
    oracle = prices.gains(lambda priced: follow_oracle(Outcomes.of(trace, priced)))
    return [
        Line(name, row["kind"], prices.gains(lambda _: own), trained_at(row["policy"]), main=True),
        Line("oracle", "oracle", oracle),
        Line("default depth", "static", prices.gains(lambda _: prices.statics[-1])),
        *(
            Line(
                f"trained at {percent(others[other], 0)}",
                "learned",
                prices.gains(lambda _, stops=learned[other]: stops),  # type: ignore[misc]
                others[other],
            )
            for other in far
        ),
    ]


def _machine(
    machine: HardwareProfile,
    lead: Row,
    judged: Sequence[Row],
    statics: Sequence[Stops],
    own: Stops,
    ideal: Stops,
    texts: Texts,
) -> Machine:
    """The bars of a machine."""
    depth = depth_of(lead["baseline"])
    tuned = Bar.of(f"tuned ({depth})", "static", statics[depth - 1], machine, texts)
    best_bar = Bar.of(name_of(lead, judged), lead["kind"], own, machine, texts)
    bars = [tuned, best_bar, Bar.of("oracle", "oracle", ideal, machine, texts)]
    if depth != len(statics):
        bars.insert(0, Bar.of(f"default ({len(statics)})", "static", statics[-1], machine, texts))
    return Machine(machine.name, tuple(bars), tuned, best_bar)


def _check_same_texts(evaluated: Evaluated, machine: HardwareProfile, texts: Texts, statics: Sequence[Stops]) -> None:
    """Refuse texts that the evaluation was not made from: its static depths must be as fast on them.

    Raises:
        TraceError: they are not.
    """
    pooled = evaluated.pooled(machine)
    row = the(pooled, pooled[0]["baseline"])
    stops = statics[depth_of(row["baseline"]) - 1]
    here = float(texts.emitted.sum() / stops.seconds(machine, texts.nodes).sum())
    if not np.isclose(here, row["tokens_per_second"], rtol=AGREE, atol=0):
        raise TraceError(
            f"evaluation: {row['baseline']} makes {row['tokens_per_second']:.3f} tokens/s on {machine.name!r} there, "
            f"{here:.3f} on the texts of traces=; give the trace (and held_out=, tune_traces=) that was evaluated on"
        )


def _profile(hardware: Hardware) -> HardwareProfile:
    """The profile that ``hardware=`` names.

    Raises:
        ConfigError: it names several, or none.
    """
    if not isinstance(hardware, str):
        raise ConfigError(f"hardware: with evaluation=, expected one of its profiles, a FILE or NAME; got {hardware!r}")
    return named_hardware(hardware)
