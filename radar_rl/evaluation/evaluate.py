"""``radar-rl evaluate``: replay rules, trained runs and the oracle on held-out prompts, and say who is faster."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.compare import comparison, contenders
from radar_rl.evaluation.picture import draw_comparison
from radar_rl.evaluation.report import print_comparison
from radar_rl.evaluation.statistics import MIN_PROMPTS
from radar_rl.offline.run import Run, load_run
from radar_rl.offline.tuning import RULE_FEATURES, tune_rules
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import LearnedPolicy
from radar_rl.rollouts import load_trace, trace_settings
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.trace import Trace, TraceSettings
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.features import FEATURES

TABLE_FILE = "evaluation.parquet"
PICTURE_FILE = "comparison.png"

log = logging.getLogger(__name__)


def evaluate(
    *,
    out: str,
    traces: str,
    runs: Sequence[str],
    hardware: str | None,
    model: Mapping[str, Any],
    allow_other_pair: bool,
    held_out: float,
    seed: int,
    tree_size: int | None,
    resamples: int,
) -> list[dict[str, Any]]:
    """Compare policies on held-out prompts, print the table, write ``evaluation.parquet`` and ``comparison.png``.

    Args:
        out: the folder to write.
        traces: folder of a collected trace.
        runs: folders of trained runs; none: rules and oracle only.
        hardware: FILE or NAME of a profile; None measures ``model`` on this machine and keeps it in ``out``.
        model: the pair to measure where ``hardware`` is None.
        allow_other_pair: accept a trace of another pair than the runs were trained on.
        held_out: share of held-out prompts if there are no runs; runs have recorded theirs.
        seed: of the bootstrap.
        tree_size: nodes verified, at most the collected ones; None takes the runs' if they agree, else those.
        resamples: bootstrap samples.

    Returns:
        The rows of the table.

    Raises:
        TraceError: the trace does not fit the runs, or leaves no prompt to tune rules on or to evaluate on.
        ConfigError: two runs have the same name, or a value is out of range.
    """
    if resamples < 1:
        raise ConfigError(f"resamples: expected at least 1, got {resamples}")
    if seed < 0 or not 0.0 <= held_out <= 1.0:
        raise ConfigError(f"expected seed ≥ 0 and held_out in [0, 1], got {seed} and {held_out}")
    folder = Path(out)
    loaded = [load_run(run) for run in runs]
    made = trace_settings(traces)
    for run in loaded:
        _check_fits(run, made, allow_other_pair)
    size = tree_size or _agreed_tree_size(loaded, made)
    profile = resolve_hardware(
        hardware,
        folder / "hardware.json",
        model,
        max_depth=made.max_depth,
        top_k=made.top_k,
        tree_size=size,
        made_by=asdict(made),
        allow_other_pair=allow_other_pair,
    )
    looked_at = [name for name in made.features if any(name in columns for columns in RULE_FEATURES.values())]
    features = [*dict.fromkeys([*_features(loaded, made), *looked_at])]
    # The same hash orders prompts for every fraction, so what the smallest one holds out, all of them do.
    fraction = min((run.held_out for run in loaded), default=held_out)
    # One half after the other: the rules are all that is left of the training texts when the held-out ones are loaded.
    rules = tune_rules(Outcomes.of(_half(traces, fraction, size, held=False, features=looked_at), profile))
    outcomes = Outcomes.of(_half(traces, fraction, size, held=True, features=features), profile)
    learned = [
        (name, run.policy, run.about["training_seconds"]) for name, run in zip(_names(loaded), loaded, strict=True)
    ]
    rows = comparison(outcomes, contenders(outcomes, rules, learned), rules.static.name, resamples=resamples, seed=seed)
    prompts = rows["prompts"][0]
    if prompts < MIN_PROMPTS:
        log.warning("only %d held-out prompts: fewer than %d give no interval; collect more", prompts, MIN_PROMPTS)
    pair = f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / TABLE_FILE)
    draw_comparison(rows, rules.static.name, pair, folder / PICTURE_FILE)
    print_comparison(rows, rules.static.name, pair)
    return rows.to_dicts()


def _check_fits(run: Run, settings: TraceSettings, allow_other_pair: bool) -> None:
    """Refuse a trace that a run's policy cannot read, or that another pair made."""
    trained, given = run.about["trace"], asdict(settings)
    for key in ("max_depth", "top_k"):
        if trained[key] != given[key]:
            raise TraceError(
                f"{run.folder}: trained with {key}={trained[key]}, the trace was collected with {given[key]}; "
                "evaluate on a trace of the same shape"
            )
    for key in ("target", "draft"):
        if trained[key] != given[key] and not allow_other_pair:
            raise TraceError(
                f"{run.folder}: trained on {key} {trained[key]}, the trace is of {given[key]}; "
                "use that pair's trace, or allow_other_pair=true to try the policy on another pair"
            )


def _agreed_tree_size(runs: Sequence[Run], settings: TraceSettings) -> int:
    sizes = {int(run.about["tree_size"]) for run in runs}
    return sizes.pop() if len(sizes) == 1 else settings.tree_size


def _features(runs: Sequence[Run], settings: TraceSettings) -> list[str]:
    """The features that the runs' policies look at, which the trace must have been collected with alike.

    Raises:
        TraceError: it was collected with other projections.
    """
    specs = [(run, run.policy.spec) for run in runs if isinstance(run.policy, LearnedPolicy)]
    for run, spec in specs:
        settings.check_projections(spec, str(run.folder))
    return [name for name in FEATURES if any(name in spec.columns for _, spec in specs)]


def _half(traces: str, fraction: float, tree_size: int, *, held: bool, features: Sequence[str] = ()) -> Trace:
    """The held-out texts, or the others, which rules are tuned on."""
    trace = load_trace(
        traces,
        tree_size=tree_size,
        keep=lambda texts: is_held_out(texts.prompt_id, fraction) == held,
        features=features,
    )
    if not len(trace):
        what = "evaluate on" if held else "tune rules on"
        raise TraceError(f"{traces}: at held_out={fraction} none of its texts is left to {what}; collect more prompts")
    return trace


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' own names, or their folders' where two share one."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs: folder names must differ, got {names}")
    return names
