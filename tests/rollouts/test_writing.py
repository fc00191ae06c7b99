"""Texts that the target writes are its own, conversations included; texts that are given are used as they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radar_rl.errors import InputError
from radar_rl.rollouts import LiveTexts, Prompt, sequence_seed
from radar_rl.rollouts.tasks import Skipped
from radar_rl.rollouts.writing import Work, WrittenText, _decoder, given_texts, write_texts
from radar_rl.runtime import autoregressive
from radar_rl.speculative import Pair, load_pair

TALKS = [
    Prompt("talk", "one", text="Name a colour.", later_turns=("Why that one?", "And another?")),
    Prompt("talk", "two", text="Tom has 4 boxes with 12 pens each. How many pens?"),
    Prompt("talk", "three", text="What is bread made of?", later_turns=("How long does it rise?",)),
]


def works(pair: Pair, samples: int = 1) -> list[Work]:
    return [Work(prompt, tuple(prompt.encode(pair)), n) for prompt in TALKS for n in range(samples)]


def alone(pair: Pair, prompt_ids: tuple[int, ...], seed: int, **options: Any) -> tuple[int, ...]:
    return tuple(autoregressive(pair, prompt_ids, seed=seed, **options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("texts_per_batch", [1, 2, 32])
def test_every_turn_is_the_targets_own_answer_to_the_conversation(
    pocket: Pair, temperature: float, texts_per_batch: int
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature}
    texts, skipped = write_texts(pocket, works(pocket), seed=5, texts_per_batch=texts_per_batch, **options)
    assert skipped == []
    assert [text.sequence_id for text in texts] == [
        *(f"talk/one/0/{turn}" for turn in range(3)),
        "talk/two/0/0",
        *(f"talk/three/0/{turn}" for turn in range(2)),
    ]
    said: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        prompt = text.work.prompt
        messages = said.setdefault(prompt.prompt_id, [])
        messages.append({"role": "user", "content": [prompt.text, *prompt.later_turns][text.turn]})
        assert list(text.prompt_ids) == pocket.encode_messages(messages)
        seed = sequence_seed(5, prompt.prompt_id, 0)
        assert text.seed == seed
        assert text.completion_ids == alone(pocket, text.prompt_ids, seed, **options)
        ids = [i for i in text.completion_ids if i not in pocket.eos_token_ids]
        messages.append({"role": "assistant", "content": pocket.tokenizer.decode(ids)})


def test_samples_of_a_conversation_differ_and_repeat(pocket: Pair) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "texts_per_batch": 4}
    texts, _ = write_texts(pocket, works(pocket, samples=2), **options)
    assert [text.work.sample for text in texts[:6]] == [0, 0, 0, 1, 1, 1]
    assert len({text.completion_ids for text in texts}) == len(texts) == 12
    assert write_texts(pocket, works(pocket, samples=2), **options)[0] == texts


def test_a_turn_that_no_longer_fits_is_skipped_never_cut(pocket: Pair) -> None:
    talk = works(pocket)[0]
    written, _ = write_texts(pocket, [talk], max_new_tokens=16)
    room = len(written[1].prompt_ids) + 16 - 1  # one token too few for the second turn
    short = replace(pocket, max_positions=room)
    texts, skipped = write_texts(short, works(pocket)[:2], max_new_tokens=16)
    assert [text.sequence_id for text in texts] == ["talk/one/0/0", "talk/two/0/0"]
    reason = f"{room - 15} tokens + 16 new ones exceed the context of {room}"
    assert skipped == [Skipped("talk", "one", 1, reason), Skipped("talk", "one", 2, "turn 1 was skipped")]


def test_live_texts_are_the_written_ones(pocket: Pair, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    written, _ = write_texts(pocket, works(pocket, samples=2), **options)
    texts = LiveTexts(pocket, TALKS, samples=2, **options)
    names = [texts.name(index).sequence_id for index in range(len(texts))]
    assert names == [text.sequence_id for text in written]
    for index in (11, 2, 0, 5, 7):  # in any order
        session = texts.open(index)
        while not session.finished:
            session.begin()
            session.verify()
        assert tuple(session.session.token_ids) == written[index].completion_ids  # type: ignore[attr-defined]
    assert len({texts.fingerprint(index) for index in range(len(texts))}) == 3  # of what the user says
    assert not caplog.records


def test_a_live_turn_that_does_not_fit_is_finished_at_once(pocket: Pair, caplog: pytest.LogCaptureFixture) -> None:
    first = write_texts(pocket, works(pocket)[:1], max_new_tokens=16)[0][1]
    short = replace(pocket, max_positions=len(first.prompt_ids) + 15)
    texts = LiveTexts(short, TALKS[:2], max_new_tokens=16)
    sessions = [texts.open(index) for index in range(len(texts))]
    assert [session.finished for session in sessions] == [False, True, True, False]
    assert "talk, prompt one, turn 1: passed over" in caplog.text
    assert [one.turn for one in texts.skipped] == [1, 2]
    batch = texts.open_batch([1, 0, 2, 3])
    assert batch.active == [1, 3]
    assert texts.open_batch([1, 2]).active == []
    with pytest.raises(RuntimeError, match="does not fit"):
        sessions[1].begin()


def test_many_texts_draft_little_each(pocket: Pair) -> None:
    shapes = {n: (d.max_depth, d.tree_size) for n in (1, 2, 8, 11, 12, 32, 500) for d in [_decoder(pocket, n)]}
    assert shapes == {1: (4, 60), 2: (4, 60), 8: (4, 16), 11: (4, 11), 12: (1, 10), 32: (1, 4), 500: (1, 4)}


def test_a_pair_without_tokenizer_answers_ids_alone(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    prompt = Prompt("ids", "a", token_ids=(3, 5, 7))
    texts, _ = write_texts(pair, [Work(prompt, (3, 5, 7), 0)], max_new_tokens=6)
    assert texts[0].completion_ids == alone(pair, (3, 5, 7), 0, max_new_tokens=6)
    with pytest.raises(InputError, match=r"talk, prompt one: the target's folder has no tokenizer"):
        works(pair)
    talk = replace(prompt, later_turns=("there",))
    with pytest.raises(InputError, match=r"ids, prompt a: a conversation needs text and a target with a tokenizer"):
        write_texts(pair, [Work(talk, (3, 5, 7), 0)], max_new_tokens=6)


def test_given_texts_are_used_as_they_are(pocket: Pair) -> None:
    prompts = [
        Prompt("log", "words", text="How many?", completion=" Seven, I think."),
        Prompt("log", "ids", token_ids=(5, 6, 7), completion_ids=(9, 1, 4000)),
        Prompt("log", "mixed", token_ids=(5, 6, 7), completion="Seven."),
        Prompt("log", "long", token_ids=(5,) * 1000, completion_ids=(9,) * 25),
    ]
    texts, skipped = given_texts(pocket, prompts)
    words = tuple(pocket.tokenizer(" Seven, I think.", add_special_tokens=False)["input_ids"])
    first = tuple(pocket.encode_prompt("How many?"))
    assert texts[0] == WrittenText(Work(prompts[0], first, 0), 0, first, words, None)
    assert pocket.tokenizer.decode(words) == " Seven, I think."
    assert texts[1].token_ids == (5, 6, 7, 9, 1, 4000)
    assert [text.sequence_id for text in texts] == ["log/words/0/0", "log/ids/0/0", "log/mixed/0/0"]
    assert skipped == [Skipped("log", "long", 0, "1000 tokens + 25 new ones exceed the context of 1024")]
    with pytest.raises(InputError, match="no text fits: 1000 tokens"):
        given_texts(pocket, prompts[3:])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt("log", "a", token_ids=(1,), completion_ids=(4096,)), "log, prompt a: completion: token id 4096"),
        (Prompt("log", "a", token_ids=(-1,), completion_ids=(4,)), "prompt a: prompt: token id -1 is outside"),
        (Prompt("log", "a", token_ids=(1,)), "no completion"),
        (Prompt("log", "a", text=" ", completion_ids=(4,)), "empty prompt"),
    ],
)
def test_bad_given_texts_are_named(pocket: Pair, prompt: Prompt, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given_texts(pocket, [prompt])


def test_words_without_a_tokenizer_are_named(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    with pytest.raises(InputError, match="give completion_ids instead"):
        given_texts(pair, [Prompt("log", "a", token_ids=(3,), completion="Seven.")])
