"""Node for node what the reference implementation of EAGLE drafts and accepts (RADAR_RL_REFERENCE)."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from radar_rl.speculative import DraftTree, SpeculativeSession, load_pair

TIE = 1e-5
FILES = {
    "eagle3_size10_depth9_topk1": "pair/draft",
    "eagle3_size17_depth3_topk4": "pair/draft",
    "eagle3_size32_depth4_topk8": "pair/draft",
    "eagle3_size60_depth7_topk10": "pair/draft",
    "eagle2_size60_depth5_topk8": "eagle2_head",
}


def paths(tokens: list[int], parents: list[int]) -> set[tuple[int, ...]]:
    """A tree as the set of its nodes, each named by the tokens that lead to it: node order does not matter."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tokens, parents, strict=True):
        found.append(((*found[parent], token)) if parent >= 0 else (token,))
    return set(found)


def differs_by_ties_only(tree: DraftTree, theirs: set[tuple[int, ...]]) -> bool:
    """Whether every node of ours that the other tree lacks scores within a tie of the worst node chosen."""
    ours = paths(tree.tokens, tree.parents)
    found: list[tuple[int, ...]] = []
    scores: dict[tuple[int, ...], float] = {}
    for token, parent, score in zip(tree.tokens, tree.parents, tree.log_probs, strict=True):
        found.append(((*found[parent], token)) if parent >= 0 else (token,))
        scores[found[-1]] = score
    return len(ours) == len(theirs) and all(scores[node] - min(tree.log_probs) <= TIE for node in ours - theirs)


@pytest.mark.parametrize("name", FILES)
def test_trees_texts_and_acceptance_match_the_reference(name: str, reference: Path) -> None:
    expected: dict[str, Any] = json.loads(gzip.decompress((reference / f"{name}.json.gz").read_bytes()))
    settings = expected["settings"]
    pair = load_pair(reference / "pair/target", reference / FILES[name])
    depth, rounds, ties = settings["depth"] + 1, 0, 0
    for sequence in expected["sequences"]:
        session = SpeculativeSession(
            pair,
            sequence["prompt_ids"],
            max_new_tokens=96,
            max_depth=depth,
            top_k=settings["top_k"],
            tree_size=settings["total_tokens"],
        )
        for theirs in sequence["rounds"]:
            if session.finished:
                break
            session.begin()
            for _ in range(depth - 1):
                session.draft()
            ours = session.verify()
            rounds += 1
            assert ours.position + 1 == theirs["prefix_len"]
            their_nodes = paths(theirs["tokens"], theirs["parents"])
            if paths(ours.tree.tokens, ours.tree.parents) != their_nodes:
                assert differs_by_ties_only(ours.tree, their_nodes), f"{sequence['id']}: round {rounds}"
                ties += 1
            assert session.finished or len(ours.emitted) == theirs["emitted"]
        assert session.finished
        eos = 1
        output = sequence["output_ids"]
        if eos in output:
            output = output[: output.index(eos) + 1]
        compared = min(len(output), 96)
        assert session.token_ids[:compared] == output[:compared]
    print(f"{name}: {rounds} rounds, {ties} of them differ by a tie within {TIE}")
    assert rounds > 50
    assert ties <= rounds // 50
