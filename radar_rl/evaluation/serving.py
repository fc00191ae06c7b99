"""A server's settings replayed: the fastest on the training prompts, what it brings on held-out ones, and per batch.

A batch of B texts is predicted for settings of fixed depth: B rounds are alike, made in one. Its verification reads B
times the nodes, at the profile's seconds for so many; a draft call reads B times the tokens, and its seconds are taken
to grow as a verification's of so many nodes do. Beyond the largest verification measured nothing is predicted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radar_rl.evaluation.servers import Server, Setting
from radar_rl.offline.walk import Outcomes, Walk, policy_depths, walk_policy
from radar_rl.policies import DraftChain, StaticDepth
from radar_rl.rollouts.trace import Trace, TraceSettings
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes


def replay(outcomes: Outcomes, setting: Setting) -> Walk:
    """Walk every text as a server with a setting would.

    Args:
        outcomes: of a trace read for the setting's tree size, with the columns that its rule looks at.
    """
    if isinstance(setting.rule, DraftChain) and setting.drops_last:
        return _replay_dropping(outcomes, setting.rule, setting.least)
    return walk_policy(outcomes, setting.rule)


def _replay_dropping(outcomes: Outcomes, rule: DraftChain, least: int) -> Walk:
    """Walk chains whose improbable last token is drafted and not verified, nor are drafts of less than ``least``."""
    trace, hardware = outcomes.trace, outcomes.hardware
    calls = policy_depths(outcomes, rule).astype(np.int64)  # [N]
    kept = calls - _improbable(trace, rule, calls)
    kept[kept < least] = 0
    accepted = np.where(kept > 0, np.take_along_axis(trace.accepted, (kept - 1).clip(min=0)[:, None], axis=1)[:, 0], 0)
    drafted = np.cumsum(hardware.draft(outcomes.max_depth))
    seconds = drafted[calls - 1] + hardware.verify(kept + 1) + hardware.rest_seconds  # [N]
    paid = np.cumsum(outcomes.paid(rule.pays_decisions, rule.asks_from))[calls - 1]  # [N]
    seconds = seconds + hardware.decide_seconds * paid
    texts = len(trace.sequences)
    counts = {name: np.zeros(texts, np.int64) for name in Walk.__dataclass_fields__ if name != "seconds"}
    spent = np.zeros(texts)
    # Each row has one way to go on: a trace of one column.
    for rows, _, emitted in replace(trace, accepted=accepted[:, None]).rounds(np.ones(len(trace), np.int64)):
        text = trace.sequence[rows]
        counts["emitted"][text] += emitted
        counts["rounds"][text] += 1
        counts["draft_calls"][text] += calls[rows]
        counts["accepted"][text] += accepted[rows]
        counts["decisions"][text] += paid[rows]
        spent[text] += seconds[rows]
    return Walk(seconds=spent, **counts)


def _improbable(trace: Trace, rule: DraftChain, calls: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the token of the last call was below the rule's threshold: [N] bool."""
    found = np.empty(len(trace), dtype=np.bool_)
    for piece in trace.pieces():
        seen = {name: trace.features[name][piece] for name in rule.features}
        probabilities = rule.probabilities(trace.confidences[piece], seen)
        last = np.take_along_axis(probabilities, calls[piece, None] - 1, axis=1)[:, 0]
        found[piece] = last < np.float32(rule.threshold)
    return found


@dataclass(frozen=True)
class Replayed:
    """A setting, and what it came to.

    Attributes:
        setting: the flags.
        training, held_out: its walks over the two halves; None: that half was not asked.
    """

    setting: Setting
    training: Walk
    held_out: Walk | None = None


@dataclass(frozen=True)
class BatchRow:
    """The best setting for a batch size.

    Attributes:
        batch: texts decoded at once.
        setting: the best; None: to draft nothing.
        tokens_per_second: of all its texts together, predicted on the held-out prompts.
        alone: the same where nothing is drafted.
        most_nodes: nodes up to which settings could be compared; None: all could.
    """

    batch: int
    setting: Setting | None
    tokens_per_second: float
    alone: float
    most_nodes: int | None = None

    @property
    def calls(self) -> int:
        """Draft calls of a round."""
        return self.setting.depth if self.setting else 0

    @property
    def leave_off(self) -> bool:
        """Whether the target alone is at least as fast."""
        return self.setting is None or self.tokens_per_second < self.alone


@dataclass(frozen=True)
class Tuned:
    """A server's settings on a trace.

    Attributes:
        best: the fastest on the training prompts, of equally fast ones the first.
        by_depth: the fastest of each number of draft calls, in that order.
        table: the best of each batch size that could be predicted.
        left_out: batch sizes that could not.
    """

    best: Replayed
    by_depth: tuple[Replayed, ...]
    table: tuple[BatchRow, ...] = ()
    left_out: tuple[int, ...] = ()

    def is_slower_than_none(self, hardware: HardwareProfile) -> bool:
        """Whether the target alone is faster than the best setting, at every batch size of the table too."""
        alone, best = hardware.autoregressive_seconds, self.best.held_out
        one_text = bool(alone and best is not None and best.tokens_per_second * alone < 1)
        return one_text and all(row.leave_off for row in self.table)


# A half of the prompts, as a trace read for a tree size.
Half = Callable[[int], Trace]


def tune(
    server: Server,
    made: TraceSettings,
    columns: Sequence[str],
    hardware: HardwareProfile,
    training: Half,
    held_out: Half,
    batches: Sequence[int] = (),
) -> Tuned:
    """Try every setting on the training prompts, and the chosen ones on the held-out prompts.

    Args:
        server: what there is to set.
        made: what the trace was made with.
        columns: feature columns that both halves are read with.
        hardware: the server's seconds.
        training, held_out: the halves.
        batches: texts decoded at once, for a table; increasing.
    """
    tried = _replayed(server.settings(made, columns), hardware, training)
    by_depth: dict[int, Replayed] = {}
    for one in tried:
        best = by_depth.get(one.setting.depth)
        if best is None or one.training.tokens_per_second > best.training.tokens_per_second:
            by_depth[one.setting.depth] = one
    chosen = [by_depth[depth] for depth in sorted(by_depth)]
    batching = _Batching(made, hardware)
    sizes = [size for size in batches if server.batches]
    measured = [size for size in sizes if batching.seconds(tried[0].setting, size) is not None]
    per_batch = [batching.best(tried, size, server.idles) for size in measured]
    wanted = {id(one.setting): one.setting for one in [*chosen, *filter(None, per_batch)]}
    walked = {id(one.setting): one.training for one in _replayed(wanted.values(), hardware, held_out)}
    rows = tuple(replace(one, held_out=walked[id(one.setting)]) for one in chosen)
    table = tuple(
        batching.row(size, one and replace(one, held_out=walked[id(one.setting)]), tried)
        for size, one in zip(measured, per_batch, strict=True)
    )
    best = max(rows, key=lambda one: one.training.tokens_per_second)
    return Tuned(best, rows, table, tuple(size for size in sizes if size not in measured))


def _replayed(settings: Iterable[Setting], hardware: HardwareProfile, half: Half) -> list[Replayed]:
    """Walks of settings over a half, in their order; one tree size after the other, so that one trace is held."""
    settings = list(settings)
    walks: dict[int, Walk] = {}
    for size in dict.fromkeys(setting.tree_size for setting in settings):
        outcomes = Outcomes.of(half(size), hardware)
        walks |= {id(one): replay(outcomes, one) for one in settings if one.tree_size == size}
    return [Replayed(setting, walks[id(setting)]) for setting in settings]


@dataclass(frozen=True)
class _Batching:
    """Rounds of several texts at once, on a machine, with drafts as a trace was made with."""

    made: TraceSettings
    hardware: HardwareProfile

    def nodes(self, setting: Setting | None) -> int:
        """Nodes verified of each text; a setting of None drafts nothing."""
        return 1 if setting is None else int(tree_nodes(setting.depth, self.made.top_k, setting.tree_size)[-1])

    def seconds(self, setting: Setting | None, batch: int) -> float | None:
        """Seconds of a round; None where more nodes would be read than were measured."""
        nodes, hardware = self.nodes(setting), self.hardware
        if batch > 1 and batch * max(nodes, self.made.top_k if setting else 1) > hardware.verify_nodes[-1]:
            return None
        if setting is None:
            alone = hardware.autoregressive_seconds or float(hardware.verify(1)) + hardware.rest_seconds
            return alone * self.growth(1, batch)
        drafting = float(hardware.draft(setting.depth).sum()) * self.growth(self.made.top_k, batch)
        return drafting + float(hardware.verify(batch * nodes)) + hardware.rest_seconds

    def growth(self, nodes: int, batch: int) -> float:
        """How many times as long a forward of ``nodes`` nodes takes for each of ``batch`` texts at once."""
        verify = self.hardware.verify
        return float(verify(batch * nodes) / verify(nodes)) if batch > 1 else 1.0

    def speed(self, setting: Setting | None, walk: Walk | None, batch: int) -> float:
        """Tokens per second of all texts of a batch; 0 where it cannot be told."""
        seconds = self.seconds(setting, batch)
        emitted = walk.acceptance_length if walk else 1.0
        return batch * emitted / seconds if seconds else 0.0

    def best(self, tried: Sequence[Replayed], batch: int, idles: bool) -> Replayed | None:
        """The fastest setting of fixed depth on the training prompts; None: drafting nothing is."""
        fixed = [one for one in tried if isinstance(one.setting.rule, StaticDepth)]
        best = max(fixed, key=lambda one: self.speed(one.setting, one.training, batch))
        drafting = self.speed(best.setting, best.training, batch)
        return None if idles and self.speed(None, None, batch) > drafting else best

    def row(self, batch: int, best: Replayed | None, tried: Sequence[Replayed]) -> BatchRow:
        """A row of the table."""
        setting, walk = (best.setting, best.held_out) if best else (None, None)
        beyond = any(self.seconds(one.setting, batch) is None for one in tried)
        most = self.hardware.verify_nodes[-1] // batch if beyond else None
        return BatchRow(batch, setting, self.speed(setting, walk, batch), self.speed(None, None, batch), most)
