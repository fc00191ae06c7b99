"""Ways of decoding beside each other: one text, each way first in its turn, nothing of a rehearsal left behind."""

from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from radar_rl.policies import StaticDepth
from radar_rl.runtime.alone import autoregressive
from radar_rl.runtime.decoder import SpeculativeDecoder
from radar_rl.runtime.named import policy_from_string
from radar_rl.runtime.ways import Step, Tally, Way, Ways, alone, speculative
from radar_rl.speculative import Pair
from radar_rl.speculative.text import Options

OPTIONS: Options = {"max_new_tokens": 16}


@pytest.mark.parametrize("side_by_side", [False, True])
def test_every_way_decodes_the_same_and_tallies_its_own(pocket: Pair, side_by_side: bool) -> None:
    prompts = [pocket.encode_prompt(text) for text in ("Name three colours.", "Two plus two?")]
    own = [list(autoregressive(pocket, ids, **OPTIONS)) for ids in prompts]
    made = [
        *(
            speculative(policy.name, SpeculativeDecoder(pocket, policy), OPTIONS, side_by_side=side_by_side)
            for policy in (StaticDepth(2), StaticDepth(5))
        ),
        alone(pocket, OPTIONS, side_by_side=side_by_side),
    ]
    ways, shown = Ways(made), list[Step]()
    assert ways.decode(prompts, shown.append) == own
    assert ways.different == 0
    for text, tokens in enumerate(own):
        assert [token for step in shown if step.text == text for token in step.token_ids] == tokens
    counted = sum(map(len, own)) - (0 if side_by_side else len(own))  # with or without what the prefill brings
    assert [(tally.texts, tally.tokens) for tally in ways.tallies] == [(2, counted)] * 3
    assert [tally.draft_calls_per_round for tally in ways.tallies[:2]] == [2, 5]
    assert min(tally.seconds for tally in ways.tallies) > 0
    assert ways.tallies[2].rounds == 0


def fixed(name: str, token: int, order: list[str]) -> Way:
    def steps(prompts: Sequence[Sequence[int]]) -> Iterator[Step]:
        order.append(name)
        yield Step(0, [token])

    return Way(name, steps, partial(order.append))


def test_each_way_is_first_in_its_turn_and_differences_are_counted() -> None:
    order: list[str] = []
    ways = Ways([fixed("a", 1, order), fixed("b", 1, order), fixed("c", 2, order)])
    for _ in range(4):
        assert ways.decode([[0]], lambda step: None) == [[1]]
    assert order == [*"abc", *"bca", *"cab", *"abc"]
    assert ways.different == 4


def test_a_rehearsal_teaches_a_policy_nothing(pocket: Pair) -> None:
    bandit = policy_from_string("tapout:static:1+static:4")
    before = repr(vars(bandit))
    way = speculative("tapout", SpeculativeDecoder(pocket, bandit), OPTIONS, side_by_side=False)
    way.warm_up(pocket.encode_prompt("Two plus two?"))
    assert repr(vars(bandit)) == before


def test_what_was_interrupted_counts_only_where_there_is_nothing_to_compare() -> None:
    def interrupted(prompts: Sequence[Sequence[int]]) -> Iterator[Step]:
        yield Step(0, [1, 2])
        raise KeyboardInterrupt

    for count, tokens in ((1, 2), (2, 0)):
        ways = Ways([Way("x", interrupted, lambda ids: None)] * count)
        with pytest.raises(KeyboardInterrupt):
            ways.decode([[0]], lambda step: None)
        assert ways.tallies[0].tokens == tokens


def test_a_tally_without_rounds_has_no_figures() -> None:
    tally = Tally()
    figures = (tally.tokens_per_second, tally.acceptance_length, tally.draft_calls_per_round)
    assert [value != value for value in figures] == [True] * 3  # NaN
