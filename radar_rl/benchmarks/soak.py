"""``radar-rl bench soak``: decode for long while policies are swapped; every text the target's own, memory flat."""

import platform
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from rich.table import Table

from radar_rl.benchmarks.decide import LARGE
from radar_rl.benchmarks.relay import Relay
from radar_rl.benchmarks.telling import machine, tell
from radar_rl.command import typed
from radar_rl.errors import ConfigError, LimitError, check_whole
from radar_rl.offline.provenance import commit
from radar_rl.policies import ObservationSpec, Policy, StaticDepth
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.progress import SECONDS_BETWEEN_LINES, track
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.decoder import SHAPE
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import policy_from_string
from radar_rl.runtime.profiler import default_network, random_network
from radar_rl.speculative import Pair
from radar_rl.speculative.fast import padded_rows
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.text import DRAFT_SOURCES, Options

MAX_DEPTH, TOP_K = 8, 10  # what named bandits and networks are made for
FEATURE_DIM = 16
SEEDS = 2  # texts of a prompt and temperature
LARGEST_BATCH = 4
MEBIBYTE = 2**20
SETTLED = 10.0  # minutes: in the first of them allocators and caches fill

WHOLE, RELAYED, ABANDONED, BESIDE = "one text", "policy swapped in it", "left half-way", "side by side"
MEANING = {
    WHOLE: "generate, with another policy than the text before",
    RELAYED: "generate, another policy every few rounds",
    ABANDONED: "stream, closed after a part of the text",
    BESIDE: f"generate_batch of 2 to {LARGEST_BATCH} texts, a copy of the policy for each",
}


@dataclass(frozen=True)
class Asked:
    """A text to decode.

    Attributes:
        prompt: its index.
        max_new_tokens, temperature, seed: see ``Options``.
    """

    prompt: int
    max_new_tokens: int
    temperature: float
    seed: int

    @property
    def options(self) -> Options:
        """What it is decoded with, batches included, where each text has a seed of its own."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}


@dataclass(frozen=True)
class Memory:
    """What this process holds, between two texts.

    Attributes:
        seconds: since the soak began.
        host: MiB resident.
        device: MiB of live tensors on the CUDA device; 0 without one.
    """

    seconds: float
    host: float
    device: float


@dataclass
class Soaked:
    """What happened.

    Attributes:
        minutes: how long it was to take.
        texts, tokens: decoded, by the way of decoding.
        different: texts that are not the target's own, in words.
        swaps: how often a policy took the place of another within a text.
        memory: samples, a second or more apart.
    """

    minutes: float
    texts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEANING, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEANING, 0))
    different: list[str] = field(default_factory=list)
    swaps: int = 0
    memory: list[Memory] = field(default_factory=list)

    @property
    def decoded(self) -> int:
        """Texts, all in all."""
        return sum(self.texts.values())

    @property
    def unmet(self) -> list[str]:
        """What a soak is to meet and this one did not, in words: it was too short."""
        idle = [f"no text decoded in the way {way!r}" for way, count in self.texts.items() if not count]
        return idle if self.swaps else [*idle, "no policy swapped within a text"]

    def quarters(self, of: str) -> list[float]:
        """Median MiB of ``host`` or ``device`` memory in each quarter of the samples."""
        values = np.array([getattr(sample, of) for sample in self.memory])
        return [float(np.median(quarter)) for quarter in np.array_split(values, 4)]

    def drift(self, of: str) -> float:
        """Growth of ``host`` or ``device`` memory from the second quarter to the last, in per cent.

        The first quarter is left out: allocators and caches still fill.
        """
        _, first, _, last = self.quarters(of)
        return 100 * (last / first - 1) if first else 0.0

    def check(self, limit: float) -> None:
        """Every text must be the target's own, and memory flat.

        Args:
            limit: per cent that it may have grown or shrunk.

        Raises:
            LimitError: they are not.
        """
        if self.different:
            count, first = len(self.different), self.different[0]
            raise LimitError(f"{count} of {self.decoded} texts are not the target's own; the first: {first}")
        filling = f"; allocators and caches still fill, soak for {SETTLED:g} min or longer"
        hint = filling if self.minutes < SETTLED else ""
        for of in ("host", "device"):
            if abs(self.drift(of)) > limit:
                raise LimitError(
                    f"{of} memory: expected within ± {limit:g} % over the last three quarters, "
                    f"measured {self.drift(of):+.1f} %{hint}"
                )


def soak(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    policies: Sequence[Policy],
    *,
    minutes: float,
    temperatures: Sequence[float] = (0.0, 0.6, 1.0),
    max_new_tokens: int = 64,
    seed: int = 0,
) -> Soaked:
    """Decode prompts in every way until the time is over.

    Args:
        pair: target and draft head.
        prompts: token ids of each, short and long ones.
        policies: what takes turns; made for ``MAX_DEPTH`` draft calls and beams of ``TOP_K``.
        minutes: how long.
        temperatures: of the target.
        max_new_tokens: most tokens of a text.
        seed: of what is decoded when.
    """
    draw = random.Random(seed)
    seen = ObservationSpec(MAX_DEPTH, TOP_K, features=(*DEFAULT_FEATURES, *FEATURES), feature_dim=FEATURE_DIM)
    relay = Relay(policies, seen, draw)
    # Each is made for a policy that looks at everything, so that any other may take its place.
    decoders = [
        SpeculativeDecoder(pair, relay, max_depth=MAX_DEPTH, top_k=TOP_K, draft_source=source, strict=True)
        for source in DRAFT_SOURCES
    ]
    forgetful = [policy for policy in policies if not getattr(policy, "remembers", False)]
    playing: dict[str, Sequence[Policy]] = {WHOLE: policies, RELAYED: [relay], ABANDONED: policies, BESIDE: forgetful}
    own = _TargetsOwn(pair, prompts, max_new_tokens)
    soaked = Soaked(minutes)
    watch = _Watch(soaked, pair)
    while watch.going():
        way = draw.choice(list(playing))
        decoder = draw.choices(decoders, (8, 1, 1))[0]  # mostly the head drafts
        decoder.policy = draw.choice(playing[way])
        length, temperature = draw.randint(1 + max_new_tokens // 4, max_new_tokens), draw.choice(temperatures)
        texts = [
            Asked(draw.randrange(len(prompts)), length, temperature, draw.randrange(SEEDS))
            for _ in range(draw.randint(2, LARGEST_BATCH) if way == BESIDE else 1)
        ]
        for text, tokens in zip(texts, _decoded(decoder, way, prompts, texts), strict=True):
            soaked.texts[way] += 1
            soaked.tokens[way] += len(tokens)
            expected = own.text(text)
            if tokens != (expected[: length // 2] if way == ABANDONED else expected):
                soaked.different.append(f"{way}, {decoder.policy.name}, {decoder.draft_source}, {text}")
    soaked.swaps = relay.swaps
    return soaked


def _decoded(
    decoder: SpeculativeDecoder, way: str, prompts: Sequence[Sequence[int]], texts: Sequence[Asked]
) -> list[list[int]]:
    """The new tokens of each text; of one that is left half-way, its first half."""
    first = texts[0]
    if way == ABANDONED:
        return [list(islice(decoder.stream(prompts[first.prompt], **first.options), first.max_new_tokens // 2))]
    if way == BESIDE:
        seeds = [text.seed for text in texts]
        done = decoder.generate_batch([prompts[text.prompt] for text in texts], seeds, **first.options)
        return [text.token_ids for text in done]
    return [decoder.generate(prompts[first.prompt], **first.options).token_ids]


def warm_up(pair: Pair, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Meet what memory is kept for: the largest batch, and every number of rows that packed weights are read for.

    What grows after that is a leak.
    """
    longest = max(prompts, key=len)
    for source in DRAFT_SOURCES:
        decoder = SpeculativeDecoder(pair, StaticDepth(MAX_DEPTH), draft_source=source, strict=True)
        decoder.generate_batch([longest] * LARGEST_BATCH, max_new_tokens=max_new_tokens)
    widest, most = len(pair.head.draft_to_target), LARGEST_BATCH * max(len(longest), SHAPE["tree_size"])
    sizes = sorted({padded_rows(rows) for rows in range(2, most + 1)})
    for rows in track(sizes, len(sizes), "bench soak: numbers of rows"):
        decoder = SpeculativeDecoder(
            pair, StaticDepth(2), max_depth=2, top_k=min(rows, widest), tree_size=rows, strict=True
        )
        decoder.generate(longest[:rows], max_new_tokens=4)


class _TargetsOwn:
    """What the target decodes alone, each text once, as long as any is asked for: shorter ones are its beginnings."""

    def __init__(self, pair: Pair, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self.pair, self.prompts, self.max_new_tokens = pair, prompts, max_new_tokens
        self.known: dict[tuple[int, float, int], list[int]] = {}

    def text(self, asked: Asked) -> list[int]:
        key = (asked.prompt, asked.temperature, asked.seed if asked.temperature else 0)
        if key not in self.known:
            options: Options = {**asked.options, "max_new_tokens": self.max_new_tokens}
            self.known[key] = list(autoregressive(self.pair, self.prompts[asked.prompt], **options))
        return self.known[key][: asked.max_new_tokens]


class _Watch:
    """Looks at clock and memory between two texts."""

    def __init__(self, soaked: Soaked, pair: Pair) -> None:
        self.soaked, self.device = soaked, pair.target.device
        self.process = psutil.Process()
        self.start = time.monotonic()
        self.seconds = 60 * soaked.minutes
        self.between_samples = min(1.0, self.seconds / 100)
        self.between_lines = max(SECONDS_BETWEEN_LINES, self.seconds / 30)
        self.sampled = self.told = 0.0

    def going(self) -> bool:
        """Whether there is time left, or too little was sampled; samples memory, and now and then prints a line."""
        now = time.monotonic() - self.start
        if now >= self.sampled + self.between_samples:
            self.sampled = now
            device = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
            held = self.process.memory_info().rss
            self.soaked.memory.append(Memory(now, held / MEBIBYTE, device / MEBIBYTE))
        if now >= self.told + self.between_lines:
            self.told = now
            print(
                f"bench soak: {now / 60:.1f} of {self.soaked.minutes:g} min, {self.soaked.decoded:,} texts, "
                f"{len(self.soaked.different)} different, {self.soaked.memory[-1].host:,.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
        return now < self.seconds or len(self.soaked.memory) < 4


def networks(seed: int) -> Iterator[Policy]:
    """Learned policies of random weights: the default, by all confidences, by what costs little, by all there is."""
    yield default_network(MAX_DEPTH, TOP_K, "network-1", seed)
    cheap = (*DEFAULT_FEATURES, *(name for name, feature in FEATURES.items() if not feature.projected))
    seen = ((DEFAULT_FEATURES, None), (cheap, 2), ((*DEFAULT_FEATURES, *FEATURES), 2))
    for number, (features, newest) in enumerate(seen, 1):
        spec = ObservationSpec(MAX_DEPTH, TOP_K, features=features, feature_dim=FEATURE_DIM, newest=newest)
        yield random_network(spec, f"network-{number + 1}", seed + number, LARGE)


def bench_soak(
    *,
    out: str | None,
    model: Mapping[str, Any],
    minutes: float,
    policies: list[str],
    messages: list[str],
    temperatures: list[float],
    max_new_tokens: int,
    limit: float,
    seed: int,
) -> Soaked:
    """The verb ``bench soak``: decode, print what came of it, write it to ``out`` if it is given.

    Args:
        policies: rules by name, and folders; four networks of random weights join them.
        messages: users' messages; long prompts are made of several.
        limit: per cent that memory may have changed by, between the second quarter of the time and the last.

    Raises:
        ConfigError: no messages, policies or temperatures, or a number out of range.
        InputError: a prompt does not fit the context.
        LimitError: a text was not the target's own, or memory was not flat.
    """
    for name, values in {"messages": messages, "policies": policies, "temperatures": temperatures}.items():
        if not values:
            raise ConfigError(f"{name}: expected at least one")
    if minutes <= 0 or limit <= 0:
        raise ConfigError(f"minutes and limit: expected more than 0, got {minutes:g} and {limit:g}")
    check_whole("max_new_tokens", max_new_tokens, 4)
    pair = pair_from_config(model)
    chosen = [*(policy_from_string(policy, seed) for policy in policies), *networks(seed)]
    prompts = [pair.encode_prompt(text) for text in [*messages, *_long(messages)]]
    for ids in prompts:
        pair.check_prompt(ids, max_new_tokens)
    about = {
        "argv": typed(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "pair": pair.label,
        "python": platform.python_version(),
        **machine(pair),
        "seed": seed,
        "policies": [policy.name for policy in chosen],
        "prompt_tokens": [len(ids) for ids in prompts],
        "temperatures": temperatures,
        "max_new_tokens": max_new_tokens,
    }
    warm_up(pair, prompts, max_new_tokens)
    soaked = soak(
        pair,
        prompts,
        chosen,
        minutes=minutes,
        temperatures=temperatures,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    shown: list[Table | str] = [_table(soaked, pair.label), _memory_line(soaked, "host", limit)]
    if pair.target.device.type == "cuda":
        shown.append(_memory_line(soaked, "device", limit))
    drift = {of: soaked.drift(of) for of in ("host", "device")}
    tell("bench soak", shown, {**about, "drift_percent": drift, **asdict(soaked)}, out)
    soaked.check(limit)
    if unmet := soaked.unmet:
        print(f"bench soak: {', '.join(unmet)}: not met in {minutes:g} min; soak longer", file=sys.stderr)
    return soaked


def _long(messages: Sequence[str]) -> list[str]:
    """Every second message with all others before it."""
    return [" ".join([*messages[i + 1 :], *messages[: i + 1]]) for i in range(0, len(messages), 2)]


def _table(soaked: Soaked, label: str) -> Table:
    told = "all are the target's own" if not soaked.different else f"{len(soaked.different)} are not the target's own"
    table = Table(title=f"{label}: {soaked.decoded:,} texts; {told}", title_justify="left")
    for column in ("way", "texts", "tokens", "what it is"):
        table.add_column(column, justify="right" if column in ("texts", "tokens") else "left")
    for way, what in MEANING.items():
        table.add_row(way, f"{soaked.texts[way]:,}", f"{soaked.tokens[way]:,}", what)
    table.caption = f"{soaked.swaps:,} swaps of a policy within a text"
    return table


def _memory_line(soaked: Soaked, of: str, limit: float) -> str:
    medians = ", ".join(f"{median:,.1f}" for median in soaked.quarters(of))
    return f"{of} memory by quarter: {medians} MiB; drift {soaked.drift(of):+.2f} % (limit ± {limit:g} %)"
