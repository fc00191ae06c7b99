"""``radar-rl bench decide``: a decision in the decode loop, ours beside RADAR's network as its authors run it.

Every way is asked in a loop of its own over the same texts, after every draft call but the last, and the round goes on
whatever it says: all are asked alike often, with caches as a draft call left them. Timed is all that a decision adds:
reading the newest call's numbers, the observation, the network, the comparison; what features cost the draft call
itself is ``bench features``' business. The loops take turns, prompt by prompt.

Needs no more than a serving machine has, so it also runs as a library: ``measure(pair, prompts, …)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from radar_rl.benchmarks.telling import in_line, machine, tell
from radar_rl.errors import ConfigError, check_whole
from radar_rl.policies import CONTINUE, STOP, ConfidenceThreshold, ObservationSpec, Policy, RadarPolicy
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.policies.recurrent import weight_shapes
from radar_rl.progress import track
from radar_rl.runtime.decide import decide
from radar_rl.runtime.decoder import features_of, judged
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.profiler import default_network, random_network, stopwatch
from radar_rl.runtime.published import load_published
from radar_rl.speculative import DraftState, Pair, SpeculativeBatch
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.text import DraftOptions

EVERYTHING = ("confidences", "depth", *FEATURES)
NEWEST = 2
LARGE = (64, 64)
PUBLISHED_WIDTH = 128  # of RADAR's LSTM and of its perceptron


class AsPublished(MemorylessPolicy):
    """RADAR's network as its authors run it: PyTorch, asked about all levels drafted so far, stopping by chance.

    As their repository describes it (github.com/minaduki-sora/RADAR): an LSTM over the states of levels 1 … ℓ, a
    perceptron over its last output and the newest state, a softmax, and a uniform random number below the probability
    of stopping.

    Args:
        policy: whose weights; the network is run on the CPU.
    """

    name = "RADAR's network, as published"

    def __init__(self, policy: RadarPolicy) -> None:
        weights = {name: torch.from_numpy(values) for name, values in policy.weights.items()}
        inner, reads = weights["mlp.0.weight"].shape
        self.lstm = nn.LSTM(policy.top_k, reads - policy.top_k, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(reads, inner), nn.ReLU(), nn.Dropout(0.1), nn.Linear(inner, 2))
        for prefix, module in (("lstm.", self.lstm), ("mlp.", self.mlp)):
            own = {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}
            module.load_state_dict(own)
            module.eval()

    def stop_probability(self, state: DraftState) -> torch.Tensor:
        """[]."""
        with torch.no_grad():
            levels = torch.from_numpy(state.confidences[: state.depth]).float()[None]
            read, _ = self.lstm(levels)
            logits = self.mlp(torch.cat((read[:, -1], levels[:, -1]), dim=-1))
            return torch.softmax(logits, dim=-1)[0, 0]

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE, drawn."""
        return STOP if torch.rand(()).item() < self.stop_probability(state).item() else CONTINUE


class OneProduct(MemorylessPolicy):
    """The least that any network takes in a loop: a look at the newest call, one small product, one comparison.

    Its code is a few functions; what it takes in the loop above what it takes in a loop of its own is how cold a draft
    call leaves them.

    Args:
        top_k: beam width.
    """

    name = "no network: a look, one product"

    def __init__(self, top_k: int) -> None:
        self._weight, self._out = np.ones((top_k, 1), np.float32), np.zeros(1, np.float32)

    def act(self, state: DraftState) -> int:
        """CONTINUE as long as there are numbers."""
        state.look(check=False)[0][state.depth - 1].dot(self._weight, self._out)
        return CONTINUE if self._out.item() < 0.0 else STOP


@dataclass(frozen=True)
class DecisionCost:
    """One way of deciding.

    Attributes:
        name: of the way.
        numbers: that it looks at.
        median, most: seconds of a decision: half of them take less than the one, 95 % less than the other.
        decisions: that were timed.
    """

    name: str
    numbers: int
    median: float
    most: float
    decisions: int


def contenders(
    max_depth: int, top_k: int, feature_dim: int, weights: str | None, seed: int
) -> dict[str, tuple[Policy, int]]:
    """The ways by name, and how many numbers each looks at; RADAR's own way comes last.

    Args:
        weights: a file of RADAR's; None: random ones of the published shape.
        seed: of random weights.

    Raises:
        ArtifactError: the file holds no policy of RADAR's.
        ConfigError: it reads another beam width.
    """
    default, every_call = default_network(max_depth, top_k, "learned", seed), ObservationSpec(max_depth, top_k)
    everything = ObservationSpec(max_depth, top_k, EVERYTHING, feature_dim=feature_dim, newest=min(NEWEST, max_depth))
    radar = random_radar(top_k, seed) if weights is None else load_published(weights)
    if radar.top_k != top_k:
        raise ConfigError(f"weights={weights}: this policy reads top_k {radar.top_k}, got top_k={top_k}")
    return {
        "learned, default": (default, default.spec.size),
        "learned, 64 × 64, all calls": (random_network(every_call, "learned", seed, LARGE), every_call.size),
        "learned, 64 × 64, all features": (
            random_network(everything, "learned", seed, LARGE),
            everything.size,
        ),
        OneProduct.name: (OneProduct(top_k), top_k),
        "a rule (threshold)": (ConfidenceThreshold(0.3), 1),
        "RADAR's network, here": (radar, max_depth * top_k),
        AsPublished.name: (AsPublished(radar), max_depth * top_k),
    }


def random_radar(top_k: int, seed: int) -> RadarPolicy:
    """Random weights of the published shape."""
    generator = np.random.default_rng(seed)
    shapes = weight_shapes(top_k, PUBLISHED_WIDTH, PUBLISHED_WIDTH)
    scale = PUBLISHED_WIDTH**-0.5
    return RadarPolicy(
        "random", {name: generator.uniform(-scale, scale, shape).astype(np.float32) for name, shape in shapes.items()}
    )


def measure(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    ways: Mapping[str, tuple[Policy, int]],
    *,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
    max_new_tokens: int = 96,
    repeats: int = 3,
) -> list[DecisionCost]:
    """Decode prompts greedily with every way and time its decisions.

    Args:
        prompts: token ids of each.
        ways: see ``contenders``.
        max_depth, top_k, tree_size, max_new_tokens: see ``DraftOptions``.
        repeats: passes that count; one before them warms up.
    """
    shape: DraftOptions = {
        "max_depth": max_depth,
        "top_k": top_k,
        "tree_size": tree_size,
        "max_new_tokens": max_new_tokens,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(repeats + 1), repeats + 1, "bench decide"):
        for prompt in prompts:
            for name, (policy, _) in ways.items():
                asked: DraftOptions = {**features_of(policy), **judged(pair, policy), **shape}
                batch = SpeculativeBatch(pair, [prompt], **asked)
                taken = _decisions(pair, batch, policy)
                if number > 0:
                    seconds[name] += taken
    return [
        DecisionCost(
            name, numbers, float(np.median(seconds[name])), float(np.quantile(seconds[name], 0.95)), len(seconds[name])
        )
        for name, (_, numbers) in ways.items()
    ]


def _decisions(pair: Pair, batch: SpeculativeBatch, policy: Policy) -> list[float]:
    """Seconds of each decision while a text is decoded."""
    seconds, now = [], stopwatch(pair)
    policy.begin_sequence()
    while batch.active:
        states = batch.begin()
        for _ in range(batch.max_depth - 1):
            start = now()
            decide([policy], states)
            seconds.append(now() - start)
            states = batch.draft()
        done = batch.verify()[0]
        policy.end_round(done.draft_calls, done.accepted)
    return seconds


def bench_decide(
    *,
    out: str | None,
    model: Mapping[str, Any],
    weights: str | None,
    feature_dim: int,
    max_depth: int,
    top_k: int,
    tree_size: int,
    max_new_tokens: int,
    repeats: int,
    seed: int,
    messages: list[str],
) -> list[DecisionCost]:
    """The verb ``bench decide``: measure, print the table, write it to ``out`` if it is given.

    Raises:
        ConfigError: no messages, or RADAR's weights read another beam width.
        ArtifactError: ``weights`` is no file of RADAR's.
        InputError: a number out of range.
    """
    if not messages:
        raise ConfigError("messages: expected at least one")
    check_whole("repeats", repeats, 1)
    check_whole("max_depth", max_depth, 2)  # else nothing is decided
    check_whole("max_new_tokens", max_new_tokens, 2)
    check_whole("feature_dim", feature_dim, 1)
    pair = pair_from_config(model)
    pair.check_shape(max_depth, top_k, tree_size, widen_first_level=False)
    costs = measure(
        pair,
        [pair.encode_prompt(message) for message in messages],
        contenders(max_depth, top_k, feature_dim, weights, seed),
        max_depth=max_depth,
        top_k=top_k,
        tree_size=tree_size,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
    )
    where = machine(pair)
    figures = {"pair": pair.label, **where, "ways": [asdict(cost) for cost in costs]}
    tell("bench decide", [table(costs, pair.label), in_line(where)], figures, out)
    return costs


def table(costs: Sequence[DecisionCost], label: str) -> Table:
    """The measurement as a table; ratios are to the last way, RADAR's own."""
    theirs = costs[-1].median
    shown = Table(
        title=f"{label}: a decision in the decode loop, one text, {costs[0].decisions} decisions each",
        title_justify="left",
    )
    shown.add_column("who decides")
    for name in ("numbers", "µs, median", "µs, 95 % take less", "× RADAR's own"):
        shown.add_column(name, justify="right")
    for cost in costs:
        ratio = f"{cost.median / theirs:.3f}"
        shown.add_row(cost.name, str(cost.numbers), f"{1e6 * cost.median:.1f}", f"{1e6 * cost.most:.1f}", ratio)
    return shown
