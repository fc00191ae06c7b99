"""``radar-rl evaluate``: replay rules, trained runs and the oracle on held-out prompts, and say who is faster."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from radar_rl.errors import TraceError
from radar_rl.evaluation.compare import Contender, comparison, contenders
from radar_rl.evaluation.curves import differing_positions, learning_curves
from radar_rl.evaluation.decision import decision_microseconds
from radar_rl.evaluation.halves import Halves, rule_columns
from radar_rl.evaluation.picture import draw_comparison
from radar_rl.evaluation.profiles import Hardware, profiles, slug
from radar_rl.evaluation.retarget import draw_retargeting, print_retargeting, retargetings
from radar_rl.evaluation.statistics import MIN_PROMPTS, MIN_RESAMPLES
from radar_rl.evaluation.tables import print_comparison
from radar_rl.evaluation.trained import Trained, agreed_tree_size, check_fits, run_names, seen_features
from radar_rl.folders import made_folder
from radar_rl.offline.ranges import SEED, SHARE, at_least, check_value
from radar_rl.offline.results import runs_in
from radar_rl.offline.run import Run, load_run
from radar_rl.offline.tuning import TunedRules, tune_rules
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts import data_digest, trace_settings
from radar_rl.rollouts.trace import Sequences, TraceSettings
from radar_rl.runtime.artifact import save_policy
from radar_rl.speculative.hardware import HardwareProfile

TABLE_FILE = "evaluation.parquet"
RETARGETING_FILE = "retargeting.png"
CURVES_FILE = "learning_curves.png"
RULES_FOLDER = "rules"

log = logging.getLogger(__name__)


def evaluate(
    *,
    out: str,
    traces: str,
    runs: Sequence[str],
    hardware: Hardware,
    model: Mapping[str, Any],
    allow_other_pair: bool,
    held_out: float,
    seed: int,
    tree_size: int | None,
    resamples: int,
    tune_traces: str | None = None,
) -> list[dict[str, Any]]:
    """Compare policies on held-out prompts: print tables, write ``evaluation.parquet``, pictures and the tuned rules.

    Args:
        out: the folder to write.
        traces: folder of a collected trace.
        runs: folders of trained runs, or of several; none: rules and oracle only.
        hardware: FILE or NAME of a profile, or a list of them; None measures ``model`` on this machine and keeps it in
            ``out``.
        model: the pair to measure where ``hardware`` is None.
        allow_other_pair: accept a trace of another pair than the runs were trained on.
        held_out: share of held-out prompts if there are no runs; runs have recorded theirs.
        seed: of the bootstrap.
        tree_size: nodes verified, at most the collected ones; None takes the runs', or without runs the collected ones.
        resamples: bootstrap samples, at least ``MIN_RESAMPLES``.
        tune_traces: folder of another trace, on whose training prompts rules are tuned; policies are then compared on
            all prompts of ``traces``. None: on the training and the held-out prompts of ``traces``.

    Returns:
        The rows of the table, policy × task × profile; columns as ``compare.SCHEMA``.

    Raises:
        TraceError: a trace does not fit the runs or the other trace, leaves no prompt to tune rules on or to evaluate
            on, or holds prompts that were trained on.
        ConfigError: two runs or two profiles have the same name, or a value is out of range.
    """
    check_value("resamples", resamples, at_least(MIN_RESAMPLES))
    check_value("seed", seed, SEED)
    check_value("held_out", held_out, SHARE)
    folder = Path(out)
    loaded = [load_run(run) for run in runs_in(runs)]
    names = run_names(loaded)
    made, tuned_with = trace_settings(traces), trace_settings(tune_traces or traces)
    for run in loaded:
        check_fits(run, made, allow_other_pair)
    size = agreed_tree_size(loaded, made, tree_size)
    # The same hash orders prompts for every fraction, so what the smallest one holds out, all of them do.
    fraction = min((run.held_out for run in loaded), default=held_out)
    halves = Halves(traces, tune_traces, fraction, size, rule_columns(made, tuned_with))
    if tune_traces:
        _check_tuning(halves, tuned_with, made, allow_other_pair)
        _check_unseen(traces, loaded)
    machines = profiles(hardware, folder / "hardware.json", model, made, size, allow_other_pair)
    # One half after the other: the rules are all that is left of the training texts when the held-out ones are loaded.
    tuned, training_texts = _tune(halves, machines)
    outcomes = [Outcomes.of(halves.compared(training_texts, seen_features(loaded)), machines[0])]
    outcomes += [Outcomes.of(outcomes[0].trace, machine) for machine in machines[1:]]
    trained = [Trained.of(name, run, outcomes[0]) for name, run in zip(names, loaded, strict=True)]
    tables = [
        comparison(each, _entries(each, rules, trained), rules.static.name, resamples=resamples, seed=seed)
        for each, rules in zip(outcomes, tuned, strict=True)
    ]
    rows = pl.concat(tables)
    prompts = rows["prompts"][0]
    if prompts < MIN_PROMPTS:
        log.warning("only %d held-out prompts: fewer than %d give no interval; collect more", prompts, MIN_PROMPTS)
    made_folder(folder)
    rows.write_parquet(folder / TABLE_FILE)
    _save_rules(folder / RULES_FOLDER, machines, tuned, tuned_with, size)
    _show(rows, tables, f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}", folder)
    return rows.to_dicts()


def _check_tuning(halves: Halves, tuned_with: TraceSettings, made: TraceSettings, allow_other_pair: bool) -> None:
    """Refuse to tune rules on a trace of another shape, or, unless asked to, of another pair.

    Raises:
        TraceError: saying what differs.
    """
    for key in ("max_depth", "top_k", *(() if allow_other_pair else ("target", "draft"))):
        one, other = getattr(tuned_with, key), getattr(made, key)
        if one != other:
            hint = "; allow_other_pair=true lets it pass" if key in ("target", "draft") else ""
            raise TraceError(f"tune_traces: {halves.tune_traces} has {key} {one}, {halves.traces} has {other}{hint}")
    if tuned_with.tree_size < halves.tree_size:
        raise TraceError(
            f"tune_traces: {halves.tune_traces} was collected with trees of {tuned_with.tree_size} nodes, "
            f"{halves.tree_size} are verified; give a smaller tree_size="
        )


def _check_unseen(traces: str, runs: Sequence[Run]) -> None:
    """Refuse to compare on all prompts of a trace that a run was trained on.

    Raises:
        TraceError: naming the run.
    """
    digest = data_digest(traces)
    for run in runs:
        if run.about.get("data_hash") == digest:
            raise TraceError(
                f"{run.folder}: trained on {traces}, all of whose prompts tune_traces= would compare policies on; "
                "leave out tune_traces="
            )


def _tune(halves: Halves, machines: Sequence[HardwareProfile]) -> tuple[list[TunedRules], Sequences]:
    """The rules tuned for each machine, and the texts that they were tuned on."""
    training = halves.tuning()
    return [tune_rules(Outcomes.of(training, machine)) for machine in machines], training.sequences


def _entries(outcomes: Outcomes, rules: TunedRules, trained: Sequence[Trained]) -> list[Contender]:
    """Every policy's walk on one machine, the oracle's last."""
    timed = {rule.name: decision_microseconds(outcomes.trace, rule) for rule in rules.rules}
    *before, oracle = [
        replace(entry, decision_microseconds=timed.get(entry.name)) for entry in contenders(outcomes, rules, ())
    ]
    return [*before, *(each.on(outcomes) for each in trained), oracle]


def _save_rules(
    folder: Path, machines: Sequence[HardwareProfile], tuned: Sequence[TunedRules], made: TraceSettings, tree_size: int
) -> None:
    """Write every tuned rule as a policy that ``decode`` and ``rollout`` take."""
    for machine, rules in zip(machines, tuned, strict=True):
        place = folder / slug(machine.name) if len(machines) > 1 else folder
        metadata = {
            "target": made.target,
            "draft": made.draft,
            "hardware": asdict(machine),
            "best_static_depth": rules.static.depth,
            "max_depth": made.max_depth,
            "top_k": made.top_k,
            "tree_size": tree_size,
        }
        for rule in (rules.static, *rules.rules):
            save_policy(place / rule.name, rule, metadata)


def _show(rows: pl.DataFrame, tables: Sequence[pl.DataFrame], pair: str, folder: Path) -> None:
    """Print the tables and draw the pictures: one of each for a machine, and those that are of several runs."""
    for table in tables:
        machine, baseline = table["hardware"][0], table["baseline"][0]
        draw_comparison(
            table, baseline, pair, folder / f"comparison{f'-{slug(machine)}' if len(tables) > 1 else ''}.png"
        )
        print_comparison(table, baseline, pair)
    matrices = retargetings(rows)
    if matrices:
        print_retargeting(matrices)
        draw_retargeting(matrices, folder / RETARGETING_FILE)
    if differing_positions(rows):
        learning_curves(rows, folder / CURVES_FILE)
