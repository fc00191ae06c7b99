"""``radar-rl train``: from a trace (or rollouts) and a hardware profile to a trained stop policy in a run folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import ALGORITHMS, fit_policy, settings_of
from radar_rl.offline.behaviour import Behaviour
from radar_rl.offline.coverage import actions_taken, check_actions
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import Fitted, Training
from radar_rl.offline.from_rollouts import RolloutData
from radar_rl.offline.prepare import Prepared, Wanted, find
from radar_rl.offline.results import result_row
from radar_rl.offline.run import POLICY_FILES, RUN_FILE, finished, identity, write_run
from radar_rl.offline.tracking import WandbMode, tracking
from radar_rl.offline.transitions import Episode
from radar_rl.offline.tuning import tune_first_decision
from radar_rl.offline.validation import check_validation, validate
from radar_rl.policies import LearnedPolicy, StaticDepth
from radar_rl.policies.observation import DEFAULT_FEATURES, DEFAULT_NEWEST
from radar_rl.rollouts import data_digest
from radar_rl.rollouts.reward import Reward
from radar_rl.runtime.artifact import save_policy


def train(
    *,
    out: str,
    traces: str | None,
    rollouts: str | None,
    algo: Mapping[str, Any],
    behaviour: Behaviour | None,
    episode: Episode,
    reward: Mapping[str, Any],
    hardware: str | None,
    held_out: float,
    steps: int,
    batch_size: int,
    seed: int,
    model: Mapping[str, Any],
    wandb: WandbMode,
    tree_size: int | None,
    observation: Sequence[str] = DEFAULT_FEATURES,
    newest: int | None = DEFAULT_NEWEST,
    asks_from: int | None = None,
    share: float = 1.0,
    validation: float = 0.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a stop policy and write its run folder: policy, ``run.json``, ``curve.parquet``.

    A folder that holds the very same run, finished, is left as it is.

    Args:
        out: the run folder.
        traces: folder of a collected trace …
        rollouts: … or of logged rollouts; one of the two.
        algo: ``name`` (one of ``ALGORITHMS``) and its settings.
        behaviour: who acts in the data made from a trace; None takes what suits the algorithm.
        episode: ``sequence`` or ``round``.
        reward: ``kind`` and its parameters; a throughput reward without a rate finds λ by walks over the trace.
        hardware: FILE or NAME of a profile; None measures ``model`` on this machine and keeps it in ``out``.
        held_out: share of the prompts kept from training, by a stable hash of their ids.
        steps: updates.
        batch_size: transitions per update.
        seed: of weights, draws and the uniform behaviour.
        model: the pair to measure where ``hardware`` is None.
        wandb: disabled, offline or online.
        tree_size: nodes verified, at most the collected ones; None takes those.
        observation: names of the features that the policy sees; those beyond confidences and depth must have been
            collected with the trace, but for history, which is that of the tuned static depth (``offline.history``).
        newest: of what has numbers for every draft call, the policy sees those of so many newest calls, the newest
            first; None: of all calls, each in its own place, or of those that rollouts were logged with.
        asks_from: the draft call after which the policy decides first; None: where it is fastest on the training texts
            of a trace, and 1 with rollouts.
        share: of the prompts that are neither held out nor validated on, how many to learn from, by the same hash.
        validation: share of the prompts not held out that the trained policy is replayed on instead of learning from
            them: what settings may be chosen by.
        overwrite: train again whatever ``out`` holds.

    Returns:
        What ``run.json`` holds.

    Raises:
        ConfigError: a setting is unknown or contradictory, training diverged, or ``out`` holds another run.
        TraceError: the data are damaged, or no prompt is left to train on.
    """
    settings, folder = settings_of(algo), Path(out)
    algorithm = ALGORITHMS[settings["name"]]
    if asks_from is not None and not algorithm.asked_late:
        raise ConfigError(f"asks_from: algo={settings['name']} decides after every draft call; leave it out")
    priced = Reward.from_mapping(reward, rate=0.0)  # λ itself comes from walks
    wanted = Wanted(priced, episode, held_out, share, validation, seed, tuple(observation), newest)
    check_validation(validation, traces)
    source = find(traces, rollouts, wanted, behaviour, algorithm.behaviour, tree_size, hardware, folder, model)
    if asks_from is not None and not 1 <= asks_from <= source.max_depth:
        raise ConfigError(f"asks_from: expected one of the draft calls 1 … {source.max_depth}, got {asks_from}")
    features, calls = source.shows(wanted)
    arguments = {
        "traces": traces,
        "rollouts": rollouts,
        "algo": settings,
        "behaviour": source.behaviour,
        "episode": episode,
        "reward": dict(reward),
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "tree_size": source.tree_size,
        "observation": list(features),
        "newest": None if algorithm.reads_all else calls,
        "asks_from": asks_from,
        "share": share,
        "validation": validation,
    }
    if not overwrite:
        there = finished(folder, identity(arguments, held_out, data_digest(source.place), asdict(source.hardware)))
        if there is not None:
            print(f"train: {settings['name']} is trained already: {folder}")
            return there
    prepared = source.prepare(wanted)
    data = prepared.data
    check_actions(actions_taken(data.decisions, data.spec.max_depth), settings["name"], prepared.behaviour)
    with tracking(wandb, folder, arguments) as tracker:
        start = time.perf_counter()
        follow_rate = episode == "round" and priced.kind == "throughput" and reward.get("rate") is None
        training = Training(steps, batch_size, seed, follow_rate, reward.get("rate"), tracker.log)
        fitted = _with_first_decision(fit_policy(data, settings, training), data, asks_from)
        seconds = time.perf_counter() - start
        about = _record(prepared, fitted, arguments, settings["name"], held_out, seconds, source.place)
        about |= validate(
            fitted.policy,
            StaticDepth(prepared.rules["best_static_depth"]),
            source.place,
            source.hardware,
            held_out=held_out,
            validation=validation,
            tree_size=source.tree_size,
        )
        _save(folder, prepared, fitted, about)
        tracker.finish(result_row(folder, folder.as_posix()), [folder / name for name in POLICY_FILES])
    _tell(about, folder)
    return about


def _tell(about: Mapping[str, Any], folder: Path) -> None:
    reached, depth = about["training_tokens_per_second"], about["best_static_depth"]
    figures = f"{reached:.1f} tokens/s on the training prompts, " if reached else ""
    print(f"train: {about['name']} → {folder}; {figures}best static depth {depth}, {about['training_seconds']:.0f} s")


def _with_first_decision(fitted: Fitted, data: TraceData | RolloutData, asks_from: int | None) -> Fitted:
    """The policy as it is to be asked, if it can be asked late; the curve's last row is then its own."""
    if not isinstance(fitted.policy, LearnedPolicy) or (asks_from is None and not isinstance(data, TraceData)):
        return fitted
    if asks_from is not None:
        policy = fitted.policy.asking_from(asks_from)
    elif isinstance(data, TraceData):
        policy = tune_first_decision(data.outcomes, fitted.policy)
    run = data.replay(policy)
    if run is not None:
        fitted.curve[-1] |= {"tokens_per_second": run.tokens_per_second, "draft_calls": run.draft_calls_per_round}
    return replace(fitted, policy=policy)


def _record(
    prepared: Prepared,
    fitted: Fitted,
    arguments: dict[str, Any],
    name: str,
    held_out: float,
    seconds: float,
    source: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "algorithm": arguments["algo"],
        "arguments": arguments,
        "split": {"held_out": held_out, "rule": "sha256(prompt_id)[:8] / 2^64 < held_out"},
        "trace": prepared.trace,
        "tree_size": prepared.tree_size,
        "data_hash": data_digest(source),
        "transitions": fitted.examples,
        "asks_from": fitted.policy.asks_from,
        "hardware": asdict(prepared.hardware),
        "rate": fitted.rate,
        "training_seconds": seconds,
        "training_tokens_per_second": fitted.curve[-1].get("tokens_per_second"),
        **prepared.rules,
    }


def _save(folder: Path, prepared: Prepared, fitted: Fitted, about: dict[str, Any]) -> None:
    (folder / RUN_FILE).unlink(missing_ok=True)  # until it is written anew, nothing here is finished
    made = prepared.trace
    metadata = {
        "target": made.get("target"),
        "draft": made.get("draft"),
        "hardware": about["hardware"],
        "training": {key: about[key] for key in ("arguments", "split", "data_hash", "rate", "training_seconds")},
        "best_static_depth": about["best_static_depth"],
        "max_depth": prepared.data.spec.max_depth,
        "top_k": prepared.data.spec.top_k,
        "tree_size": prepared.tree_size,
    }
    save_policy(folder, fitted.policy, metadata)
    write_run(folder, about, fitted.curve)
