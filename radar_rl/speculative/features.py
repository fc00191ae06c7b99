"""What a stop decision may look at beside the confidences: functions of the root's position t and of draft calls ℓ.

Each is defined once, here, over the trees of a ``TreeGrowth`` whose newest call was kept (``keep_newest``): a trace
collects them for many positions at once, and a session that asks for them live gets the same numbers, rounded to
float16 as the trace stores them (up to ties of two nodes within floating-point error). ``FEATURES`` says of each what
it means and what it costs at run time; ``radar-rl bench features`` measures that. One depends on the walk besides, on
what was decided before: no trace can hold it (``radar_rl.speculative.history``).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import ConfigError, check_whole
from radar_rl.speculative.draft_call import NewestCall
from radar_rl.speculative.heads import DraftHead
from radar_rl.speculative.history import MOST, NO_ROUND, ROUNDS
from radar_rl.speculative.ngram import NgramIndex
from radar_rl.speculative.tree import TreeGrowth

FLOAT16_MAX = 65504.0

BEST_TOKENS = 10
"""Tokens that ``top_mass`` adds up: llama.cpp's ``LLAMA_DRAFT_TOP_K`` (src/llama-ext.h)."""


@dataclass(frozen=True)
class Feature:
    """Something to look at by name: a column of a trace, unless it is ``walked``.

    Attributes:
        name: of the column.
        axes: names of its sizes (``max_depth``, ``top_k``, ``feature_dim``, ``rounds``); one with ``max_depth`` first
            is a function of (t, ℓ), row ℓ − 1 belonging to the decision after call ℓ, the others are of the round.
        meaning: what it holds.
        cost: what a decision pays for it at run time, beyond the confidences; V: the draft vocabulary.
        low, high: what its values lie between.
        nats: whether they are logarithms of probabilities, or differences or means of such.
        dtype: as stored.
        projected: whether it passes a random projection to ``feature_dim``.
        walked: whether it depends on what was decided in earlier rounds, not on t and ℓ alone: no column of a trace.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    cost: str
    low: float = -FLOAT16_MAX
    high: float = FLOAT16_MAX
    nats: bool = False
    dtype: Any = np.float16
    projected: bool = False
    walked: bool = False

    @property
    def per_call(self) -> bool:
        """Whether it has numbers for every draft call, not for the round alone."""
        return self.axes[:1] == ("max_depth",)

    def shape(self, *, max_depth: int, top_k: int, feature_dim: int) -> tuple[int, ...]:
        """Shape of one row's value; () for a number."""
        sizes = {"max_depth": max_depth, "top_k": top_k, "feature_dim": feature_dim, "rounds": ROUNDS}
        return tuple(sizes[axis] for axis in self.axes)


FEATURES = {
    feature.name: feature
    for feature in (
        Feature(
            "entropy",
            ("max_depth",),
            "Entropy of the newest distribution in nats: of the draft head's, after call ℓ, at the best node (highest "
            "cumulative log-probability) that the call expanded; after call 1 at the root. Stop signal of AdaEDL "
            "(arXiv 2410.18351) and SVIP (arXiv 2411.18462).",
            "per draft call: exp, product and sum over one row of V log-probabilities that the call has made",
            low=0.0,
            nats=True,
        ),
        Feature(
            "margin",
            ("max_depth",),
            "Log-probability of the best token of the newest distribution minus that of its second best.",
            "per draft call: one subtraction; the two are among the best children that the call has found "
            "(with top_k = 1 a search over V)",
            low=0.0,
            nats=True,
        ),
        Feature(
            "log_probs",
            ("max_depth", "top_k"),
            "Log-probability of each node of the newest beam given its parent (not cumulative), in the beam's order. "
            "The draft model's own confidence in a token, what SpecDec++ (arXiv 2405.19715) learns acceptance from.",
            "per draft call: top_k reads from the children that the call has scored",
            high=0.0,
            nats=True,
        ),
        Feature(
            "mass",
            ("max_depth", "max_depth"),
            "Expected tree mass per depth: entry (ℓ, d) sums the probability (exp of the cumulative log-probability) "
            "of the nodes at depth d of the head's tree that would be verified after call ℓ (level 1 not widened). "
            "The sum over d is the head's own expectation of accepted tokens (EAGLE-2, arXiv 2406.16858). A function "
            "of ``tree_size`` as collected.",
            "per draft call: a sort of the top_k + (ℓ − 1) top_k² candidates (which the verification does once a "
            "round), and their exp and sums",
            low=0.0,
            high=1.0,
        ),
        Feature(
            "ngram",
            (),
            "N-gram match length: tokens of the longest suffix of the text, root token included, that stands earlier "
            "in it too, cut at 5; 0: none (``NgramIndex``).",
            "per emitted token: 5 dictionary entries, per round: at most 5 look-ups, on the host; none beyond n-gram "
            "drafting's own where that is on",
            low=0.0,
            high=5.0,
            dtype=np.uint8,
        ),
        Feature(
            "hidden",
            ("max_depth", "feature_dim"),
            "The head's hidden state (its layer's output) at the best node that call ℓ expanded, what ``entropy``'s "
            "distribution was computed from, projected to ``feature_dim``.",
            "per draft call: one row times a matrix, head's hidden size × feature_dim",
            projected=True,
        ),
        Feature(
            "target",
            ("feature_dim",),
            "The target's features that the head reads, at the last token that the target has read when the round "
            "starts: the one before the root, whose own token the target reads only when it verifies. EAGLE-3: the "
            "inputs of three layers side by side, EAGLE-2: the last hidden state; projected to ``feature_dim``.",
            "per round: one row times a matrix, feature size × feature_dim",
            projected=True,
        ),
        Feature(
            "top_mass",
            ("max_depth",),
            f"Log of what the {BEST_TOKENS} most probable tokens of the newest distribution (``entropy``'s) have "
            "together. llama.cpp's draft sampler normalises over these alone, so its p-min compares a token's "
            "probability over this mass (common/speculative.cpp).",
            f"per draft call: the {BEST_TOKENS} largest of one row of V log-probabilities that the call has made, and "
            "their sum",
            high=0.0,
            nats=True,
        ),
        Feature(
            "history",
            ("rounds",),
            f"Accepted history: draft tokens accepted in the text's last {ROUNDS} rounds, newest first; {NO_ROUND} "
            "where there was no such round. Depends on what was decided before, so no trace has it: walks, "
            "environments and the decoder fill it in as they go.",
            "per round: a few numbers moved, on the host",
            low=NO_ROUND,
            high=MOST,
            dtype=np.int8,
            walked=True,
        ),
    )
}
COLUMNS = {name: feature for name, feature in FEATURES.items() if not feature.walked}
"""Those that a trace can hold."""


def checked_names(names: Sequence[str], feature_dim: int) -> tuple[str, ...]:
    """The names in the order of ``FEATURES``, whatever the order asked for.

    Args:
        names: of features.
        feature_dim: what ``hidden`` and ``target`` are projected to; of no account without them.

    Raises:
        ConfigError: a name is unknown or given twice, or ``feature_dim`` is no whole number ≥ 1 where it counts.
    """
    for name in names:
        if name not in FEATURES:
            near = get_close_matches(str(name), FEATURES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"features: unknown {name!r}; {hint}valid: {', '.join(FEATURES)}")
    ordered = tuple(name for name in FEATURES if name in names)
    if len(ordered) < len(names):
        raise ConfigError(f"features: each once, please; got {', '.join(names)}")
    if any(FEATURES[name].projected for name in names):
        try:
            check_whole("feature_dim", feature_dim, 1)
        except ValueError as error:
            raise ConfigError(
                f"{error}; hidden and target are projected to so many numbers: set it in collect, or an ObservationSpec"
            ) from error
    return ordered


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """Those of some features that a trace can hold, in the given order."""
    return tuple(name for name in names if name in COLUMNS)


def check_columns(names: Sequence[str]) -> None:
    """Refuse features that no trace can hold.

    Raises:
        ConfigError: one depends on the walk.
    """
    walked = [name for name in names if name in FEATURES and name not in COLUMNS]
    if walked:
        raise ConfigError(
            f"features: {', '.join(walked)} depends on what a policy decided before, so no trace can hold it; leave it "
            f"out here and observe it when training: train observation=[…,{','.join(walked)}]"
        )


@lru_cache
def projection(name: str, size: int, feature_dim: int, seed: int, device: torch.device) -> Tensor:
    """The random projection of a feature: [size, feature_dim] float32, entries N(0, 1 / feature_dim).

    Lengths and angles survive it up to a relative error of about √(2 / feature_dim) (Johnson and Lindenstrauss 1984;
    Dasgupta and Gupta 2003). Only the seed need be kept: entries are drawn on the CPU in float64, row by row, by a
    ``torch.Generator`` seeded with the first 63 bits of BLAKE2b("NAME:SEED"), then rounded, so that they are the same
    on every machine and device, and ``hidden`` and ``target`` have matrices of their own.
    """
    digest = hashlib.blake2b(f"{name}:{seed}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
    drawn = torch.randn(size, feature_dim, generator=generator, dtype=torch.float64, device="cpu")
    return (drawn / math.sqrt(feature_dim)).to(device, torch.float32)


def entropy(newest: NewestCall) -> Tensor:
    """See ``FEATURES``: [R]."""
    best = newest.log_probs[:, 0]
    return -(best.exp() * best.clamp(min=-FLOAT16_MAX)).sum(dim=-1)  # 0 · log 0 = 0


def margin(newest: NewestCall) -> Tensor:
    """See ``FEATURES``: [R], +∞ if no other token has any probability."""
    best = newest.children[:, 0]
    if best.shape[1] < 2:
        best = newest.log_probs[:, 0].topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


def log_probs(newest: NewestCall) -> Tensor:
    """See ``FEATURES``: [R, top_k]."""
    return newest.children.flatten(1).gather(1, newest.chosen)


def mass(newest: NewestCall, max_depth: int, tree_size: int) -> Tensor:
    """See ``FEATURES``: [R, max_depth], 0 below the newest level."""
    k, scores = newest.chosen.shape[1], newest.candidates
    depth = 1 + (scores.shape[1] - k) // k**2
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, : tree_size - 1]  # ties as ``select`` has them
    kept = scores.exp() * torch.zeros_like(scores).scatter_(1, best, 1.0)
    by_depth = scores.new_zeros(len(scores), max_depth)
    by_depth[:, 0] = kept[:, :k].sum(dim=1)
    by_depth[:, 1:depth] = kept[:, k:].view(len(kept), depth - 1, k * k).sum(dim=2)
    return by_depth


def top_mass(newest: NewestCall) -> Tensor:
    """See ``FEATURES``: [R]."""
    best = newest.log_probs[:, 0]
    return best.topk(min(BEST_TOKENS, best.shape[1]), dim=-1).values.logsumexp(dim=-1).clamp(max=0.0)


def match_length(index: NgramIndex) -> int:
    """See ``FEATURES``, ``ngram``: of the text that an index holds, whose last token is the root."""
    return max((length for _, length in index.occurrences()), default=0)


def stored(values: Tensor) -> Tensor:
    """Values as they are stored, float16: what float16 cannot hold is cut at its largest number, ±65504."""
    return values.float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half()


class Features:
    """Computes the features asked for, on the head's device.

    Args:
        head: the draft head.
        names: what is asked for, as ``checked_names`` takes it.
        tree_size: nodes verified, root included.
        feature_dim: what ``hidden`` and ``target`` are projected to.
        feature_seed: names the projections.

    Attributes:
        names: in the order of ``FEATURES``.
        per_call: whether growing trees must keep their newest call.

    Raises:
        ConfigError: see ``checked_names``.
    """

    def __init__(
        self, head: DraftHead, names: Sequence[str], *, tree_size: int, feature_dim: int, feature_seed: int
    ) -> None:
        self.names = checked_names(names, feature_dim)
        self.per_call = any(FEATURES[name].per_call for name in self.names)
        self.tree_size, self.feature_dim = tree_size, feature_dim
        widths = {"hidden": int(head.config.hidden_size), "target": head.feature_size}
        self._projections = {
            name: projection(name, width, feature_dim, feature_seed, head.draft_to_target.device)
            for name, width in widths.items()
            if name in self.names
        }

    def empty(self, rows: int, max_depth: int, top_k: int) -> dict[str, NDArray[Any]]:
        """Room for the features of ``rows`` positions, by name: zeros of the shapes and types of ``FEATURES``."""
        sizes = {"max_depth": max_depth, "top_k": top_k, "feature_dim": self.feature_dim}
        return {name: np.zeros((rows, *FEATURES[name].shape(**sizes)), FEATURES[name].dtype) for name in self.names}

    def of_call(self, growth: TreeGrowth) -> dict[str, Tensor]:
        """Features of the newest draft call, before the next one is made.

        Args:
            growth: trees that keep their newest call.

        Returns:
            By name, float16: [R] numbers or [R, …] rows of the R trees that the call grew.
        """
        if not self.per_call:
            return {}
        newest = growth.newest
        assert newest is not None, "trees that features are read from are grown with keep_newest"
        return self.of_newest(newest, growth.max_depth)

    def of_newest(self, newest: NewestCall, max_depth: int) -> dict[str, Tensor]:
        """As ``of_call``, a function of what the call computed alone: it can be part of a captured pass."""
        computed = {
            "entropy": lambda: entropy(newest),
            "margin": lambda: margin(newest),
            "log_probs": lambda: log_probs(newest),
            "mass": lambda: mass(newest, max_depth, self.tree_size),
            "top_mass": lambda: top_mass(newest),
            "hidden": lambda: newest.output[:, 0].float() @ self._projections["hidden"],
        }
        return {name: stored(computed[name]()) for name in self.names if name in computed}

    def of_root(self, features: Tensor) -> dict[str, Tensor]:
        """Features of the target where rounds start.

        Args:
            features: [R, feature_size], the target's at the token before each root.

        Returns:
            By name, float16 [R, feature_dim].
        """
        if "target" not in self.names:
            return {}
        return {"target": stored(features.float() @ self._projections["target"])}
