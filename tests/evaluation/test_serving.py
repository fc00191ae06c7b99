"""A server's settings: replayed they do what the server does, and the fastest is chosen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_trace import HARDWARE, MadeTrace, as_chains, make_trace
from transformers.generation.stopping_criteria import ConfidenceCriteria

from radar_rl.evaluation.servers import LLAMA_CPP, SERVERS, SGLANG, TRANSFORMERS, VLLM, Server, Setting
from radar_rl.evaluation.serving import replay, tune
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import DraftChain, RenormalisedChain, StaticDepth
from radar_rl.rollouts import Trace
from radar_rl.rollouts.split import held_out
from radar_rl.speculative.hardware import tree_nodes

COLUMNS = ("log_probs", "top_mass")
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def chains() -> MadeTrace:
    return as_chains(make_trace(prompts=30, new_tokens=40, seed=4))


def tuned(server: Server, trace: MadeTrace, **changes: Any) -> Any:
    machine = replace(HARDWARE, **changes)
    away = held_out(trace.sequences.prompt_id, 0.3)

    def half(which: np.ndarray) -> Any:
        def read(tree_size: int) -> Trace:
            return trace.at(tree_size).select(which)

        return read

    return tune(server, trace.settings, COLUMNS, machine, half(~away), half(away), BATCHES)


def served(trace: Trace, drafted: Any) -> tuple[int, float]:
    """Tokens and seconds of all texts, round by round: ``drafted(row)`` says calls made and tokens verified."""
    tokens, seconds = 0, 0.0
    for first in trace.first_row:
        row, left = int(first), int(trace.remaining[first])
        while left > 0:
            calls, verified = drafted(row)
            emitted = min(int(trace.accepted[row, verified - 1]) if verified else 0, left - 1) + 1
            seconds += (
                sum(HARDWARE.draft_seconds[:calls]) + float(HARDWARE.verify(verified + 1)) + HARDWARE.rest_seconds
            )
            tokens, row, left = tokens + emitted, row + emitted, left - emitted
    return tokens, seconds


@pytest.mark.parametrize(("most", "p_min", "least"), [(1, 0.5, 0), (4, 0.0, 0), (5, 0.4, 0), (8, 0.7, 3), (8, 0.9, 2)])
def test_llama_cpp_drops_what_its_p_min_stopped_at(chains: MadeTrace, most: int, p_min: float, least: int) -> None:
    def drafted(row: int) -> tuple[int, int]:
        kept = 0
        for call in range(1, most + 1):
            own, ten = (float(chains.features[name][row].ravel()[call - 1]) for name in COLUMNS)
            if np.exp(np.float32(own) - np.float32(ten)) < p_min:
                return call, kept if kept >= least else 0
            kept += 1
        return most, kept

    setting = Setting({}, RenormalisedChain(p_min, most=most), 9, drops_last=True, least=least)
    walked = replay(Outcomes.of(chains, HARDWARE), setting)
    tokens, seconds = served(chains, drafted)
    assert walked.emitted.sum() == tokens
    assert walked.seconds.sum() == pytest.approx(seconds)
    assert walked.tokens_per_second == pytest.approx(tokens / seconds)


@pytest.mark.parametrize(("most", "threshold"), [(3, 0.0), (6, 0.35), (8, 0.6)])
def test_transformers_drafts_until_its_own_criterion_says_so(chains: MadeTrace, most: int, threshold: float) -> None:
    few = chains.select(np.arange(30) < 6)
    criterion = ConfidenceCriteria(threshold)
    decisions = 0

    def drafted(row: int) -> tuple[int, int]:
        nonlocal decisions
        for call in range(1, most + 1):
            own = torch.tensor(float(few.features["log_probs"][row, call - 1, 0])).exp()
            scores = torch.stack([own, 1 - own]).log()[None]
            decisions += call < 8 and threshold > 0
            if threshold and criterion(torch.tensor([[0]]), (scores,)):
                return call, call
        return most, most

    walked = replay(Outcomes.of(few, HARDWARE), Setting({}, DraftChain(threshold, most=most), 9))
    tokens, seconds = served(few, drafted)
    assert walked.emitted.sum() == tokens
    assert walked.seconds.sum() == pytest.approx(seconds + decisions * HARDWARE.decide_seconds)


@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_fixed_depths_are_replayed_as_they_are(chains: MadeTrace, server: str) -> None:
    trees = make_trace(prompts=20, new_tokens=30, seed=1)
    made = chains if server == "vllm" else trees
    for setting in SERVERS[server].settings(made.settings, COLUMNS):
        trace = made.at(setting.tree_size)
        nodes = tree_nodes(setting.depth, made.settings.top_k, setting.tree_size)[-1]
        walked = replay(Outcomes.of(trace, HARDWARE), setting)
        tokens, _ = served(trace, lambda row, depth=setting.depth: (depth, depth))
        assert walked.emitted.sum() == tokens
        one = sum(HARDWARE.draft_seconds[: setting.depth]) + float(HARDWARE.verify(nodes)) + HARDWARE.rest_seconds
        assert walked.seconds.sum() == pytest.approx(walked.rounds.sum() * one)
        if server == "sglang":
            assert setting.values == {"steps": setting.depth, "topk": 10, "draft-tokens": nodes}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_the_fastest_on_the_training_prompts_is_chosen_and_predicted_on_the_others(
    chains: MadeTrace, server: Server
) -> None:
    found = tuned(server, chains)
    away = held_out(chains.sequences.prompt_id, 0.3)
    walks = [
        (setting, replay(Outcomes.of(chains.at(setting.tree_size).select(~away), HARDWARE), setting))
        for setting in server.settings(chains.settings, COLUMNS)
    ]
    assert found.best.training.tokens_per_second == max(walk.tokens_per_second for _, walk in walks)
    assert [one.setting.depth for one in found.by_depth] == list(range(1, 9))
    for one in found.by_depth:
        speeds = [walk.tokens_per_second for setting, walk in walks if setting.depth == one.setting.depth]
        assert one.training.tokens_per_second == max(speeds)
        others = Outcomes.of(chains.at(one.setting.tree_size).select(away), HARDWARE)
        np.testing.assert_array_equal(one.held_out.seconds, replay(others, one.setting).seconds)
    assert bool(found.table) == server.batches


def test_without_columns_lengths_alone_are_tried(chains: MadeTrace) -> None:
    for server in (LLAMA_CPP, TRANSFORMERS):
        lengths = list(server.settings(chains.settings, ()))
        assert [setting.depth for setting in lengths] == list(range(1, 9))
        assert not any(setting.rule.features for setting in lengths)


def test_many_texts_at_once_want_fewer_draft_calls(chains: MadeTrace) -> None:
    measured = {
        "verify_nodes": (1, 256),
        "verify_seconds": (0.005, 0.005 + 255 * 1e-4),
        "autoregressive_seconds": 0.0052,
    }
    found = tuned(VLLM, chains, **measured)
    calls = [row.calls for row in found.table]
    assert [row.batch for row in found.table] == [1, 2, 4, 8, 16, 32, 64]
    assert calls == sorted(calls, reverse=True)
    assert calls[0] > calls[-1]
    assert found.table[0].tokens_per_second == pytest.approx(found.best.held_out.tokens_per_second)
    machine, rows = replace(HARDWARE, **measured), {row.batch: row for row in found.table}
    row, walks = rows[8], {one.setting.depth: one.held_out for one in found.by_depth}
    drafting = machine.draft(row.calls).sum() * machine.verify(8) / machine.verify(1)
    seconds = drafting + machine.verify(8 * (row.calls + 1)) + machine.rest_seconds
    assert row.tokens_per_second == pytest.approx(8 * walks[row.calls].acceptance_length / seconds)
    assert row.alone == pytest.approx(8 / (0.0052 * machine.verify(8) / machine.verify(1)))
    # 64 texts of 9 nodes are more than was measured, and nothing is told of what was not.
    assert rows[64].most_nodes == 4
    assert rows[16].most_nodes is None
    few = tuned(VLLM, chains)
    assert [row.batch for row in few.table] == [1, 2, 4, 8, 16]
    assert few.left_out == (32, 64)
    assert all(row.setting is None or isinstance(row.setting.rule, StaticDepth) for row in few.table)


def test_where_drafting_never_pays_vllm_drafts_nothing_and_sglang_little(chains: MadeTrace) -> None:
    dear = {"draft_seconds": (0.05,), "verify_nodes": (1, 256), "verify_seconds": (0.005, 0.03)}
    assert {row.calls for row in tuned(VLLM, chains, **dear).table} == {0}
    table = tuned(SGLANG, chains, **dear).table
    assert {row.calls for row in table} == {1}
    assert all(row.alone > row.tokens_per_second for row in table)
