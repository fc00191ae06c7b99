"""``radar-rl bench hardware``: from one collection a policy for each machine, run on all of them, here live as well."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import polars as pl

from radar_rl.benchmarks.experiment import Experiment, experiment, sized, with_contents
from radar_rl.benchmarks.hardware_figures import live_figures, matrix_rows, replay_rows
from radar_rl.benchmarks.hardware_live import decode_live
from radar_rl.benchmarks.hardware_report import WIDTH, draw, live_table, matrix_table, replay_table
from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.machines import Machine, machines_of
from radar_rl.benchmarks.ratios import ratio, shown
from radar_rl.configs import load
from radar_rl.console import wide_console
from radar_rl.errors import ConfigError, check_whole
from radar_rl.evaluation.evaluate import TABLE_FILE, evaluate
from radar_rl.evaluation.profiles import slug
from radar_rl.evaluation.statistics import MIN_RESAMPLES
from radar_rl.offline.ranges import BETWEEN, SEED, at_least, check_value
from radar_rl.offline.train import train
from radar_rl.offline.tuning import RULE_FEATURES
from radar_rl.rollouts import data_digest, trace_settings
from radar_rl.rollouts.collect import collect
from radar_rl.rollouts.tasks import SHIPPED
from radar_rl.speculative.features import columns_of

MACHINES = (None, "radar_llama31_8b", "gpu_fast", "share_06", "share_20")
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"tasks": list(SHIPPED), "limit": 10, "max_new_tokens": 40, "steps": 300, "seeds": [0], "live": 1},
    "full": {
        "tasks": ["mt_bench", "gsm8k", "alpaca", "mbpp"],
        "limit": 80,
        "max_new_tokens": 128,
        "steps": 3000,
        "seeds": [0, 1, 2],
        "live": 10,
    },
}
PICTURE, REPORT = "hardware.png", "report.txt"
ERRORS = ("error", "speedup_error")


def bench_hardware(
    *,
    out: str,
    size: Literal["smoke", "full"],
    model: Mapping[str, Any],
    algo: Mapping[str, Any],
    traces: str | None,
    tasks: list[str] | None,
    data_dir: str | None,
    limit: int | None,
    max_new_tokens: int | None,
    temperature: float,
    hardware: Sequence[str | None] | None,
    observation: list[str],
    steps: int | None,
    batch_size: int,
    seeds: list[int] | None,
    held_out: float,
    live: int | None,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """The verb ``bench hardware``: every stage that is not done, then tables, a picture and ``experiment.json``.

    Args:
        out: the folder; a killed experiment goes on, one of other settings is refused.
        size: fills in ``tasks``, ``limit``, ``max_new_tokens``, ``steps``, ``seeds`` and ``live`` where they are None.
        model: the pair to collect, measure and decode with.
        algo: what trains the policies, see ``train``.
        traces: folder of a collected trace; None collects one.
        tasks, data_dir, limit, max_new_tokens, temperature: of the collection, see ``collect``.
        hardware: machines; None in it is this one. None: ``MACHINES``.
        observation, steps, batch_size: of the trainings.
        seeds: of the trainings; figures are means over them.
        held_out: share of the prompts that is replayed and decoded live.
        live: texts per task decoded live on this machine, if it is one of ``hardware``.
        resamples: of the intervals, over prompts.
        seed: of the texts and of the bootstrap.

    Returns:
        The measurements: rows of ``stage`` ``replay`` and ``matrix`` as ``hardware_figures`` makes them, and a row for
        each text that was decoded live and each policy, as ``live.decode_all`` makes them.

    Raises:
        ConfigError: a value is unknown or out of range, fewer than two machines, or ``out`` holds other settings.
        InputError, TraceError: see ``collect``, ``train`` and ``evaluate``.
    """
    given = {"tasks": tasks, "limit": limit, "max_new_tokens": max_new_tokens}
    chosen = sized(size, SIZES, {**given, "steps": steps, "seeds": seeds, "live": live})
    wanted = list(MACHINES if hardware is None else hardware)
    _check(chosen, wanted, held_out, resamples, seed)
    texts = {name: chosen.pop(name) for name in given} | {"temperature": temperature}
    settings = {**chosen, "model": dict(model), "algo": dict(algo), "observation": observation}
    settings |= {"hardware": [with_contents(machine) for machine in wanted]}
    settings |= {"batch_size": batch_size, "held_out": held_out, "resamples": resamples, "seed": seed}
    settings |= texts if traces is None else {"data": data_digest(traces)}
    with experiment("hardware", out, settings, {"size": size, "traces": traces}) as work:
        if traces is None:
            traces = _collect(work.folder / "traces", model, texts, data_dir, observation, seed)
        made = trace_settings(traces)
        machines = machines_of(wanted, work.folder / "hardware.json", model, made)
        runs = _train(work.folder / "runs", traces, machines, settings)
        # Rows are kept in the machines' order: with the last one all are there.
        if not work.has(stage="matrix", hardware=machines[-1].label, trained_for=machines[-1].label):
            table = _evaluate(work.folder / "evaluation", traces, machines, runs, settings)
            _add(work, [*replay_rows(table, machines), *matrix_rows(table, machines)])
        here = next((machine for machine in machines if machine.here), None)
        told: list[dict[str, Any]] = []
        if here is not None and chosen["live"]:
            first = {machine.label: runs[machine.label][0] for machine in machines}
            told = live_figures(decode_live(work, model, traces, here, first, held_out, chosen["live"]))
        return _told(work, machines, told)


def _check(chosen: Mapping[str, Any], wanted: Sequence[str | None], held_out: float, resamples: int, seed: int) -> None:
    """Refuse what cannot be measured, before anything is."""
    if len(wanted) < 2:
        raise ConfigError(f"hardware: expected at least two machines to retarget between, got {wanted}")
    if not chosen["seeds"]:
        raise ConfigError("seeds: expected at least one")
    for name, least in (("steps", 1), ("live", 0), ("max_new_tokens", 2)):
        check_whole(name, chosen[name], least)
    check_value("held_out", held_out, BETWEEN)
    check_value("resamples", resamples, at_least(MIN_RESAMPLES))
    check_value("seed", seed, SEED)


def _collect(
    out: Path,
    model: Mapping[str, Any],
    texts: Mapping[str, Any],
    data_dir: str | None,
    observation: Sequence[str],
    seed: int,
) -> str:
    """The traces, with the columns that the policies and the rules look at."""
    looked_at = [*columns_of(tuple(observation)), *(column for rule in RULE_FEATURES.values() for column in rule)]
    return collect(
        out=str(out),
        model=model,
        task={"path": None},
        data_dir=data_dir,
        features=list(dict.fromkeys(looked_at)),
        seed=seed,
        **texts,
    )


def _train(
    folder: Path, traces: str, machines: Sequence[Machine], settings: Mapping[str, Any]
) -> dict[str, list[Path]]:
    """Folders of the runs for each machine, one a seed; those that are trained already are left as they are."""
    runs: dict[str, list[Path]] = {}
    for machine in machines:
        runs[machine.label] = [folder / slug(machine.label) / f"seed-{seed}" for seed in settings["seeds"]]
        for seed, run in zip(settings["seeds"], runs[machine.label], strict=True):
            train(
                out=str(run),
                traces=traces,
                rollouts=None,
                behaviour=None,
                episode="sequence",
                reward=load("reward", "throughput"),
                hardware=machine.given,
                tree_size=None,
                wandb="disabled",
                seed=seed,
                **{key: settings[key] for key in ("algo", "model", "observation", "steps", "batch_size", "held_out")},
            )
    return runs


def _evaluate(
    folder: Path,
    traces: str,
    machines: Sequence[Machine],
    runs: Mapping[str, Sequence[Path]],
    settings: Mapping[str, Any],
) -> pl.DataFrame:
    """Every run, rule and static depth on every machine; the long tables go to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / REPORT).open("w", encoding="utf-8") as report, redirect_stdout(report):
        evaluate(
            out=str(folder),
            traces=traces,
            runs=[str(run) for some in runs.values() for run in some],
            hardware=[machine.given for machine in machines],
            allow_other_pair=False,
            tree_size=None,
            **{key: settings[key] for key in ("model", "held_out", "seed", "resamples")},
        )
    return pl.read_parquet(folder / TABLE_FILE)


def _add(work: Experiment, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep rows that are not kept yet: the experiment may have been killed between two of them."""
    for row in rows:
        if not work.has(**{key: row.get(key) for key in ("stage", "hardware", "who", "trained_for")}):
            work.add(**row)


def _told(work: Experiment, machines: Sequence[Machine], live: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """End the experiment's record, print the tables and what they are of, draw the picture."""
    drafting = [row for row in live if row["policy"] != ALONE]
    known = {name: [abs(row[name]) for row in drafting if row[name] is not None] for name in ERRORS}
    errors = {name: ratio(sum(some), len(some)) for name, some in known.items() if live}
    seconds = {machine.label: {"origin": machine.origin, **asdict(machine.profile)} for machine in machines}
    rows = work.finish(machines=seconds, live=live, mean_errors=errors)
    told = ["Where the seconds come from (nobody has published such a matrix, so no numbers stand beside it):"]
    told += [f"  {machine.label}: {machine.origin}." for machine in machines]
    console = wide_console(WIDTH)
    console.print(replay_table(rows))
    console.print(matrix_table(rows))
    if live:
        console.print(live_table(live))
        same = {name: sum(row[name] for row in drafting) for name in ("texts", "same_text", "same_rounds")}
        told = [
            f"{same['same_text']} of {same['texts']} texts are the target's own, {same['same_rounds']} have the very "
            "rounds of the replay.",
            f"The replay is off by {shown('{:.1%}', errors['error'])} in tokens/s and by "
            f"{shown('{:.1%}', errors['speedup_error'])} in the speedup over the target alone, on average over "
            "policies. The target's own error is how the machine has changed since it was measured. A text's first "
            "round, in which the head reads the prompt too, is no part of a profile.",
            *told,
        ]
    for line in told:
        console.print(line, markup=False)
    draw(rows, live, work.folder / PICTURE)
    print(f"bench hardware: {work.folder}; all tables: {work.folder / 'evaluation' / REPORT}")
    return rows
