"""Inside transformers: ``generate`` with a draft head and a policy gives what ``generate`` gives, or says why not."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, write_head
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StoppingCriteria,
    StopStringCriteria,
)
from transformers.generation import LogitsProcessor

from radar_rl.errors import ArtifactError, ConfigError, FallbackWarning, InputError
from radar_rl.policies import RandomStop, StaticDepth
from radar_rl.runtime import radar_generate, save_policy
from radar_rl.speculative import Pair, as_qwen2
from radar_rl.speculative.pair import target_checkpoint


@dataclass
class Streamer:
    """Keeps what it is given."""

    got: list[list[Any]] = field(default_factory=list)
    ends: int = 0

    def put(self, value: Tensor) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.ends += 1


@pytest.fixture(scope="module")
def llama() -> Any:
    """The embedded target as transformers itself loads it."""
    return AutoModelForCausalLM.from_pretrained(target_checkpoint("pocket"), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(target_checkpoint("pocket"), padding_side="left")


RANDOM = ("llama", "qwen2", "qwen3")


def random_pair(family: str, folder: Path) -> Any:
    """A tiny random model, in training mode as one just made is, and what decodes it speculatively."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    write_head(folder, model)
    # Random heads are seldom right; what a random model repeats, n-grams draft.
    return model, radar_generate(folder, "static:3", tree_size=16, top_k=4, draft_source="hybrid")


@pytest.fixture(scope="module", params=["pocket", "pocket as qwen2", *RANDOM])
def served(request: pytest.FixtureRequest, llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of each family, and what decodes it speculatively."""
    if request.param == "pocket":
        return llama, radar_generate("pocket", "threshold:0.3", tree_size=20)
    if request.param == "pocket as qwen2":
        return as_qwen2(llama), radar_generate("pocket-eagle2", "static:4", tree_size=20)
    return random_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def inputs(served: Any, tokenizer: Any, shipped_prompts: list[str]) -> dict[str, Tensor]:
    """Three prompts of different lengths, padded left."""
    model, _ = served
    if model.config.vocab_size > 64:
        encoded = tokenizer([prompt[:60] for prompt in shipped_prompts[:12:4]], return_tensors="pt", padding=True)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 64, (length,), generator=generator) for length in (9, 4, 20)]
    ids = torch.stack([torch.nn.functional.pad(row, (20 - len(row), 0), value=2) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 2).long()}


def both(model: Any, speculative: Any, **options: Any) -> tuple[Any, Any]:
    """The same call without and with speculation; streamers have heard the same."""
    plain, ours = Streamer(), Streamer()
    expected = model.generate(**options, streamer=plain)
    got = model.generate(**options, streamer=ours, custom_generate=speculative)
    assert ours.got == plain.got
    assert ours.ends == plain.ends == 1
    return expected, got


def one(inputs: dict[str, Tensor], row: int = 0) -> dict[str, Tensor]:
    """A prompt without its padding."""
    return {"input_ids": inputs["input_ids"][row : row + 1, inputs["attention_mask"][row] == 1]}


OPTIONS: dict[str, dict[str, Any]] = {
    "min_new_tokens": {"min_new_tokens": 20},
    "min_length": {"min_length": 25},
    "suppress_tokens": {"suppress_tokens": list(range(3, 40, 2))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(3, 60))},
    "forced_eos_token_id": {"forced_eos_token_id": 5},
    "exponential_decay": {"exponential_decay_length_penalty": (5, 1.2)},
    "sequence_bias": {"sequence_bias": [[[7], 3.0], [[9], -8.0]]},
    "bad_words_ids": {"bad_words_ids": [[7], [9], [11]]},
    "renormalize_logits": {"renormalize_logits": True},
    "prefill_chunk_size": {"prefill_chunk_size": 5},
}


def test_greedy_text_is_that_of_generate(served: Any, inputs: dict[str, Tensor]) -> None:
    model, speculative = served
    length = {"max_length": inputs["input_ids"].shape[1] + 20}
    for given, room in ((one(inputs), {"max_new_tokens": 30}), (one(inputs, 2), length), (inputs, length)):
        expected, got = both(model, speculative, **given, **room, do_sample=False)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_greedy_text_is_that_of_generate_with_logits_processors(name: str, tmp_path: Path) -> None:
    model, speculative = random_pair(list(RANDOM)[len(name) % 3], tmp_path)
    ids = torch.tensor([[2, 2, 2, 7, 9], [0, 41, 5, 6, 8]])
    asked = [{"inputs": ids[1:]}, {"inputs": ids, "attention_mask": (ids != 2).long()}]
    # Of a padded prompt read in chunks, generate itself makes another text.
    for given in asked[:1] if name == "prefill_chunk_size" else asked:
        free = model.generate(**given, do_sample=False, max_new_tokens=24)
        eos = int(free[0, -6])  # a token that does come
        options = {**given, "do_sample": False, "max_new_tokens": 24, "eos_token_id": eos, **OPTIONS[name]}
        expected, got = both(model, speculative, **options)
        assert torch.equal(got, expected)


def test_texts_end_at_any_of_several_tokens_and_are_padded(served: Any, inputs: dict[str, Tensor]) -> None:
    model, speculative = served
    free = model.generate(**inputs, do_sample=False, max_new_tokens=20, eos_token_id=None)
    width = inputs["input_ids"].shape[1]
    ends = [int(free[0, width + 7]), int(free[1, width + 12])]
    for eos in (ends[0], ends):
        for given in (one(inputs), inputs):
            options = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": eos, "pad_token_id": 4}
            expected, got = both(model, speculative, **given, **options)
            assert torch.equal(got, expected)
    assert (got[:, -1] == 4).any()  # shorter than the longest of its batch
    expected, got = both(model, speculative, **inputs, do_sample=False, max_new_tokens=9, eos_token_id=None)
    assert torch.equal(got, expected)


class Seen(StoppingCriteria):
    """Ends a text at one token, in a batch all texts at the same length, and remembers what it saw."""

    def __init__(self, token: int, length: int) -> None:
        self.token, self.length, self.seen = token, length, []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.seen.append(input_ids.tolist())
        return (input_ids[:, -1] == self.token) | (input_ids.shape[1] >= self.length)


@pytest.mark.parametrize("eos", [1, None])
def test_stopping_criteria_see_and_cut_the_text_token_by_token(
    eos: int | None, served: Any, inputs: dict[str, Tensor]
) -> None:
    model, speculative = served
    width = inputs["input_ids"].shape[1]
    free = model.generate(**inputs, do_sample=False, max_new_tokens=20, eos_token_id=eos)
    for given in (one(inputs), inputs):
        plain, ours = (Seen(int(free[0, width + 6]), width + 15) for _ in range(2))
        options = {**given, "do_sample": False, "max_new_tokens": 20, "eos_token_id": eos}
        expected = model.generate(**options, stopping_criteria=[plain])
        got = model.generate(**options, stopping_criteria=[ours], custom_generate=speculative)
        assert torch.equal(got, expected)
        assert ours.seen == plain.seen


def test_stop_strings_cut_the_text_where_generate_cuts_it(llama: Any, tokenizer: Any) -> None:
    speculative = radar_generate("pocket", "static:6")
    prompts = ["Write a Python function that adds two numbers.", "def f(a, b):"]
    both_prompts = tokenizer(prompts, return_tensors="pt", padding=True)
    for rows in (slice(0, 1), slice(0, 2)):
        given = {name: both_prompts[name][rows] for name in ("input_ids", "attention_mask")}
        width, options = given["input_ids"].shape[1], {**given, "do_sample": False, "max_new_tokens": 20}
        free = llama.generate(**options)
        stop = [text[len(text) // 2 :][:4] for text in tokenizer.batch_decode(free[:, width : width + 10])]
        expected = llama.generate(**options, stop_strings=stop, tokenizer=tokenizer)
        criteria = [StopStringCriteria(tokenizer, stop)]  # generate keeps a tokenizer back from a callable
        got = llama.generate(**options, stopping_criteria=criteria, custom_generate=speculative)
        assert torch.equal(got, expected)
        assert got.shape[1] < free.shape[1]


def test_time_that_is_up_ends_a_text_after_its_first_token(llama: Any) -> None:
    given = torch.tensor([[0, 40, 41, 42]])
    got = llama.generate(given, max_time=0.0, max_new_tokens=20, custom_generate=radar_generate("pocket", "static:3"))
    assert torch.equal(got, llama.generate(given, do_sample=False, max_new_tokens=1))


def test_a_sampled_text_comes_again_with_the_seed_whatever_the_policy(served: Any, inputs: dict[str, Tensor]) -> None:
    model, speculative = served
    options = {"do_sample": True, "temperature": 0.9, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "max_new_tokens": 12}
    texts = []
    for seed, stop in ((0, StaticDepth(1)), (0, StaticDepth(5)), (0, RandomStop(0.5, seed=3)), (1, StaticDepth(1))):
        torch.manual_seed(seed)
        how = copy.copy(speculative)
        how.policy = stop
        texts.append(model.generate(**one(inputs), **options, num_return_sequences=2, custom_generate=how))
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])
    assert texts[0].shape != texts[3].shape or not torch.equal(texts[0], texts[3])
    assert not torch.equal(texts[0][0], texts[0][1])  # of one prompt


def test_sampling_has_the_law_of_the_processed_logits(tmp_path: Path) -> None:
    model, speculative = random_pair("llama", tmp_path)
    prompt, rows = torch.tensor([[0, 40, 41, 42]]), 800
    options = {"do_sample": True, "temperature": 0.7, "top_k": 3, "eos_token_id": None}
    torch.manual_seed(0)
    got = model.generate(prompt, **options, max_new_tokens=3, num_return_sequences=rows, custom_generate=speculative)[
        :, 4:
    ]
    texts, counts = got.unique(dim=0, return_counts=True)
    probabilities = torch.ones(len(texts))
    given = torch.cat((prompt.expand(len(texts), -1), texts), dim=1)
    for i in range(3):  # the law, token by token, as plain generate scores it
        out = model.generate(
            given[:, : 4 + i], **options, max_new_tokens=1, return_dict_in_generate=True, output_scores=True
        )
        probabilities *= out.scores[0].softmax(-1).gather(1, texts[:, i : i + 1])[:, 0]
    expected = rows * probabilities
    assert expected.max() > 4 * expected.min()
    often = expected >= 5
    # Pearson's statistic: its mean is the number of texts, its variance twice that.
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert int(often.sum()) > 4
    assert statistic < often.sum() + 4 * (2 * often.sum()) ** 0.5


def test_a_dict_is_returned_where_one_is_asked_for(llama: Any) -> None:
    given = torch.tensor([[0, 40, 41, 42]])
    out = llama.generate(
        given, max_new_tokens=5, return_dict_in_generate=True, custom_generate=radar_generate("pocket", "static:2")
    )
    assert torch.equal(out.sequences, llama.generate(given, max_new_tokens=5))


class Custom(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("repetition_penalty", {"repetition_penalty": 1.1}),
        ("no_repeat_ngram_size", {"no_repeat_ngram_size": 2}),
        ("bad_words_ids", {"bad_words_ids": [[7], [8, 9]]}),
        ("sequence_bias", {"sequence_bias": [[[7, 8], 1.0]]}),
        ("guidance_scale", {"guidance_scale": 1.5}),
        ("prefix_allowed_tokens_fn", {"prefix_allowed_tokens_fn": lambda row, ids: [5]}),
        ("remove_invalid_values", {"remove_invalid_values": True}),
        ("logits_processor: Custom", {"logits_processor": [Custom()]}),
        ("num_beams=3", {"num_beams": 3}),
        ("prompt_lookup_num_tokens=4", {"prompt_lookup_num_tokens": 4}),
        ("output_scores", {"return_dict_in_generate": True, "output_scores": True}),
        ("output_hidden_states", {"return_dict_in_generate": True, "output_hidden_states": True}),
        ("past_key_values", {"past_key_values": DynamicCache()}),
        ("cache_implementation='offloaded'", {"cache_implementation": "offloaded"}),
        ("synced_gpus", {"synced_gpus": True}),
        ("position_ids", {"position_ids": torch.tensor([[3, 4, 5, 6]])}),
        ("padded right", {"attention_mask": torch.tensor([[1, 1, 1, 0]])}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_honoured_is_refused_by_name(named: str, options: dict[str, Any], llama: Any) -> None:
    speculative = radar_generate("pocket", "static:3")
    given = {"inputs": torch.tensor([[0, 40, 41, 42]]), "max_new_tokens": 8, "do_sample": False}
    with pytest.raises(ConfigError, match=named):
        llama.generate(**{**given, **options}, custom_generate=speculative)


def test_an_assistant_model_and_embeddings_are_refused(llama: Any) -> None:
    speculative, ids = radar_generate("pocket", "static:3"), torch.tensor([[0, 40, 41, 42]])
    with pytest.raises(ConfigError, match="assistant_model"):
        llama.generate(ids, max_new_tokens=8, assistant_model=llama, custom_generate=speculative)
    with pytest.raises(ConfigError, match=r"input_ids|inputs_embeds"):
        llama.generate(inputs_embeds=llama.get_input_embeddings()(ids), max_new_tokens=8, custom_generate=speculative)


def test_a_text_longer_than_the_context_is_refused(llama: Any) -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        llama.generate(torch.tensor([[5]]), max_new_tokens=1024, custom_generate=radar_generate("pocket", "static:3"))


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(target: str, draft: str) -> Path:
        about = {"target": target, "draft": draft, "max_depth": 5, "top_k": 4, "tree_size": 12}
        save_policy(tmp_path / "policy", StaticDepth(3), about)
        return tmp_path / "policy"

    return write


def test_an_artifact_brings_its_shape_and_is_for_its_pair(
    artifact: Callable[[str, str], Path], pocket: Pair, llama: Any
) -> None:
    given = {"inputs": torch.tensor([[0, 40, 41, 42]]), "max_new_tokens": 8, "do_sample": False}
    own = radar_generate("pocket", artifact(pocket.target_identity, pocket.draft_identity))
    assert own.settings.items() >= {"max_depth": 5, "top_k": 4, "tree_size": 12}.items()
    expected = llama.generate(**given)
    assert torch.equal(llama.generate(**given, custom_generate=own), expected)
    for of in (("other@0000", pocket.draft_identity), (pocket.target_identity, "other@0000")):
        folder = artifact(*of)
        with pytest.raises(ArtifactError, match="allow_other_pair"):
            llama.generate(**given, custom_generate=radar_generate("pocket", folder, strict=True))
        with pytest.warns(FallbackWarning, match="allow_other_pair"):
            fallen = llama.generate(**given, custom_generate=radar_generate("pocket", folder))
        assert torch.equal(fallen, expected)
        allowed = radar_generate("pocket", folder, allow_other_pair=True)
        assert torch.equal(llama.generate(**given, custom_generate=allowed), expected)


def test_an_unknown_policy_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        radar_generate("pocket", "nowhere")


@pytest.mark.parametrize("policy", [None, 5, StaticDepth, object()])
def test_what_is_no_policy_is_refused_before_anything_is_generated(policy: Any) -> None:
    with pytest.raises(ConfigError, match="policy: expected one, such as load_policy"):
        radar_generate("pocket", policy)
