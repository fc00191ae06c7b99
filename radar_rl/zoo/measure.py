"""What the model card says of a pair: acceptance length by task, held-out losses, seconds of a forward."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from radar_rl.jsonl import read_jsonl
from radar_rl.policies import StaticDepth
from radar_rl.progress import track
from radar_rl.runtime.decoder import SpeculativeDecoder
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import user_message
from radar_rl.speculative.target import TargetCache
from radar_rl.zoo.corpus import documents, encode, split_path
from radar_rl.zoo.texts import repeated_share


@dataclass(frozen=True)
class TaskAcceptance:
    """Acceptance of a pair on one task.

    Attributes:
        tau: emitted tokens per verification over the texts kept.
        texts, tokens: of the kept texts.
        looping: texts left out because more than a tenth of their 8-grams repeat.
        skipped: prompts left out because they exceed the context.
    """

    tau: float
    texts: int
    tokens: int
    looping: int
    skipped: int


def acceptance_by_task(
    pair: Pair,
    data: Path,
    tasks: Iterable[str],
    *,
    limit: int,
    max_new_tokens: int = 128,
    max_depth: int = 8,
    top_k: int = 10,
    tree_size: int = 60,
) -> dict[str, TaskAcceptance]:
    """Greedy static-depth decoding of each task's first ``limit`` eval prompts."""
    static = StaticDepth(max_depth)
    decoder = SpeculativeDecoder(pair, static, max_depth=max_depth, top_k=top_k, tree_size=tree_size, strict=True)
    found: dict[str, TaskAcceptance] = {}
    for task in tasks:
        rows = [row for row, _ in zip(read_jsonl(split_path(data, task, "eval")), range(limit), strict=False)]
        emitted = rounds = texts = tokens = looping = skipped = 0
        for row in track(rows, len(rows), f"τ on {task}"):
            prompt_ids = pair.encode_prompt(user_message(row))
            if len(prompt_ids) + max_new_tokens > pair.max_positions:
                skipped += 1
                continue
            out = decoder.generate(prompt_ids, max_new_tokens=max_new_tokens)
            if repeated_share(out.token_ids) > 0.1:
                looping += 1
                continue
            texts, tokens = texts + 1, tokens + len(out.token_ids)
            rounds += len(out.rounds)
            emitted += sum(len(r.emitted) for r in out.rounds)
        found[task] = TaskAcceptance(emitted / max(1, rounds), texts, tokens, looping, skipped)
    return found


def forward_seconds(pair: Pair, repeats: int = 50) -> Mapping[str, float]:
    """Median seconds of one forward over one token, of the target and of the head, after 128 tokens of text."""
    generator = np.random.default_rng(0)
    text = torch.from_numpy(generator.integers(0, pair.target.vocab_size, 129))
    times: dict[str, list[float]] = {"target": [], "head": []}
    with torch.inference_mode():
        for _ in range(repeats):
            target_cache, draft_cache = TargetCache(pair.target.model, 256), DraftCache(pair.head, 256)
            _, features = pair.target.extend(text[:128], target_cache)
            draft_cache.extend(pair.head, features[None, :-1], text[None, 1:128], [127])
            start = time.perf_counter()
            hidden, newest = pair.target.extend(text[128:], target_cache)
            pair.target.logits(hidden)
            middle = time.perf_counter()
            pair.head.logits(draft_cache.extend(pair.head, newest[None], text[None, 128:], [1]))
            times["head"].append(time.perf_counter() - middle)
            times["target"].append(middle - start)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def held_out_losses(pair: Pair, data: Path, tasks: Iterable[str], rows: int = 64) -> dict[str, float]:
    """Mean loss (nats a token) of the target over the answers of each task's first ``rows`` eval rows."""
    losses: dict[str, float] = {}
    for name in tasks:
        total, count = 0.0, 0
        for document, _ in zip(documents(data, name, "eval"), range(rows), strict=False):
            ids, answer = encode(pair.tokenizer, [document.render(), document.answer])
            if len(ids) > pair.max_positions:
                continue
            text = torch.tensor(ids)
            with torch.inference_mode():
                hidden, _ = pair.target.extend(text, TargetCache(pair.target.model, len(ids)))
                surprise = torch.nn.functional.cross_entropy(
                    pair.target.logits(hidden[:-1]), text[1:], reduction="none"
                )
            total, count = total + float(surprise[-len(answer) - 1 :].sum()), count + len(answer) + 1
        losses[name] = total / max(1, count)
    return losses


def measure_pair(pair: Pair, data: Path, out: Path, *, limit: int) -> None:
    """Measure what the model card says and write it to ``out`` as JSON.

    Args:
        data: folder of sets with an eval split.
        limit: prompts a task.
    """
    tasks = ("gsm8k", "mbpp", "humaneval", "squad", "mt_bench")
    acceptance = acceptance_by_task(pair, data, tasks, limit=limit)
    figures = {
        "target": pair.target_identity,
        "draft": pair.draft_identity,
        "acceptance": {task: asdict(measured) for task, measured in acceptance.items()},
        "held_out_loss": held_out_losses(pair, data, [task for task in tasks if task != "mt_bench"]),
        "forward_seconds": dict(forward_seconds(pair)),
    }
    out.write_text(json.dumps(figures, indent=1) + "\n")
    for task, measured in acceptance.items():
        print(task, measured)
    print({key: figures[key] for key in ("held_out_loss", "forward_seconds")})
