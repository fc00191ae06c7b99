"""``radar-rl bench round``: where a round's time goes, and tokens per second beside transformers' own ``generate``.

Needs no more than a serving machine has, so it also runs as a library: ``measure(pair, prompts, …)``.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import transformers
from rich.table import Table

from radar_rl.benchmarks.telling import in_line, machine, tell
from radar_rl.errors import ConfigError, InputError, check_whole
from radar_rl.policies import CONTINUE, Policy, StaticDepth
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.progress import track
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.models import label_from_config, pair_from_config
from radar_rl.runtime.profiler import clock, default_network
from radar_rl.speculative import DraftState, Pair, Round, SpeculativeSession
from radar_rl.speculative.pair import stock_target

DRAFT, GROW, DECIDE, VERIFY, REST = "draft", "draft: grow", "decide", "verify", "rest"
MEANING = {
    DRAFT: "the head's forward passes",
    GROW: "draft calls otherwise: scores, best children, next beam, masks",
    DECIDE: "a network of the default size, asked after every call but the last",
    VERIFY: "the target's forward pass over the tree",
    REST: "choosing nodes, accepting, caches, the loop",
}
GENERATE = "transformers generate"

Output = tuple[list[int], list[Round]]
"""New tokens, and the rounds that gave them."""


@dataclass(frozen=True)
class Row:
    """One way of decoding the prompts, prefill included.

    Attributes:
        name: of the way.
        tokens: new tokens, over all prompts.
        seconds: for them: each prompt's median over the repeats, summed.
        rounds, draft_calls: over all prompts; 0 without speculation.
        same_text: prompts whose text is that of ``generate``.
    """

    name: str
    tokens: int
    seconds: float
    rounds: int
    draft_calls: int
    same_text: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens over seconds."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class RoundMeasurement:
    """What ``measure`` found.

    Attributes:
        parts: seconds a round of each part of ``MEANING``, at ``max_depth`` draft calls; the median over repeats.
        rows: transformers' ``generate`` first, then ours alone, then static depths 1 … ``max_depth``.
        prompts: how many were decoded.
    """

    parts: dict[str, float]
    rows: list[Row]
    prompts: int


class _AlwaysOn(MemorylessPolicy):
    """Asks a network of the default size and continues whatever it says: a decision's time at a fixed depth."""

    name = "always on"

    def __init__(self, max_depth: int, top_k: int) -> None:
        self.network = default_network(max_depth, top_k)

    def act(self, state: DraftState) -> int:
        """CONTINUE."""
        self.network.act(state)
        return CONTINUE


def measure(
    pair: Pair,
    stock: transformers.PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
    max_new_tokens: int = 96,
    repeats: int = 5,
) -> RoundMeasurement:
    """Decode prompts greedily in every way, side by side: all ways of a prompt follow each other, in random order.

    Args:
        pair: target and draft head.
        stock: the target as transformers loads it, for its own ``generate``.
        prompts: token ids of each.
        repeats: passes that count; one before them warms up.
    """

    def decoder(policy: Policy) -> SpeculativeDecoder:
        return SpeculativeDecoder(pair, policy, max_depth=max_depth, top_k=top_k, tree_size=tree_size, strict=True)

    statics = [decoder(StaticDepth(depth)) for depth in range(1, max_depth + 1)]
    ways = _ways(pair, stock, statics, max_new_tokens)
    deciding = decoder(_AlwaysOn(max_depth, top_k))
    order = random.Random(0)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in prompts] for name in ways}
    outputs: dict[str, list[Output]] = {name: [] for name in ways}
    parts: list[dict[str, float]] = []
    for repeat in track(range(repeats + 1), repeats + 1, "bench round"):
        for number, ids in enumerate(prompts):
            for name in order.sample(list(ways), len(ways)):
                start = clock(pair)
                output = ways[name](ids)
                took = clock(pair) - start
                if repeat == 0:
                    outputs[name].append(output)
                else:
                    seconds[name][number].append(took)
        spent = _round_parts(deciding, prompts, max_new_tokens)
        if repeat > 0:
            parts.append(spent)
    texts = [tokens for tokens, _ in outputs[GENERATE]]
    rows = [
        Row(
            name,
            tokens=sum(len(tokens) for tokens, _ in done),
            seconds=sum(statistics.median(times) for times in seconds[name]),
            rounds=sum(len(rounds) for _, rounds in done),
            draft_calls=sum(ended.draft_calls for _, rounds in done for ended in rounds),
            same_text=sum(tokens == text for (tokens, _), text in zip(done, texts, strict=True)),
        )
        for name, done in outputs.items()
    ]
    median = {part: statistics.median(spent[part] for spent in parts) for part in MEANING}
    return RoundMeasurement(median, rows, len(prompts))


def _ways(
    pair: Pair, stock: transformers.PreTrainedModel, statics: Sequence[SpeculativeDecoder], max_new_tokens: int
) -> dict[str, Callable[[Sequence[int]], Output]]:
    """Each way of decoding a prompt greedily, by name: transformers', ours alone, and each decoder."""
    generate: Any = stock.generate

    def theirs(ids: Sequence[int]) -> Output:
        given = torch.tensor([list(ids)], device=pair.target.device)
        seen = torch.ones_like(given)
        out = generate(given, attention_mask=seen, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0)
        return out[0, len(ids) :].tolist(), []

    def alone(ids: Sequence[int]) -> Output:
        return list(autoregressive(pair, ids, max_new_tokens=max_new_tokens)), []

    def speculative(decoder: SpeculativeDecoder, ids: Sequence[int]) -> Output:
        done = decoder.generate(ids, max_new_tokens=max_new_tokens)
        return done.token_ids, done.rounds

    named = {decoder.policy.name: partial(speculative, decoder) for decoder in statics}
    return {GENERATE: theirs, "autoregressive": alone, **named}


def _round_parts(
    decoder: SpeculativeDecoder, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> dict[str, float]:
    """Mean seconds a round of each part, the prompts' prefill left out."""
    rounds = 0
    spent = dict.fromkeys(MEANING, 0.0)
    for ids in prompts:
        session = decoder.start(ids, max_new_tokens=max_new_tokens)
        with _stopwatch(decoder, session, spent):
            rounds += sum(1 for _ in decoder.rounds(session))
    if rounds == 0:
        raise InputError("every text ended with its first token; give other messages")
    return {part: total / rounds for part, total in spent.items()}


@contextmanager
def _stopwatch(decoder: SpeculativeDecoder, session: SpeculativeSession, spent: dict[str, float]) -> Iterator[None]:
    """Add the seconds of every moment to one part's: the forward passes lie inside the draft calls that they belong to.

    The parts' methods are replaced on their objects for the while.
    """
    pair = decoder.pair
    part, since = REST, clock(pair)

    def switch(to: str) -> None:
        nonlocal part, since
        now = clock(pair)
        spent[part] += now - since
        part, since = to, now

    def timed(inner: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outer = part
            if outer not in (REST, GROW):  # EAGLE-2's head scores with the target's own output layer
                return function(*args, **kwargs)
            switch(inner)
            try:
                return function(*args, **kwargs)
            finally:
                switch(outer)

        return call

    watched: list[tuple[Any, str, str]] = [(pair.head, name, DRAFT) for name in ("condition", "layer", "logits")]
    watched += [(session.batch, name, GROW) for name in ("begin", "draft")]
    watched += [(pair.target, name, VERIFY) for name in ("over_tree", "logits")]
    watched.append((decoder.policy, "act", DECIDE))
    if pair.arena.capture:
        watched.append((session.batch.draft_cache, "replays", DRAFT))
    before = [dict(vars(holder)) for holder, _, _ in watched]
    for holder, name, inner in watched:
        object.__setattr__(holder, name, timed(inner, getattr(holder, name)))
    try:
        yield
    finally:
        switch(REST)
        for (holder, name, _), own in zip(watched, before, strict=True):
            if name in own:
                object.__setattr__(holder, name, own[name])
            elif name in vars(holder):
                object.__delattr__(holder, name)


def bench_round(
    *,
    out: str | None,
    model: Mapping[str, Any],
    messages: list[str],
    max_depth: int,
    top_k: int,
    tree_size: int,
    max_new_tokens: int,
    repeats: int,
) -> RoundMeasurement:
    """The verb ``bench round``: measure, print both tables, write them to ``out`` if it is given.

    Raises:
        ConfigError: no messages, or a number out of range.
    """
    if not messages:
        raise ConfigError("messages: expected at least one")
    check_whole("repeats", repeats, 1)
    check_whole("max_new_tokens", max_new_tokens, 2)  # the first one comes from the prefill
    pair = pair_from_config(model)
    pair.check_shape(max_depth, top_k, tree_size, widen_first_level=False)
    prompts = [pair.encode_prompt(message) for message in messages]
    for ids in prompts:
        pair.check_prompt(ids, max_new_tokens)
    changed = label_from_config(model)
    stock = pair.target.model if changed else stock_target(pair, model["target"])
    measured = measure(
        pair,
        stock,
        prompts,
        max_depth=max_depth,
        top_k=top_k,
        tree_size=tree_size,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
    )
    where = machine(pair)
    shown: list[Table | str] = [*tables(measured, pair.label), in_line(where)]
    if changed:
        shown.append(f"generate ran on the model{changed} too: transformers' code with our fused norms and attention")
    tell("bench round", shown, {"pair": pair.label, **where, **asdict(measured)}, out)
    return measured


def tables(measured: RoundMeasurement, label: str) -> list[Table]:
    """The measurement as two tables: a round's parts, and the ways of decoding."""
    total = sum(measured.parts.values())
    parts = Table(title=f"{label}: a round of {len(measured.rows) - 2} draft calls", title_justify="left")
    parts.add_column("part")
    parts.add_column("ms", justify="right")
    parts.add_column("share", justify="right")
    parts.add_column("what it is")
    for part, seconds in measured.parts.items():
        parts.add_row(part, f"{1e3 * seconds:.2f}", f"{seconds / total:.1%}", MEANING[part])
    parts.add_section()
    parts.add_row("round", f"{1e3 * total:.2f}", "", "")

    first = measured.rows[0]
    same = sum(row.same_text for row in measured.rows) - first.same_text
    ways = Table(
        title=f"{measured.prompts} prompts, {first.tokens} tokens, greedy, prefill included; "
        f"{same} of {measured.prompts * (len(measured.rows) - 1)} texts are those of generate",
        title_justify="left",
    )
    for name in ("decoding", "tokens/s", "× generate", "τ", "draft calls", "ms a round"):
        ways.add_column(name, justify="left" if name == "decoding" else "right")
    for row in measured.rows:
        speculative = (
            f"{(row.tokens - measured.prompts) / row.rounds:.2f}" if row.rounds else "–",
            f"{row.draft_calls / row.rounds:.2f}" if row.rounds else "–",
            f"{1e3 * row.seconds / row.rounds:.2f}" if row.rounds else "–",
        )
        relative = row.tokens_per_second / first.tokens_per_second
        ways.add_row(row.name, f"{row.tokens_per_second:.1f}", f"{relative:.2f}×", *speculative)
    return [parts, ways]
