"""``radar-rl rollout``: let one policy act in an environment, live or replay, and log every transition."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies.protocol import Policy
from radar_rl.progress import track
from radar_rl.rollouts.acting import Row, play
from radar_rl.rollouts.columns import rollouts_table
from radar_rl.rollouts.reading import load_trace, trace_settings
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import LiveTexts, ReplayTexts, Texts
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.storage import Manifest, shard_name, write_parquet
from radar_rl.rollouts.tasks import Prompt, digest, fitting, load_prompts
from radar_rl.runtime.artifact import check_pair, read_config
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import policy_from_string
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.pair import Pair

if TYPE_CHECKING:  # Gymnasium is needed by the verb, not by the package
    from radar_rl.envs.base import DraftTreeBase

EPISODES_PER_SHARD = 64


def rollout(
    *,
    out: str,
    env: Literal["live", "replay"],
    policy: str,
    model: Mapping[str, Any],
    reward: Mapping[str, Any],
    traces: str | None = None,
    tasks: list[str],
    task: Mapping[str, Any],
    split: str = "eval",
    data_dir: str | None = None,
    limit: int | None = None,
    episodes: int | None = None,
    hardware: str | None = None,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 128,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
    subset: Literal["all", "train", "held_out"] = "all",
    held_out: float = 0.3,
    allow_other_pair: bool = False,
) -> Path:
    """Log what one policy does. An episode is one text.

    Args:
        out: folder to write: ``rollouts/`` and ``manifest.json``.
        env: ``live`` decodes with the pair, and logs measured seconds; ``replay`` walks over a trace, and logs those
            of the hardware profile. Rewards use the profile in both, so the rest of the rows is the same.
        policy: a rule (``static:D``, ``threshold:P``, ``random:P``) or a folder with a trained or exported policy.
        model: target, draft, dtype and device.
        reward: kind and parameters; a rate of None is 1 / the profile's ``autoregressive_seconds``.
        traces: folder of the trace to replay.
        tasks, task, split, data_dir, limit: prompts of a live rollout, see ``load_prompts``.
        episodes: texts to act on, from the first on and round again; None takes each once.
        hardware: FILE or NAME of a profile; None measures this machine with the model.
        temperature, sample_top_k, sample_top_p: sampling of a live target, 0 is greedy.
        seed: of the policy and of a live target's sampling.
        max_new_tokens: length at which a live text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        subset: which prompts: ``all``, ``train`` or ``held_out``.
        held_out: share of prompts that is held out.
        allow_other_pair: let a policy run on another pair than it was trained with.

    Returns:
        The folder.

    Raises:
        ConfigError: an argument is out of range or missing.
        InputError: a task, file, prompt or folder is not usable.
        TraceError: the trace does not fit, or the folder holds rollouts made with other settings.
    """
    if env == "replay" and traces is None:
        raise ConfigError("env=replay needs traces=DIR, the folder that radar-rl collect wrote")
    if episodes is not None and episodes < 1:
        raise ConfigError(f"episodes: expected at least 1, got {episodes}")
    decides = policy_from_string(policy, seed=seed)
    shape = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    texts: Texts
    if env == "replay" and traces is not None:
        texts, origin = _replayed(traces, subset, held_out, **shape)
    else:
        prompts = load_prompts(tasks, path=task.get("path"), split=split, data_dir=data_dir, limit=limit)
        sampling = {"temperature": temperature, "sample_top_k": sample_top_k, "sample_top_p": sample_top_p}
        made_with: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed} | shape | sampling
        texts, origin = _decoded(pair_from_config(model), prompts, subset, held_out, made_with)
    made_by = origin.get("trace", origin)
    if Path(policy).is_dir():
        check_pair(read_config(policy), made_by["target"], made_by["draft"], allow_other_pair)
    seen = getattr(decides, "spec", None)
    if seen is not None and (seen.max_depth, seen.top_k) != (max_depth, top_k):
        raise ConfigError(
            f"policy {policy}: observes max_depth {seen.max_depth} and top_k {seen.top_k}, got {max_depth} and {top_k}"
        )
    folder = Path(out)
    profile = resolve_hardware(
        hardware, folder / "hardware.json", model, made_by=made_by, allow_other_pair=allow_other_pair, **shape
    )
    alone = profile.autoregressive_seconds
    earned = Reward.from_mapping(reward, 1 / alone if alone else None)

    from radar_rl.envs.base import DraftTreeBase

    environment = DraftTreeBase(texts, hardware=profile, reward=earned, episode="sequence", spec=None)
    about = {
        "env": env,
        "policy": policy,
        "policy_digest": _weights_digest(policy),
        "seed": seed,
        "episodes": episodes,
        "subset": subset,
        "held_out": held_out,
        "spec": environment.observation_spec.to_json(),
        "hardware": asdict(profile),
        "reward": asdict(earned),
    }
    total = len(texts) if episodes is None else episodes
    manifest = Manifest.open(folder, "rollouts", about | shape | origin, -(-total // EPISODES_PER_SHARD))
    if manifest.complete:
        print(f"{folder}: these rollouts are there already")
        return folder
    manifest.shards.clear()  # a policy may remember earlier episodes, so an interrupted run starts again
    _log(environment, decides, manifest, episodes)
    return folder


def _replayed(
    traces: str, subset: str, held_out: float, *, max_depth: int, top_k: int, tree_size: int
) -> tuple[ReplayTexts, dict[str, Any]]:
    """Texts of a trace, and where they come from."""
    trace = load_trace(traces, tree_size=tree_size, expect={"top_k": top_k})
    trace = trace.select(_chosen(trace.sequences.prompt_id, subset, held_out))
    texts = trace.sequences
    lengths = zip(texts.prompt_length.tolist(), texts.length.tolist(), strict=True)
    origin = {
        "trace": asdict(trace_settings(traces)),
        "texts_digest": digest(zip(texts.sequence_id, lengths, strict=True)),
    }
    return ReplayTexts(trace, max_depth=max_depth), origin


def _decoded(
    pair: Pair, prompts: Sequence[Prompt], subset: str, held_out: float, made_with: Mapping[str, Any]
) -> tuple[LiveTexts, dict[str, Any]]:
    """Texts that a pair is to decode, and where they come from."""
    encoded, skipped = fitting(pair, prompts, made_with["max_new_tokens"])
    kept = _chosen([prompt.prompt_id for prompt, _ in encoded], subset, held_out)
    texts = LiveTexts(pair, [prompt for (prompt, _), keep in zip(encoded, kept, strict=True) if keep], **made_with)
    names = [f"{prompt.task}/{prompt.prompt_id}" for prompt in texts.prompts]
    origin = {
        "target": pair.target_identity,
        "draft": pair.draft_identity,
        "texts_digest": digest(zip(names, texts.prompt_ids, strict=True)),
        "skipped": skipped,
    }
    return texts, origin | dict(made_with)


def _weights_digest(policy: str) -> str | None:
    """Hash of a folder's policy, so that a policy trained anew is not taken for the old one; None for rules."""
    weights = Path(policy) / "policy.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else None


def _chosen(prompt_ids: Sequence[str], subset: str, fraction: float) -> NDArray[np.bool_]:
    """Which prompts belong to a subset: [len(prompt_ids)] bool."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"held_out: expected a share in [0, 1], got {fraction}")
    held = is_held_out(prompt_ids, fraction)
    chosen = {"all": np.ones_like(held), "held_out": held, "train": ~held}
    if subset not in chosen:
        raise ConfigError(f"unknown subset {subset!r}; valid: {', '.join(chosen)}")
    if not chosen[subset].any():
        raise InputError(f"subset={subset}: none of {len(prompt_ids)} prompts is in it; use more prompts or subset=all")
    return chosen[subset]


def _log(environment: "DraftTreeBase", policy: Policy, manifest: Manifest, episodes: int | None) -> None:
    """Play episode after episode, write them in shards, and say what came out."""
    total = len(environment.texts) if episodes is None else episodes
    rows: list[Row] = []
    number = count = emitted = 0
    start = time.monotonic()

    def write() -> None:
        nonlocal rows
        table = rollouts_table(rows, environment.observation_spec.size)
        name = shard_name(len(manifest.shards))
        path = manifest.folder / "rollouts" / f"{name}.parquet"
        write_parquet(path, table, "rollouts", manifest.settings)
        manifest.finish(name, {"rows": len(rows), "episodes": rows[-1]["episode"] - rows[0]["episode"] + 1})
        rows = []

    for number, played in enumerate(track(play(environment, policy, episodes), total, "rolling out")):
        rows.extend(played)
        count, emitted = count + len(played), emitted + sum(row["emitted"] for row in played)
        if (number + 1) % EPISODES_PER_SHARD == 0:
            write()
    if rows:
        write()
    manifest.shards_total = len(manifest.shards)
    manifest.save()
    print(
        f"{manifest.folder}: {count:,} transitions of {number + 1:,} texts, {emitted:,} tokens; "
        f"policy {policy.name}, {time.monotonic() - start:.0f} s"
    )
