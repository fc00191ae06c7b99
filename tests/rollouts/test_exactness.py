"""The promise that everything rests on: what a trace says would be accepted is what live decoding gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from radar_rl.policies import DraftChain
from radar_rl.policies.random import RandomStop
from radar_rl.rollouts import Trace, load_trace
from radar_rl.rollouts.collect import collect
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.speculative import Pair
from radar_rl.speculative.draft_call import SharedSlots
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import TreeGrowth

TASKS = ["dialogue", "arithmetic", "instructions", "python"]
TIE = 1e-5


def test_accepted_lengths_over_four_tasks(pocket: Pair, tmp_path: Path) -> None:
    check(pocket, tmp_path, prompts=2, least_rounds=300)


@pytest.mark.slow
def test_accepted_lengths_in_5000_rounds(pocket: Pair, tmp_path: Path) -> None:
    check(pocket, tmp_path, prompts=36, least_rounds=5000)


def check(pair: Pair, tmp_path: Path, prompts: int, least_rounds: int) -> None:
    """Collect texts, decode them again with random stopping, and compare every round, at T = 0 and T = 1."""
    rounds = ties = 0
    model = {"name": "pocket", "target": "pocket", "draft": "pocket", "dtype": "float32", "device": "cpu"}
    for temperature in (0.0, 1.0):
        out = tmp_path / f"T{temperature}"
        settings: dict[str, Any] = {"tasks": TASKS, "task": {}, "limit": prompts, "temperature": temperature}
        collect(out=str(out), model=model, max_new_tokens=96, **settings)
        trace, texts = load_trace(out), pl.read_parquet(out / "sequences" / "*.parquet")
        assert set(texts["task"]) == set(TASKS)
        for number, text in enumerate(texts.iter_rows(named=True)):
            ids, start = text["token_ids"], text["prompt_length"]
            policy = RandomStop(0.8, seed=number)
            policy.begin_sequence(text["sequence_id"])
            live = SpeculativeDecoder(pair, policy).generate(
                ids[:start], max_new_tokens=96, temperature=temperature, seed=text["seed"]
            )
            if live.token_ids != ids[start:]:
                first = next(i for i, (a, b) in enumerate(zip(live.token_ids, ids[start:], strict=False)) if a != b)
                assert target_gap(pair, ids, start + first, temperature, text["seed"]) <= TIE
                ties += 1
            for done in live.rounds:
                if list(done.emitted) != ids[done.position + 1 : done.position + 1 + len(done.emitted)]:
                    break  # the text went another way, by the tie that was counted
                rounds += 1
                if trace_says(trace, number, done.position)[done.draft_calls - 1] != done.accepted:
                    assert draft_gap(pair, ids, done.position) <= TIE
                    ties += 1
    print(f"{rounds} rounds, {ties} ties within {TIE}")
    assert rounds >= least_rounds


def trace_says(trace: Trace, sequence: int, position: int) -> NDArray[np.uint8]:
    row = np.searchsorted(trace.sequence, sequence) + position - trace.sequences.prompt_length[sequence]
    assert (trace.sequence[row], trace.position[row]) == (sequence, position)
    accepted: NDArray[np.uint8] = trace.accepted[row]
    return accepted


def target_gap(pair: Pair, ids: list[int], position: int, temperature: float, seed: int) -> float:
    """By how much the target preferred its token at a position to the next best, noise included."""
    with torch.inference_mode():
        hidden, _ = pair.target.extend(torch.tensor(ids[:position]), TargetCache(pair.target.model, position))
        logits = pair.target.logits(hidden[None, -1:])
        noise = PositionNoise(seed, pair.target.vocab_size, logits.device)
        zero = torch.zeros(1, 1, dtype=torch.int64)
        best = choose(logits, [position], zero, Sampling(temperature), [noise])
        step = 1e-6
        while step <= 1:  # the smallest push on the winner that lets another win
            pushed = logits.clone()
            pushed[0, 0, int(best)] -= step
            if int(choose(pushed, [position], zero, Sampling(temperature), [noise])) != int(best):
                return step
            step *= 1.5
    return float("inf")


def draft_gap(pair: Pair, ids: list[int], position: int) -> float:
    """The smallest difference between two scores that a beam or a tree of the round hung on."""
    with torch.inference_mode():
        text = torch.tensor(ids[: position + 1])
        _, features = pair.target.extend(text, TargetCache(pair.target.model, position + 1))
        cache = DraftCache(pair.head, position + 8)
        hidden = cache.extend(pair.head, features[None, :-1], text[None, 1:], [position])[0]
        where = torch.tensor([position])
        growth = TreeGrowth(
            pair.head, SharedSlots(cache, where, position, 70), where, hidden[where - 1], top_k=10, max_depth=8
        )
        while growth.depth < 8:
            growth.grow()
    scores = growth.scores[0].double()
    levels = [scores[:10], *(scores[10 + 100 * i : 110 + 100 * i] for i in range(7))]
    cuts = [(level, 10) for level in levels] + [(scores[: 10 + 100 * i], 59) for i in range(1, 8)]
    ordered = [(values.sort(descending=True).values, cut) for values, cut in cuts]
    return min(float(values[cut - 1] - values[cut]) for values, cut in ordered if len(values) > cut)


def test_chains_traced_over_the_texts_of_trees_are_those_of_live_decoding(pocket: Pair, tmp_path: Path) -> None:
    model = {"name": "pocket", "target": "pocket", "draft": "pocket", "dtype": "float32", "device": "cpu"}
    shared: dict[str, Any] = {"model": model, "tasks": TASKS[:2], "task": {}}
    trees = collect(out=str(tmp_path / "trees"), **shared, limit=2, temperature=0.7, max_new_tokens=64)
    chain: dict[str, Any] = {"top_k": 1, "tree_size": 9, "max_depth": 8}
    out = collect(out=str(tmp_path / "chains"), **shared, texts_of=trees, features=["log_probs"], **chain)
    trace, texts = load_trace(out, features=["log_probs"]), pl.read_parquet(tmp_path / "chains/sequences/*.parquet")
    rule = DraftChain(0.3, most=6)
    depths = rule.stop_depths(trace.confidences, trace.features)
    rounds = 0
    for number, text in enumerate(texts.iter_rows(named=True)):
        ids, start = text["token_ids"], text["prompt_length"]
        decoder = SpeculativeDecoder(pocket, rule, **chain)
        live = decoder.generate(ids[:start], max_new_tokens=64, temperature=0.7, seed=text["seed"])
        assert live.token_ids == ids[start:]
        for done in live.rounds:
            row = int(np.searchsorted(trace.sequence, number)) + done.position - start
            if row < len(trace) and trace.position[row] == done.position:
                assert (done.draft_calls, done.accepted) == (depths[row], trace.accepted[row, depths[row] - 1])
                rounds += 1
    assert rounds > 50
    assert len(set(depths)) > 3


def test_a_round_that_the_trace_has_wrong_is_found(
    pocket: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true: Callable[..., NDArray[np.uint8]] = trace_says
    monkeypatch.setitem(globals(), "trace_says", lambda *where: true(*where) + np.uint8(1))
    with pytest.raises(AssertionError):
        check(pocket, tmp_path, prompts=1, least_rounds=1)
