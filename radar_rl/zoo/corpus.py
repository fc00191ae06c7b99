"""Text for training a pair: sets of JSON lines rendered as chats, mixed by epochs, packed into blocks.

A set is ``NAME/train.jsonl[.gz]`` in a folder. Its rows hold ``text``, or ``prompt`` and ``answer`` with an optional
``context``. ``python_functions`` is derived from ``text_python``: signature and docstring are the prompt, the body is
the answer, the shape of HumanEval.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from radar_rl.errors import InputError
from radar_rl.jsonl import read_jsonl
from radar_rl.rollouts.tasks import split_file
from radar_rl.speculative.prompts import user_message

BOS, EOS, PAD, USER, ASSISTANT = "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Document:
    """One training text. ``prompt`` is None for plain text, whose words are then all in ``answer``."""

    source: str
    prompt: str | None
    answer: str

    def render(self) -> str:
        """The document as the tokenizer sees it, special tokens included."""
        if self.prompt is None:
            return f"{BOS}{self.answer}{EOS}"
        return f"{BOS}{USER}{self.prompt}{ASSISTANT}{self.answer}{EOS}"


def split_path(folder: Path, name: str, split: str) -> Path:
    """``folder/name/split.jsonl`` or its gzipped form.

    Raises:
        InputError: neither is there.
    """
    path = split_file(folder, name, split)
    if path is None:
        raise InputError(
            f"no set {name!r} with split {split!r} in {folder}: expected {name}/{split}.jsonl or .jsonl.gz"
        )
    return path


def documents(folder: Path, name: str, split: str = "train") -> Iterator[Document]:
    """The documents of one set."""
    if name == "python_functions":
        for row in read_jsonl(split_path(folder, "text_python", split)):
            yield from _python_functions(row["text"])
        return
    for row in read_jsonl(split_path(folder, name, split)):
        if "text" in row:
            yield Document(name, None, row["text"])
        else:
            yield Document(name, user_message(row), str(row["answer"]))


def _python_functions(text: str) -> Iterator[Document]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # a chunk of a file that does not stand on its own
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2 or ast.get_docstring(node) is None:
            continue
        first, last = node.body[1].lineno, node.body[-1].end_lineno
        if node.col_offset == 0 and last is not None and last - first < 40 and first - node.lineno < 40:
            prompt = "\n".join(lines[node.lineno - 1 : first - 1])
            yield Document("python_functions", prompt + "\n", "\n".join(lines[first - 1 : last]) + "\n")


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with single-digit numbers and the pocket chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BOS, EOS, PAD, USER, ASSISTANT]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, specials.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, rendered: list[str]) -> list[list[int]]:
    """Token ids of rendered documents, whose special tokens are already in the text."""
    return [list(ids) for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"]]


def packed_blocks(
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    epochs: Mapping[str, float],
    block: int,
    seed: int,
) -> NDArray[np.uint16]:
    """The mixture as rows of ``block`` tokens, documents shuffled and laid end to end.

    Args:
        epochs: how often each set is seen; a fraction takes that share of its documents.

    Returns:
        [rows, block] uint16.
    """
    generator = np.random.default_rng(seed)
    chosen: list[list[int]] = []
    for name, share in epochs.items():
        ids = encode(tokenizer, [document.render() for document in documents(folder, name)])
        whole, part = int(share), share - int(share)
        chosen.extend(ids * whole)
        chosen.extend(ids[i] for i in np.flatnonzero(generator.random(len(ids)) < part))
    order = generator.permutation(len(chosen))
    flat = np.concatenate([np.asarray(chosen[i], dtype=np.uint16) for i in order])
    rows = len(flat) // block
    if rows == 0:
        raise InputError(f"the text in {folder} fills no block of {block} tokens; add text or shorten the block")
    return flat[: rows * block].reshape(rows, block)
