"""What servers understand today: their flags, the settings that a trace can replay, and the lines to paste.

Each flag's meaning was read in the source or the documentation that is named beside it (November 2026). A setting is
what the flags say together with the rule that the server then runs, so that replaying the rule is replaying the server.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from shlex import quote
from typing import Any

from radar_rl.offline.tuning import THRESHOLDS
from radar_rl.policies import DraftChain, RenormalisedChain, StaticDepth
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.speculative.hardware import tree_nodes

TREE_SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of verified nodes that are tried, beside the trace's own."""

LEAST_TOKENS = (0, 2, 3)
"""llama.cpp's shortest drafts that are tried; 1 is what 0 is."""

Table = Sequence[tuple[int, int]]
"""Batch sizes, increasing, and the draft calls from each on; 0: no drafting."""


@dataclass(frozen=True)
class Setting:
    """One setting of a server, and what it does.

    Attributes:
        values: by the name of the flag.
        rule: what stops drafting.
        tree_size: nodes verified, root included, at most.
        drops_last: a token that the rule stopped at for its probability is not verified.
        least: shorter drafts are not verified at all, tokens.
    """

    values: Mapping[str, int | float]
    rule: StaticDepth | DraftChain
    tree_size: int
    drops_last: bool = False
    least: int = 0

    @property
    def depth(self) -> int:
        """Draft calls in a round at most."""
        return self.rule.depth if isinstance(self.rule, StaticDepth) else self.rule.most

    @property
    def name(self) -> str:
        """How tables call it."""
        return ", ".join(f"{key} {value:g}" for key, value in self.values.items())


@dataclass(frozen=True)
class Flag:
    """A flag, its meaning in our words, and where that stands."""

    name: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Server:
    """What is known of a server.

    Attributes:
        label: how tables call it.
        chains: whether it drafts chains alone; else trees of the trace's beam.
        features: columns of a trace that its rules look at; without them they are left out.
        flags: what is set.
        settings: those that a trace with some columns can replay.
        line: the line to paste: (setting, batch table, draft head, kind of head).
        batches: whether there is a setting for each batch size.
        idles: whether such a setting may be to draft nothing.
        heads: kinds of draft heads that it runs.
        notes: what to know beside; ``{…}`` are fields of the trace's settings.
        table_notes: what to know where the line has a batch table.
    """

    label: str
    chains: bool
    flags: tuple[Flag, ...]
    settings: Callable[[TraceSettings, Sequence[str]], Iterator[Setting]]
    line: Callable[[Setting, Table, str, str], str]
    features: tuple[str, ...] = ()
    batches: bool = False
    idles: bool = False
    heads: tuple[str, ...] = ("eagle3", "eagle2")
    notes: tuple[str, ...] = ()
    table_notes: tuple[str, ...] = ()


def _vllm_settings(made: TraceSettings, columns: Sequence[str]) -> Iterator[Setting]:
    for tokens in range(1, made.max_depth + 1):
        yield Setting({"num_speculative_tokens": tokens}, StaticDepth(tokens), made.tree_size)


def ranges(table: Table) -> list[tuple[int, int, int]]:
    """A batch table as vLLM has it: first and last size, both meant, and the draft calls; equal neighbours joined."""
    found = []
    ends = [size - 1 for size, _ in table[1:]] + [table[-1][0]] if table else []
    for calls, rows in groupby(zip(table, ends, strict=True), key=lambda row: row[0][1]):
        joined = list(rows)
        found.append((joined[0][0][0], joined[-1][1], calls))
    return found


def _vllm_line(setting: Setting, table: Table, head: str, kind: str) -> str:
    tokens = setting.depth
    config: dict[str, Any] = {"method": {"eagle2": "eagle"}.get(kind, kind), "model": head}
    parts = ranges(table)
    if len(parts) > 1:
        config["num_speculative_tokens"] = max(tokens, *(calls for _, calls in table))
        config["num_speculative_tokens_per_batch_size"] = [list(part) for part in parts]
    else:
        config["num_speculative_tokens"] = tokens
    return f"--speculative-config {quote(json.dumps(config))}"


VLLM = Server(
    label="vLLM",
    chains=True,
    flags=(
        Flag(
            "num_speculative_tokens",
            "draft tokens of a round, one draft call each; the drafter proposes a chain",
            "https://docs.vllm.ai/en/latest/features/speculative_decoding/eagle/",
        ),
        Flag(
            "num_speculative_tokens_per_batch_size",
            "[first size, last size, draft tokens] by how many texts are decoded at once; 0 drafts nothing",
            "https://docs.vllm.ai/en/latest/features/speculative_decoding/dynamic_speculative_decoding/",
        ),
    ),
    settings=_vllm_settings,
    line=_vllm_line,
    batches=True,
    idles=True,
    table_notes=(
        "The table by batch size is not for data parallelism; vLLM's own examples for EAGLE heads set "
        "VLLM_USE_V2_MODEL_RUNNER=0 with it.",
    ),
)


def _sglang_settings(made: TraceSettings, columns: Sequence[str]) -> Iterator[Setting]:
    tree_sizes = sorted({*(size for size in TREE_SIZES if size < made.tree_size), made.tree_size})
    for steps in range(1, made.max_depth + 1):
        # A tree has no more nodes than its steps offer; of a chain all are verified, as SGLang asks for.
        offered = int(tree_nodes(steps, made.top_k, made.tree_size)[-1])
        sizes = [offered] if made.top_k == 1 else sorted({min(size, offered) for size in tree_sizes})
        for size in sizes:
            values = {"steps": steps, "topk": made.top_k, "draft-tokens": size}
            yield Setting(values, StaticDepth(steps), size)


def adaptive_config(table: Table) -> dict[str, Any]:
    """A batch table as SGLang's adaptive configuration: from each size on the one candidate."""
    return {str(first): {"candidate_steps": [calls]} for first, _, calls in ranges(table)}


def _sglang_line(setting: Setting, table: Table, head: str, kind: str) -> str:
    words = ["--speculative-algorithm", {"eagle2": "EAGLE", "eagle3": "EAGLE3"}[kind]]
    words += ["--speculative-draft-model-path", quote(head)]
    for name in ("steps", "topk", "draft-tokens"):
        words += [f"--speculative-{'eagle-' if name == 'topk' else 'num-'}{name}", str(setting.values[name])]
    if setting.values["topk"] == 1 and len(ranges(table)) > 1:
        words += ["--speculative-adaptive", "--speculative-adaptive-config", "adaptive.json"]
    return " ".join(words)


SGLANG = Server(
    label="SGLang",
    chains=False,
    flags=(
        Flag(
            "--speculative-num-steps",
            "levels of the tree, one draft call each",
            "https://docs.sglang.io/advanced_features/speculative_decoding.html",
        ),
        Flag(
            "--speculative-eagle-topk",
            "beam width: nodes expanded per level, and children of each",
            "https://docs.sglang.io/advanced_features/speculative_decoding.html",
        ),
        Flag(
            "--speculative-num-draft-tokens",
            "nodes verified, root included: the best others by cumulative score",
            "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/speculative/eagle_utils.py",
        ),
        Flag(
            "--speculative-adaptive-config",
            "JSON: from each batch size on, the numbers of steps to choose from; with topk 1 alone",
            "https://docs.sglang.io/advanced_features/adaptive_speculative_decoding.html",
        ),
    ),
    settings=_sglang_settings,
    line=_sglang_line,
    batches=True,
    notes=("topk is the trace's, {top_k}; for another one: radar-rl collect texts_of=TRACES top_k=… out=FOLDER",),
)


def _llama_settings(made: TraceSettings, columns: Sequence[str]) -> Iterator[Setting]:
    for rule in _chains(RenormalisedChain, made, columns):
        for least in LEAST_TOKENS if rule.threshold else (0,):
            if least <= rule.most:
                values = {"n-max": rule.most, "n-min": least, "p-min": rule.threshold}
                yield Setting(values, rule, made.tree_size, drops_last=True, least=least)


def _llama_line(setting: Setting, table: Table, head: str, kind: str) -> str:
    flags = " ".join(f"--spec-draft-{name} {value:g}" for name, value in setting.values.items())
    return f"--spec-type draft-eagle3 --spec-draft-model {quote(head.rpartition('/')[2] + '.gguf')} {flags}"


_LLAMA = "https://github.com/ggml-org/llama.cpp/blob/master/"
_LLAMA_SOURCE = _LLAMA + "common/speculative.cpp common_speculative_impl_draft_eagle3"

LLAMA_CPP = Server(
    label="llama.cpp",
    chains=True,
    flags=(
        Flag("--spec-type", "draft-eagle3: the draft model is an EAGLE-3 head", _LLAMA + "docs/speculative.md"),
        Flag("--spec-draft-n-max", "draft tokens of a round at most, one draft call each", _LLAMA_SOURCE),
        Flag("--spec-draft-n-min", "shorter drafts are not verified at all", _LLAMA_SOURCE),
        Flag(
            "--spec-draft-p-min",
            "drafting ends where a token has less than this among the ten best; that token is not verified",
            _LLAMA_SOURCE,
        ),
    ),
    settings=_llama_settings,
    line=_llama_line,
    features=RenormalisedChain.looked_at,
    heads=("eagle3",),
    notes=("Older builds call the flags --draft-max, --draft-min and --draft-p-min.",),
)


def _transformers_settings(made: TraceSettings, columns: Sequence[str]) -> Iterator[Setting]:
    for rule in _chains(DraftChain, made, columns):
        values = {"num_assistant_tokens": rule.most, "assistant_confidence_threshold": rule.threshold}
        yield Setting(values, rule, made.tree_size)


def _transformers_line(setting: Setting, table: Table, head: str, kind: str) -> str:
    values = {"num_assistant_tokens_schedule": "constant", **setting.values}
    return f"assistant.generation_config.update({', '.join(f'{name}={value!r}' for name, value in values.items())})"


_TRANSFORMERS = "https://github.com/huggingface/transformers/blob/main/src/transformers/generation/"

TRANSFORMERS = Server(
    label="transformers",
    chains=True,
    flags=(
        Flag(
            "num_assistant_tokens",
            "draft tokens of a round at most, one draft call each",
            _TRANSFORMERS + "candidate_generator.py AssistedCandidateGenerator",
        ),
        Flag(
            "assistant_confidence_threshold",
            "drafting ends after a token of less probability, which is verified too; 0: never",
            _TRANSFORMERS + "stopping_criteria.py ConfidenceCriteria",
        ),
        Flag(
            "num_assistant_tokens_schedule",
            "constant; the others add 2 or take 1 without a bound, which no trace has the depth for",
            _TRANSFORMERS + "candidate_generator.py update_candidate_strategy",
        ),
    ),
    settings=_transformers_settings,
    line=_transformers_line,
    features=DraftChain.looked_at,
    notes=(
        "transformers takes whole models as assistants, no EAGLE heads: the figure is of an assistant that drafts as "
        "this head does, at this profile's seconds.",
        "With scikit-learn installed, transformers moves the threshold as it decodes; the constant one is replayed.",
    ),
)


def _chains(
    make: type[DraftChain] | type[RenormalisedChain], made: TraceSettings, columns: Sequence[str]
) -> Iterator[DraftChain]:
    """Every length, and every threshold where the trace has what the rule looks at."""
    thresholds = (0.0, *THRESHOLDS) if set(make.looked_at) <= set(columns) else (0.0,)
    for most in range(1, made.max_depth + 1):
        # A single call is made whatever it says: only what drops its token is another setting.
        for threshold in thresholds if most > 1 or make is RenormalisedChain else (0.0,):
            yield make(threshold, most=most)


SERVERS = {"vllm": VLLM, "sglang": SGLANG, "llama.cpp": LLAMA_CPP, "transformers": TRANSFORMERS}
"""By the name that ``export format=`` has for them."""
