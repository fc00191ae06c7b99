"""The target alone side by side: each text is what it is by itself."""

from dataclasses import replace
from typing import Any

import pytest
from capturing import Capturing

from radar_rl.errors import InputError
from radar_rl.runtime import autoregressive
from radar_rl.runtime.alone import autoregressive_batch
from radar_rl.speculative import Pair
from radar_rl.speculative.graphs import Arena


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "sample_top_k": 40, "prefill_chunk": 7}],
    ids=["greedy", "sampled"],
)
@pytest.mark.parametrize("captured", [False, True])
def test_texts_side_by_side_are_what_each_is_alone(
    pocket: Pair, shipped_prompts: list[str], options: dict[str, Any], captured: bool
) -> None:
    pair = replace(pocket, arena=Arena(Capturing())) if captured else pocket
    prompts = [pocket.encode_prompt(prompt) for prompt in shipped_prompts[:9:4]]
    texts = [list(autoregressive(pocket, ids, seed=i, max_new_tokens=20, **options)) for i, ids in enumerate(prompts)]
    # A token of the second text ends it early, and any other text in which it comes.
    ends = replace(pair, eos_token_ids=frozenset({texts[1][6]}))
    expected = [text[: text.index(texts[1][6]) + 1] if texts[1][6] in text else text for text in texts]
    grown = []
    for side_by_side in autoregressive_batch(ends, prompts, range(3), max_new_tokens=20, **options):
        got = [list(text.token_ids) for text in side_by_side]
        grown.append(sum(map(len, got)))
    assert got == expected
    assert grown[0] == 3
    assert grown[-1] == sum(map(len, expected))
    assert len(grown) == max(map(len, expected))


def test_what_cannot_be_decoded_is_refused_at_once(pocket: Pair) -> None:
    with pytest.raises(InputError, match="as many seeds, got 1 prompts and 2 seeds"):
        autoregressive_batch(pocket, [[5]], [0, 1])
    with pytest.raises(InputError, match="empty prompt"):
        autoregressive_batch(pocket, [[5], []])
