"""``radar-rl train``: from a trace (or rollouts) and a hardware profile to a trained stop policy in a run folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from radar_rl.errors import ConfigError, TraceError
from radar_rl.offline.algorithms import ALGORITHMS, fit_policy, settings_of
from radar_rl.offline.behaviour import Behaviour, decide
from radar_rl.offline.coverage import actions_taken, check_actions
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import Fitted, Training
from radar_rl.offline.from_rollouts import RolloutData
from radar_rl.offline.results import result_row
from radar_rl.offline.run import POLICY_FILES, RUN_FILE, finished, identity, write_run
from radar_rl.offline.tracking import WandbMode, tracking
from radar_rl.offline.transitions import Episode
from radar_rl.offline.tuning import tune_first_decision
from radar_rl.offline.validation import check_validation, validate
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import LearnedPolicy, StaticDepth
from radar_rl.policies.observation import DEFAULT_FEATURES, ObservationSpec, check_names
from radar_rl.rollouts import data_digest, load_rollouts, load_trace, rollout_settings, trace_settings
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.split import learned_from
from radar_rl.rollouts.trace import Trace, TraceSettings
from radar_rl.runtime.artifact import save_policy
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes


@dataclass(frozen=True)
class Prepared:
    """Data ready to learn from, and what to record about it."""

    data: TraceData | RolloutData
    behaviour: str
    hardware: HardwareProfile
    trace: dict[str, Any]
    tree_size: int
    rules: dict[str, Any]


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
    newest: int | None = None,
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
            first; None: of all calls, each in its own place.
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
    settings = settings_of(algo)
    if seed < 0:
        raise ConfigError(f"seed: expected 0 or more, got {seed}")
    if (traces is None) == (rollouts is None):
        raise ConfigError("train learns from one of traces=DIR and rollouts=DIR; give exactly one")
    if not 0.0 <= held_out < 1.0:
        raise ConfigError(f"held_out: expected a share in [0, 1), got {held_out}")
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share: expected more than 0 and at most 1, got {share}")
    if asks_from is not None and not ALGORITHMS[settings["name"]].asked_late:
        raise ConfigError(f"asks_from: algo={settings['name']} decides after every draft call; leave it out")
    folder = Path(out)
    priced = Reward.from_mapping(reward, rate=0.0)  # λ itself comes from walks
    if priced.kind != "throughput" and episode == "sequence":
        raise ConfigError(
            f"reward={priced.kind} rates single rounds: summed over a text it pays for making more of them; "
            "add episode=round, or use reward=throughput"
        )
    check_validation(validation, traces)
    source = str(traces or rollouts)
    if traces is not None:
        made = trace_settings(traces)
        profile = _profile(hardware, folder, model, made, tree_size)
        chosen = behaviour or ALGORITHMS[settings["name"]].behaviour
        acted, size, most = str(chosen), tree_size or made.tree_size, made.max_depth
    else:
        if behaviour is not None:
            raise ConfigError("behaviour= is for traces; rollouts hold what their own policy did")
        if tree_size is not None:
            raise ConfigError("tree_size= is for traces; rollouts were made with a tree size of their own")
        if tuple(observation) != DEFAULT_FEATURES or newest is not None:
            raise ConfigError("observation= and newest= are for traces; rollouts hold what their own policy saw")
        logged = rollout_settings(source)
        profile = _profile_of_rollouts(source, logged, hardware, folder, model)
        acted, size = f"logged: {logged['policy']}", logged["tree_size"]
        most = ObservationSpec.from_json(logged["spec"]).max_depth

    if asks_from is not None and not 1 <= asks_from <= most:
        raise ConfigError(f"asks_from: expected one of the draft calls 1 … {most}, got {asks_from}")

    arguments = {
        "traces": traces,
        "rollouts": rollouts,
        "algo": settings,
        "behaviour": acted,
        "episode": episode,
        "reward": dict(reward),
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "tree_size": size,
        "observation": list(observation),
        "newest": newest,
        "asks_from": asks_from,
        "share": share,
        "validation": validation,
    }
    if not overwrite:
        there = finished(folder, identity(arguments, held_out, data_digest(source), asdict(profile)))
        if there is not None:
            print(f"train: {settings['name']} is trained already: {folder}")
            return there
    if traces is not None:
        texts = _training_texts(traces, held_out, share, validation, tree_size, observation)
        prepared = _from_trace(texts, made, profile, chosen, priced, episode, seed, observation, newest)
    else:
        prepared = _from_rollouts(source, logged, profile, priced, episode, held_out, share)
    data = prepared.data
    check_actions(actions_taken(data.decisions, data.spec.max_depth), settings["name"], prepared.behaviour)
    folder.mkdir(parents=True, exist_ok=True)
    with tracking(wandb, folder, arguments) as tracker:
        start = time.perf_counter()
        follow_rate = episode == "round" and priced.kind == "throughput" and reward.get("rate") is None
        training = Training(steps, batch_size, seed, follow_rate, reward.get("rate"), tracker.log)
        fitted = fit_policy(prepared.data, settings, training)
        fitted = _with_first_decision(fitted, prepared.data, asks_from)
        seconds = time.perf_counter() - start
        about = _record(prepared, fitted, arguments, settings["name"], held_out, seconds, source)
        about |= validate(
            fitted.policy,
            StaticDepth(prepared.rules["best_static_depth"]),
            source,
            profile,
            held_out=held_out,
            validation=validation,
            tree_size=size,
        )
        _save(folder, prepared, fitted, about)
        tracker.finish(result_row(folder, folder.as_posix()), [folder / name for name in POLICY_FILES])
    reached = about["training_tokens_per_second"]
    figures = f"{reached:.1f} tokens/s on the training prompts, " if reached else ""
    depth = about["best_static_depth"]
    print(f"train: {settings['name']} → {folder}; {figures}best static depth {depth}, {seconds:.0f} s")
    return about


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


def _profile(
    hardware: str | None, folder: Path, model: Mapping[str, Any], made: TraceSettings, tree_size: int | None
) -> HardwareProfile:
    return resolve_hardware(
        hardware,
        folder / "hardware.json",
        model,
        max_depth=made.max_depth,
        top_k=made.top_k,
        tree_size=tree_size or made.tree_size,
        made_by=asdict(made),
    )


def _profile_of_rollouts(
    rollouts: str, made: Mapping[str, Any], hardware: str | None, folder: Path, model: Mapping[str, Any]
) -> HardwareProfile:
    """What rollouts are priced for: None keeps the profile that they were logged with."""
    if hardware is None:
        return HardwareProfile.from_mapping(made["hardware"], f"{rollouts}: hardware")
    spec = ObservationSpec.from_json(made["spec"])
    return resolve_hardware(
        hardware,
        folder / "hardware.json",
        model,
        max_depth=spec.max_depth,
        top_k=spec.top_k,
        tree_size=made["tree_size"],
    )


def _training_texts(
    traces: str, held_out: float, share: float, validation: float, tree_size: int | None, observation: Sequence[str]
) -> Trace:
    """The texts to learn from, with the features that the observation shows."""
    check_names(observation)
    training = load_trace(
        traces,
        tree_size=tree_size,
        keep=lambda texts: learned_from(texts.prompt_id, held_out, share, validation),
        features=columns_of(observation),
    )
    if not len(training):
        raise TraceError(
            f"{traces}: no prompt is left to train on at held_out={held_out}, share={share}: collect more, or hold out "
            "fewer"
        )
    return training


def _from_trace(
    training: Trace,
    made: TraceSettings,
    hardware: HardwareProfile,
    behaviour: Behaviour,
    reward: Reward,
    episode: Episode,
    seed: int,
    observation: Sequence[str],
    newest: int | None,
) -> Prepared:
    outcomes = Outcomes.of(training, hardware)
    data = TraceData.of(outcomes, decide(behaviour, outcomes, seed), reward, episode, observation, newest)
    rules = {
        "best_static_depth": data.static.static.depth,
        "best_static_tokens_per_second": data.first_rate,
        "positions": len(training),
    }
    return Prepared(data, behaviour, hardware, asdict(made), training.settings.tree_size, rules)


def _from_rollouts(
    rollouts: str,
    made: Mapping[str, Any],
    hardware: HardwareProfile,
    reward: Reward,
    episode: Episode,
    held_out: float,
    share: float,
) -> Prepared:
    steps = load_rollouts(rollouts)
    spec = ObservationSpec.from_json(made["spec"])
    train_rows = learned_from(steps["prompt_id"].to_list(), held_out, share)
    nodes = tree_nodes(spec.max_depth, spec.top_k, made["tree_size"])
    data = RolloutData.of(steps, hardware, nodes, reward, episode, spec, train_rows)
    # A replayed rollout says which trace it walked, a live one what it decoded with.
    origin = made.get("trace", made)
    settings = {key: origin[key] for key in TraceSettings.__dataclass_fields__ if key in origin}
    # A log shows one policy, so no rule can be tuned on it: the fallback is the full depth.
    rules = {"best_static_depth": spec.max_depth, "best_static_tokens_per_second": None, "positions": None}
    return Prepared(data, f"logged: {made['policy']}", hardware, settings, made["tree_size"], rules)


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
