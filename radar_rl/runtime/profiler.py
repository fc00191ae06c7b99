"""Measuring the hardware profile: the seconds of draft calls, verification, decisions and the rest of a round."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radar_rl import configs
from radar_rl.errors import ConfigError
from radar_rl.policies import LearnedPolicy, ObservationSpec
from radar_rl.policies.observation import DEFAULT_NEWEST, OBSERVATION_FLOOR
from radar_rl.runtime.alone import autoregressive
from radar_rl.runtime.artifact import check_pair
from radar_rl.runtime.decide import decide
from radar_rl.runtime.decoder import judged
from radar_rl.runtime.models import label_from_config, pair_from_config
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes
from radar_rl.speculative.pair import Pair, pair_identities
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.text import DraftOptions

PROMPT_TOKENS = 96
ROUNDS = 4
DECISION_NETWORK = (8,)
"""Hidden units of what ``radar-rl train`` trains by default."""


def measure(
    pair: Pair, *, max_depth: int = 8, top_k: int = 10, tree_size: int = 60, repeats: int = 20, seed: int = 0
) -> HardwareProfile:
    """Measure this machine with a pair: medians over ``repeats`` rounds of each kind, the kinds interleaved.

    Texts are random tokens: what they say changes no second. Verification is measured whole (selection, the target's
    forward, acceptance, cache) at several node counts; a decision between two draft calls, of a network of the default
    size; rest is what a round takes beside its parts.

    Args:
        pair: target and draft head.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        repeats: rounds of each kind.
        seed: of the texts.
    """
    generator = np.random.default_rng(seed)
    length = min(PROMPT_TOKENS, pair.max_positions // 4)
    tree_size = min(tree_size, int(tree_nodes(max_depth, top_k, tree_size)[-1]))  # a chain has no more nodes than calls
    prompt = generator.integers(0, pair.target.vocab_size, length).tolist()
    sizes = sorted({2, top_k + 1, (top_k + 1 + tree_size) // 2, tree_size} - {1})
    room = (ROUNDS + 1) * (max_depth + 1) + 1  # new tokens that the timed rounds may emit
    draft: list[list[float]] = [[] for _ in range(max_depth)]
    verify: dict[int, list[float]] = {size: [] for size in sizes}
    rest: list[float] = []
    alone: list[float] = []
    decisions: list[float] = []
    network = default_network(max_depth, top_k)
    for repeat in range(repeats + 2):  # the first two warm caches and allocators
        counted = repeat >= 2
        for size in sizes:
            asked: DraftOptions = {**judged(pair, network), "max_new_tokens": room, "tree_size": size}
            asked |= {"max_depth": max_depth, "top_k": top_k}
            session = SpeculativeSession(pair, prompt, **asked)
            for number in range(ROUNDS + 1):
                if session.finished:
                    break
                parts, decided, whole = _timed_round(session, max_depth, network)
                if counted and number > 0:  # the first round also lets the head read the prompt
                    for times, seconds in zip(draft, parts[:-1], strict=True):
                        times.append(seconds)
                    verify[size].append(parts[-1])
                    rest.append(whole - sum(parts) - sum(decided))
                    decisions += decided
        if counted:
            alone += _token_seconds(pair, prompt)
    where = f"{pair.target.device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
    return HardwareProfile(
        name=f"{pair.label} on {where}",
        draft_seconds=tuple(float(np.median(times)) for times in draft),
        verify_nodes=tuple(sizes),
        verify_seconds=tuple(float(np.median(verify[size])) for size in sizes),
        decide_seconds=float(np.median(decisions)) if decisions else 0.0,
        rest_seconds=max(0.0, float(np.median(rest))),
        autoregressive_seconds=float(np.median(alone)),
    )


def clock(pair: Pair) -> float:
    """Seconds, once the device has done what it was given."""
    return stopwatch(pair)()


def stopwatch(pair: Pair) -> Callable[[], float]:
    """``clock`` for what takes microseconds: which device it is is not part of it."""
    device = pair.target.device
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def _timed_round(
    session: SpeculativeSession, max_depth: int, network: LearnedPolicy
) -> tuple[list[float], list[float], float]:
    """Seconds of each draft call and of verification, of each decision between two calls, and of the whole round."""
    now = stopwatch(session.pair)
    marks, decided = [now()], []
    state = session.begin()
    marks.append(now())
    for _ in range(max_depth - 1):
        decide([network], [state])  # whatever it says
        decided.append(now())
        state = session.draft()
        marks.append(now())
    parts = [marks[1] - marks[0], *(after - before for before, after in zip(decided, marks[2:], strict=True))]
    thought = [after - before for before, after in zip(marks[1:-1], decided, strict=True)]
    session.verify()
    end = now()
    return [*parts, end - marks[-1]], thought, now() - marks[0]


def _token_seconds(pair: Pair, prompt: list[int]) -> list[float]:
    """Seconds of each of a few tokens decoded by the target alone, the prefill left out."""
    marks = []
    for _ in autoregressive(pair, prompt, max_new_tokens=9):
        marks.append(clock(pair))
    return np.diff(marks).tolist()


def default_network(max_depth: int, top_k: int, name: str = "timed", seed: int = 0) -> LearnedPolicy:
    """A policy of random weights, of the observation and size that are trained by default; see ``random_network``."""
    spec = ObservationSpec(max_depth, top_k, floor=OBSERVATION_FLOOR, newest=DEFAULT_NEWEST)
    return random_network(spec, name, seed)


def random_network(
    spec: ObservationSpec, name: str, seed: int = 0, hidden: Sequence[int] = DECISION_NETWORK
) -> LearnedPolicy:
    """A policy of random weights.

    Args:
        spec: what it observes.
        name: how tables call it.
        seed: of the weights.
        hidden: units of its hidden layers.
    """
    generator = np.random.default_rng(seed)
    sizes = [spec.size, *hidden, 2]
    layers = [
        (generator.normal(size=(out, into)).astype(np.float32), np.zeros(out, np.float32))
        for into, out in pairwise(sizes)
    ]
    return LearnedPolicy(name, spec, layers)


def resolve_hardware(
    value: str | None,
    cache: Path,
    model: Mapping[str, Any],
    *,
    max_depth: int,
    top_k: int,
    tree_size: int,
    made_by: Mapping[str, Any] | None = None,
    allow_other_pair: bool = False,
) -> HardwareProfile:
    """The profile that ``hardware=`` names.

    Args:
        value: a file, the name of a profile that ships, or None: this machine, measured once and kept at ``cache``.
        cache: where the measured profile is kept.
        model: the pair to measure with (a ``model`` group's mapping).
        made_by: ``target`` and ``draft`` of the data that the profile is for; measuring another pair is refused
            unless ``allow_other_pair``.

    Raises:
        ConfigError: neither a file nor a name.
        ArtifactError: this machine would be measured with another pair than the data's.
    """
    if value is None:
        target, draft = pair_identities(model["target"], model["draft"])
        check_pair(made_by or {}, target, draft, allow_other_pair)
        label = target + label_from_config(model)
        if not cache.is_file() or not HardwareProfile.load(cache).name.startswith(f"{label} on "):
            profile(
                out=str(cache), model=model, max_depth=max_depth, top_k=top_k, tree_size=tree_size, repeats=10, seed=0
            )
        return HardwareProfile.load(cache)
    return named_hardware(value)


def named_hardware(value: str) -> HardwareProfile:
    """The profile of a file, or of a name that ships.

    Raises:
        ConfigError: it is neither.
    """
    if value in configs.choices("hardware"):
        return HardwareProfile.from_mapping(configs.load("hardware", value), f"configs/hardware/{value}.yaml")
    if not Path(value).is_file():
        names = ", ".join(configs.choices("hardware"))
        raise ConfigError(f"hardware={value}: no such file, and no profile of that name ships; names: {names}")
    return HardwareProfile.load(Path(value))


def profile(
    *, out: str, model: Mapping[str, Any], max_depth: int, top_k: int, tree_size: int, repeats: int, seed: int
) -> HardwareProfile:
    """The verb ``profile``: measure this machine, print what it costs, write the profile to ``out``.

    Raises:
        ConfigError: ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ConfigError(f"repeats: expected at least 1, got {repeats}")
    pair = pair_from_config(model)
    measured = measure(pair, max_depth=max_depth, top_k=top_k, tree_size=tree_size, repeats=repeats, seed=seed)
    measured.save(Path(out))
    for line in describe(measured):
        print(line)
    print(f"profile: written to {out}")
    return measured


def describe(measured: HardwareProfile) -> list[str]:
    """A profile in words, milliseconds."""
    drafts = " ".join(f"{1e3 * seconds:.2f}" for seconds in measured.draft_seconds)
    verifications = ", ".join(
        f"{1e3 * seconds:.2f} ({nodes} nodes)"
        for nodes, seconds in zip(measured.verify_nodes, measured.verify_seconds, strict=True)
    )
    lines = [
        f"profile: {measured.name}",
        f"  draft calls 1 … {len(measured.draft_seconds)}: {drafts} ms",
        f"  verification: {verifications} ms",
        f"  decision: {1e6 * measured.decide_seconds:.1f} µs; rest of a round: {1e3 * measured.rest_seconds:.3f} ms",
        f"  a draft call costs {measured.marginal_draft_share:.3f} of a round's rest",
    ]
    if measured.autoregressive_seconds is not None:
        lines.insert(4, f"  target alone: {1e3 * measured.autoregressive_seconds:.2f} ms a token")
    return lines
