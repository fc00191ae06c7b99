"""Processors over trees give, at every node, what transformers' own call gives there."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import LogitsProcessor, logits_process

from radar_rl.errors import ConfigError
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.processors import BY_LENGTH, BY_LOGITS, OF_TOKENS, over_trees
from radar_rl.speculative.text import Options

VOCABULARY, WIDTH = 40, 6
CPU = torch.device("cpu")


def of(name: str, *arguments: Any) -> Any:
    made = getattr(logits_process, name, None)
    if made is None:
        pytest.skip(f"this transformers has no {name}")
    return made(*arguments)


MADE: dict[str, tuple[Any, ...]] = {
    "TemperatureLogitsWarper": (0.7,),
    "TopHLogitsWarper": (0.4,),
    "TopKLogitsWarper": (5,),
    "TopPLogitsWarper": (0.8,),
    "MinPLogitsWarper": (0.1,),
    "TypicalLogitsWarper": (0.7,),
    "EpsilonLogitsWarper": (0.03,),
    "EtaLogitsWarper": (0.05,),
    "SuppressTokensLogitsProcessor": ([3, 5],),
    "LogitNormalization": (),
    "MinLengthLogitsProcessor": (8, [1, 2]),
    "MinNewTokensLengthLogitsProcessor": (WIDTH, 3, 1),
    "SuppressTokensAtBeginLogitsProcessor": ([4, 7], WIDTH),
    "ForcedBOSTokenLogitsProcessor": (3,),
    "ForcedEOSTokenLogitsProcessor": (WIDTH + 3, 1),
    "ExponentialDecayLengthPenalty": ((1, 1.3), 1, WIDTH),
    "SequenceBiasLogitsProcessor": ({(3,): 2.0, (7,): -5.0},),
    "NoBadWordsLogitsProcessor": ([[3], [9]], 1),
}


def test_every_processor_that_works_on_trees_is_tried() -> None:
    assert set(MADE) == {*BY_LOGITS, *BY_LENGTH, *OF_TOKENS}


def node_by_node(processors: Any, logits: torch.Tensor, gained: torch.Tensor) -> torch.Tensor:
    """What ``generate`` computes: a row at a time, each with a text of its length."""
    rows = [
        processors(torch.full((1, WIDTH + int(before)), 11), row[None])[0]
        for row, before in zip(logits.flatten(0, 1), gained.flatten(), strict=True)
    ]
    return torch.stack(rows).view_as(logits)


@pytest.fixture
def tree() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two trees, and how many tokens the texts have gained before each node."""
    logits = 3 * torch.randn(2, 7, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return logits, torch.tensor([[0, 1, 1, 2, 2, 3, 4], [2, 3, 3, 4, 4, 4, 5]])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("before", [(), (("TopKLogitsWarper", 20), ("TemperatureLogitsWarper", 1.7))])
def test_a_node_is_processed_as_a_text_of_its_own(name: str, before: Any, tree: Any) -> None:
    processors = LogitsProcessorList([*(of(*one) for one in before), of(name, *MADE[name])])
    logits, gained = tree
    kept = logits.clone()
    process = over_trees(processors, WIDTH, CPU)
    assert process is not None
    torch.testing.assert_close(process(logits, gained), node_by_node(processors, kept, gained), rtol=0, atol=1e-6)
    assert torch.equal(logits, kept)
    if name != "ForcedBOSTokenLogitsProcessor":  # of prompts of one token
        assert not torch.equal(process(logits, gained), logits)


def test_the_order_is_the_one_given(tree: Any) -> None:
    logits, gained = tree
    warm, narrow = of("TemperatureLogitsWarper", 3.0), of("TopPLogitsWarper", 0.5)
    results = [over_trees(order, WIDTH, CPU)(logits, gained) for order in ([warm, narrow], [narrow, warm])]  # type: ignore[misc]
    assert not torch.equal(*results)
    for order, result in zip(([warm, narrow], [narrow, warm]), results, strict=True):
        torch.testing.assert_close(result, node_by_node(LogitsProcessorList(order), logits, gained))


def test_a_processed_text_is_the_same_with_and_without_a_tree(pocket: Any) -> None:
    prompt = [0, 40, 41, 42]
    plain = list(autoregressive(pocket, prompt, max_new_tokens=20))
    processors = [of("MinNewTokensLengthLogitsProcessor", 4, 9, 1), of("TopKLogitsWarper", 8)]
    processors += [of("ExponentialDecayLengthPenalty", (3, 1.1), 1, 4), of("SuppressTokensLogitsProcessor", plain[3:4])]
    process = over_trees(processors, len(prompt), CPU)
    for temperature in (0.0, 0.9):
        options: Options = {"temperature": temperature, "max_new_tokens": 20, "processor": process}
        alone = list(autoregressive(pocket, prompt, **options))
        assert SpeculativeDecoder(pocket, StaticDepth(4), tree_size=20).generate(prompt, **options).token_ids == alone
        assert alone != plain


def test_no_processor_is_no_work() -> None:
    assert over_trees(LogitsProcessorList(), WIDTH, CPU) is None


class Warmer(logits_process.TemperatureLogitsWarper):
    """A known processor's child, which could look at anything."""


class Unknown(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@pytest.mark.parametrize(
    ("processor", "named"),
    [
        (logits_process.RepetitionPenaltyLogitsProcessor(1.2), "repetition_penalty"),
        (logits_process.NoRepeatNGramLogitsProcessor(2), "no_repeat_ngram_size"),
        (logits_process.SequenceBiasLogitsProcessor({(3, 4): 1.0}), "sequence_bias"),
        (logits_process.NoBadWordsLogitsProcessor([[3, 4]], 1), "bad_words_ids"),
        (Warmer(0.5), "Warmer"),
        (Unknown(), "Unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_processor_that_may_look_at_the_tokens_before_is_refused(processor: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        over_trees([of("TemperatureLogitsWarper", 0.5), processor], WIDTH, CPU)


def test_what_the_tests_name_is_what_generation_configs_make(tree: Any, pocket: Any) -> None:
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=9, top_p=0.9, min_p=0.02, typical_p=0.95)
    config.suppress_tokens, config.epsilon_cutoff, config.eta_cutoff, config.renormalize_logits = [5], 1e-3, 1e-3, True
    own = [Warmer(2.0)]  # the user's stand between the configuration's; a subclass is refused wherever it stands
    prepared = pocket.target.model._get_logits_processor(config, WIDTH, logits_processor=LogitsProcessorList(own))
    with pytest.raises(ConfigError, match="Warmer"):
        over_trees(prepared, WIDTH, CPU)
    prepared.remove(own[0])
    assert len(prepared) == 9
    logits, gained = tree
    process = over_trees(prepared, WIDTH, CPU)
    assert process is not None
    torch.testing.assert_close(process(logits, gained), node_by_node(prepared, logits, gained))
