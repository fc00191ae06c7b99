"""``radar-rl rollout``: let one policy act on texts, live or replayed, and log every transition."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import Policy
from radar_rl.progress import track
from radar_rl.rollouts.acting import Columns, Slot, act_on, joined
from radar_rl.rollouts.claim import claimed
from radar_rl.rollouts.columns import rollouts_table
from radar_rl.rollouts.live import LiveTexts
from radar_rl.rollouts.manifest import DataSet, Manifest, part_name
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.reading import load_trace, trace_settings
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import ReplayTexts, Texts
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.tasks import Skipped, fitting, load_prompts
from radar_rl.runtime.artifact import check_pair, read_config
from radar_rl.runtime.decoder import features_of
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import place_of, policy_from_string
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.sampling import Sampling

TEXTS_PER_PART = 64


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
    samples: int = 1,
    episodes: int | None = None,
    batch: int = 1,
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
) -> str:
    """Log what one policy does. An episode is one text; a conversation has one for each of its turns.

    Observations are laid out as the policy sees them; of a rule, which has no layout, as ``ObservationSpec`` has it.

    What an episode's rows hold depends neither on the texts before it nor on those beside it, measured seconds apart:
    an interrupted run goes on where it stopped, and one with more prompts, samples or episodes adds what is missing. A
    policy that ``remembers`` earlier texts starts again instead.

    Args:
        out: folder to write, or a URI that pyarrow knows: ``rollouts/`` and a manifest.
        env: ``live`` decodes with the pair, and logs measured seconds; ``replay`` walks over a trace, and logs those
            of the hardware profile. Rewards use the profile in both, so the rest of the rows is the same, but for the
            last float16 digit of an observation where two forwards of other shapes round differently.
        policy: a rule (``static:D``, ``threshold:P``, …; ``radar_rl.runtime.kinds``), a folder with a trained or
            exported policy, or a file of RADAR's weights (``sampled:PATH`` draws its stops, as published).
        model: target, draft, dtype and device.
        reward: kind and parameters; a rate of None is 1 / the profile's ``autoregressive_seconds``.
        traces: folder of the trace to replay.
        tasks, task, split, data_dir, limit: prompts of a live rollout, see ``load_prompts``.
        samples: conversations per prompt of a live rollout.
        episodes: texts to act on, from the first on and round again; None takes each once. One that its first token
            ends, or that does not fit the context, has no transitions.
        batch: texts decoded side by side.
        hardware: FILE or NAME of a profile; None measures this machine with the model.
        temperature, sample_top_k, sample_top_p: sampling of a live target, 0 is greedy.
        seed: of the policy and of a live target's sampling.
        max_new_tokens: length at which a live text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        subset: which prompts: ``all``, ``train`` or ``held_out``.
        held_out: share of prompts that is held out.
        allow_other_pair: let a policy run on another pair than it was trained with.

    Returns:
        ``out``.

    Raises:
        ConfigError: an argument is out of range or missing.
        InputError: a task, file, prompt or folder is not usable.
        TraceError: the trace does not fit, or the folder holds rollouts made with other settings.
    """
    if env == "replay" and traces is None:
        raise ConfigError("env=replay needs traces=DIR, the folder that radar-rl collect wrote")
    for name, value in {"episodes": episodes, "batch": batch, "samples": samples}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    if env == "live" and samples > 1 and temperature == 0:
        raise ConfigError(f"samples={samples} with temperature=0 would make the same text again; set a temperature")
    decides = policy_from_string(policy, seed=seed)
    if batch > 1 and getattr(decides, "remembers", False):
        raise ConfigError(f"policy {policy} learns from text to text, one after the other: batch=1, got {batch}")
    looks = features_of(decides)
    spec = getattr(decides, "spec", None)
    seen = spec if isinstance(spec, ObservationSpec) else None
    shape: dict[str, Any] = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    Sampling(temperature, sample_top_k, sample_top_p)  # which says what is wrong with it, before anything is written
    texts: Texts
    skipped: list[Skipped] = []
    if env == "replay" and traces is not None:
        texts, origin = _replayed(traces, subset, held_out, looks.get("features", ()), **shape)
        if seen is not None:
            texts.trace.settings.check_projections(seen, f"policy {policy}")
    else:
        prompts = load_prompts(tasks, path=task.get("path"), split=split, data_dir=data_dir, limit=limit)
        sampling = {"temperature": temperature, "sample_top_k": sample_top_k, "sample_top_p": sample_top_p}
        made_with: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed} | shape | sampling
        pair = pair_from_config(model)
        texts, skipped = _decoded(pair, prompts, samples, subset, held_out, {**made_with, **looks})
        origin = {"target": pair.target_identity, "draft": pair.draft_identity} | made_with
    made_by = origin.get("trace", origin)
    if place_of(policy).is_dir():
        check_pair(read_config(place_of(policy)), made_by["target"], made_by["draft"], allow_other_pair)
    if seen is not None and (seen.max_depth, seen.top_k) != (max_depth, top_k):
        raise ConfigError(
            f"policy {policy}: observes max_depth {seen.max_depth} and top_k {seen.top_k}, got {max_depth} and {top_k}"
        )
    store = Store.at(out)
    if store.local is None and hardware is None:
        raise ConfigError(f"out={out}: a profile measured here is kept on this machine; give hardware=FILE or NAME")
    with claimed(store, Manifest(store, "rollouts", {}, 0).claim):
        measured = (store.local or Path()) / "hardware.json"
        profile = resolve_hardware(
            hardware, measured, model, made_by=made_by, allow_other_pair=allow_other_pair, **shape
        )
        alone = profile.autoregressive_seconds
        earned = Reward.from_mapping(reward, 1 / alone if alone else None)
        logged = seen or ObservationSpec(max_depth, top_k)
        about = {
            "env": env,
            "policy": policy,
            "policy_digest": _weights_digest(policy),
            "seed": seed,
            "batch": batch,
            "subset": subset,
            "held_out": held_out,
            "spec": logged.to_json(),
            "hardware": asdict(profile),
            "reward": asdict(earned),
        }
        slots = [Slot(i % len(texts), i // len(texts)) for i in range(episodes or len(texts))]
        payments = Payments.of(profile, earned, **shape)
        log = RolloutLog(store, about | shape | origin, decides)
        _act(log, texts, slots, decides, logged, payments, batch, skipped)
    return out


def _act(
    log: "RolloutLog",
    texts: Texts,
    slots: Sequence[Slot],
    policy: Policy,
    spec: ObservationSpec,
    payments: Payments,
    batch: int,
    skipped: Sequence[Skipped],
) -> None:
    """Act on the texts that are missing, part by part, and say what there is then."""
    todo = log.missing(texts, slots)
    size = batch * max(1, TEXTS_PER_PART // batch)  # whole batches, so that a run that goes on makes the same ones
    parts = [todo[first : first + size] for first in range(0, len(todo), size)]
    log.expect(len(parts))
    if not todo:
        print(f"{log.place}: these rollouts are there already")
        return
    start = time.monotonic()
    acted = act_on(texts, todo, policy, spec=spec, payments=payments, batch=batch, episode=log.episodes)
    batches = track(acted, -(-len(todo) // batch), "rolling out")
    for part in parts:
        columns = joined(islice(batches, -(-len(part) // batch)))
        log.add(texts, part, columns, [*skipped, *(texts.skipped if isinstance(texts, LiveTexts) else ())])
    print(f"{log.place}: {log.told()}; policy {policy.name}, {time.monotonic() - start:.0f} s")


def _replayed(
    traces: str,
    subset: str,
    held_out: float,
    features: Sequence[str],
    *,
    max_depth: int,
    top_k: int,
    tree_size: int,
) -> tuple[ReplayTexts, dict[str, Any]]:
    """Texts of a trace, with the features that the policy looks at, and where they come from."""
    trace = load_trace(traces, tree_size=tree_size, expect={"top_k": top_k}, features=columns_of(features))
    trace = trace.select(_chosen(trace.sequences.prompt_id, subset, held_out))
    made_of = DataSet.read(traces, "traces").settings
    origin = {"trace": asdict(trace_settings(traces)), "works_digest": made_of.get("works_digest")}
    return ReplayTexts(trace, max_depth=max_depth, features=features), origin


def _decoded(
    pair: Pair, prompts: Sequence[Prompt], samples: int, subset: str, held_out: float, made_with: Mapping[str, Any]
) -> tuple[LiveTexts, list[Skipped]]:
    """Texts that a pair is to decode, and the prompts that do not fit."""
    encoded, skipped = fitting(pair, prompts, made_with["max_new_tokens"])
    kept = _chosen([prompt.prompt_id for prompt, _ in encoded], subset, held_out)
    chosen = [prompt for (prompt, _), keep in zip(encoded, kept, strict=True) if keep]
    return LiveTexts(pair, chosen, samples=samples, **made_with), skipped


def _weights_digest(policy: str) -> str | None:
    """Hash of a policy's weights, so that one made anew is not taken for the old one; None for a rule by its name."""
    place = place_of(policy)
    weights = place / "policy.safetensors" if place.is_dir() else place
    if not weights.is_file():
        return None
    parameters = read_config(place)["parameters"] if place.is_dir() else None  # a rule's, or asks_from
    digest = hashlib.sha256(weights.read_bytes() + (json.dumps(parameters).encode() if parameters else b""))
    return digest.hexdigest()[:16]


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


class RolloutLog:
    """The rollouts of a folder: which texts were acted on, and what is added. The one place that stores them.

    Each part's entry in the manifest names the texts it covers, so that those not done yet can be told whatever the
    order in which they are asked for.

    Args:
        store: where.
        settings: what determines the rows of a text.
        policy: one that ``remembers`` does not go on: its part of an incomplete folder is made again.

    Raises:
        TraceError: the folder holds rollouts made with other settings.
    """

    def __init__(self, store: Store, settings: Mapping[str, Any], policy: Policy) -> None:
        self.manifest = Manifest.open(store, "rollouts", settings, 0)
        self._remembers = getattr(policy, "remembers", False)
        self._observation_size = ObservationSpec.from_json(settings["spec"]).size

    @property
    def place(self) -> str:
        """The folder, as messages call it."""
        return self.manifest.store.place

    @property
    def episodes(self) -> int:
        """Episodes logged."""
        return self._total("episodes")

    def missing(self, texts: Texts, slots: Sequence[Slot]) -> list[Slot]:
        """Those of the texts that have not been acted on yet, in order.

        Raises:
            TraceError: a text of the same name was another one.
        """
        done = {name: what for entry in self._entries() for name, what in entry["texts"].items()}
        wanted = {slot.name(texts): slot for slot in slots}
        for name, slot in wanted.items():
            if name in done and done[name] != texts.fingerprint(slot.index):
                raise TraceError(
                    f"{self.place}: {name} was another text when it was logged (its prompt was changed, "
                    "or the trace was collected anew); choose another out="
                )
        todo = [slot for name, slot in wanted.items() if name not in done]
        if todo and done and self._remembers:
            print(f"{self.place}: the policy remembers earlier texts, so all are made again")
            self.manifest.parts.clear()
            return list(slots)
        return todo

    def expect(self, parts: int) -> None:
        """Say how many parts are to come: until they are there, the folder is not complete."""
        self.manifest.parts_total = len(self.manifest.parts) + parts
        self.manifest.save()

    def add(self, texts: Texts, slots: Sequence[Slot], columns: Columns, skipped: Sequence[Skipped]) -> None:
        """Write a part.

        Args:
            slots: the texts it covers.
            columns: their rows.
            skipped: texts that could not be made; those that no part lists yet are listed in its entry.
        """
        table = rollouts_table(columns, self._observation_size)
        name = part_name(len(self.manifest.parts))
        listed = [one for entry in self._entries() for one in entry["skipped"]]
        entry = {
            "rows": len(table),
            "episodes": len(np.unique(columns["episode"])) if columns else 0,
            "emitted": int(columns["emitted"].sum()) if columns else 0,
            "texts": {slot.name(texts): texts.fingerprint(slot.index) for slot in slots},
            "skipped": [asdict(one) for one in skipped if asdict(one) not in listed],
        }
        self.manifest.add(name, {"rollouts": table}, self.manifest.settings, entry)

    def told(self) -> str:
        """What there is, in words."""
        skipped = sum(len(entry["skipped"]) for entry in self._entries())
        return f"{self._total('rows'):,} transitions of {self.episodes:,} texts, {self._total('emitted'):,} tokens" + (
            f"; {skipped} texts skipped as too long (listed in the manifest)" if skipped else ""
        )

    def _entries(self) -> Iterable[dict[str, Any]]:
        return self.manifest.parts.values()

    def _total(self, count: str) -> int:
        return sum(entry[count] for entry in self._entries())
