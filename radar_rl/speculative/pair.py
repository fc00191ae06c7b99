"""Loading a target and its draft head, strictly: what does not fit is an error here, never a worse draft later."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from radar_rl.errors import CheckpointError, InputError, check_whole
from radar_rl.speculative.checkpoints import identity, local_folder, read_config
from radar_rl.speculative.fast import speed_up
from radar_rl.speculative.formats import (
    VOCABULARY_TENSORS,
    HeadCheckpoint,
    check_fit,
    check_tensors,
    draft_vocabulary,
    read_head,
)
from radar_rl.speculative.graphs import Arena, cuda_capture
from radar_rl.speculative.heads import DraftHead, Eagle2Head, Eagle3Head
from radar_rl.speculative.same_text import check_kind, check_logits, own_logits
from radar_rl.speculative.target import Target

log = getLogger(__name__)

# Of a generation config, what changes greedy texts.
PROCESSORS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)

POCKET = {"pocket": "draft", "pocket-eagle2": "draft_eagle2"}


@dataclass(frozen=True)
class Pair:
    """A target and a draft head that fit each other.

    One thread decodes with a pair at a time. Its weights stay as they were loaded: on a CPU, copies of them are in use.

    Attributes:
        target, head: the models, on one device.
        tokenizer: the target's, None where its folder has none.
        eos_token_ids: tokens that end a text.
        max_positions: context length in tokens.
        target_identity, draft_identity: ``NAME@HASH`` of each model's weights.
        architecture: the family that the target was written in, in words; empty for its own (see ``qwen2_pair``).
        inflated: the shape that the pair was inflated to, in words; empty for its own (see ``inflate_pair``).
        arena: lends caches to texts; says whether passes over trees are captured (``with_graphs``).
    """

    target: Target = field(repr=False)
    head: DraftHead = field(repr=False)
    tokenizer: Any
    eos_token_ids: frozenset[int]
    max_positions: int
    target_identity: str
    draft_identity: str
    architecture: str = ""
    inflated: str = ""
    arena: Arena = field(default_factory=Arena, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pair":
        """Itself: Gymnasium copies an environment's arguments, and a pair holds gigabytes that nobody changes."""
        return self

    @property
    def label(self) -> str:
        """What tables and profiles call the pair: the target's identity, and what is not its own, family and shape."""
        return self.target_identity + self.architecture + self.inflated

    def with_graphs(self) -> "Pair":
        """The pair with its passes over trees captured as CUDA graphs, a launch each; on a CPU the pair as it is."""
        if self.target.device.type != "cuda":
            log.warning("cuda_graphs: the pair is on %s; its passes run operation by operation", self.target.device)
            return self
        return replace(self, arena=Arena(cuda_capture))

    def check_prompt(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        """Refuse a prompt that cannot be decoded.

        Args:
            prompt_ids: token ids, flat.
            max_new_tokens: how many follow at most.

        Raises:
            InputError: it is empty, no list of whole numbers, holds ids outside the vocabulary, or leaves no room for
                ``max_new_tokens``.
        """
        try:
            ids = np.asarray(prompt_ids)
        except (ValueError, TypeError):  # rows of different lengths, a tensor on another device
            ids = np.empty((0, 0))
        if ids.shape == (0,):
            raise InputError("empty prompt: expected at least one token")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"prompt: expected a flat list of token ids (whole numbers), got {prompt_ids!r:.80}")
        check_whole("max_new_tokens", max_new_tokens, 1)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.target.vocab_size:
            outside = low if low < 0 else high
            raise InputError(f"prompt: token id {outside} is outside the vocabulary of {self.target.vocab_size}")
        if len(prompt_ids) + max_new_tokens > self.max_positions:
            raise InputError(
                f"prompt too long: {len(prompt_ids)} tokens + {max_new_tokens} new ones exceed the context of "
                f"{self.max_positions}; shorten the prompt or lower max_new_tokens"
            )

    def check_shape(self, max_depth: int, top_k: int, tree_size: int, widen_first_level: bool) -> None:
        """Refuse a draft tree that the head cannot grow.

        Args:
            max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
            widen_first_level: whether the first level may hold more than ``top_k`` nodes.

        Raises:
            InputError: a number is out of range.
        """
        check_whole("max_depth", max_depth, 1)
        check_whole("top_k", top_k, 1)
        check_whole("tree_size", tree_size, 2)
        most = len(self.head.draft_to_target)
        if top_k > most:
            raise InputError(f"top_k: expected at most {most}, the draft vocabulary, got {top_k}")
        if widen_first_level and tree_size > most + 1:
            raise InputError(
                f"tree_size: a widened first level holds at most {most + 1} nodes, the root and the draft vocabulary; "
                f"got {tree_size}"
            )

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a user's message: through the chat template if the tokenizer has one, else as plain text.

        Raises:
            InputError: the pair has no tokenizer, or the text is empty.
        """
        return self.encode_messages([{"role": "user", "content": text}])

    def encode_messages(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that awaits the assistant's turn.

        Raises:
            InputError: the pair has no tokenizer, or the last message is empty.
        """
        if self.tokenizer is None:
            raise InputError("the target's folder has no tokenizer: pass prompt_ids instead of text")
        if not messages or not messages[-1]["content"].strip():
            raise InputError("empty prompt: expected some text")
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer("\n".join(message["content"] for message in messages))["input_ids"])
        encoded = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=True, return_tensors=None
        )
        return list(encoded["input_ids"])


def load_pair(
    target: str | Path = "pocket",
    draft: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    cuda_graphs: bool = False,
) -> Pair:
    """Load a target and its draft head.

    Args:
        target: a folder in the Hugging Face layout, a Hub id, or ``pocket``, the embedded target.
        draft: likewise; ``pocket`` and ``pocket-eagle2`` are the embedded heads. None: the head of the same name. Any
            format of ``radar_rl.speculative.formats``.
        dtype: what both compute in.
        device: where both live.
        cuda_graphs: capture the draft call at each depth and the verification of full trees, see ``Pair.with_graphs``.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape than the target asks for; the target is no
            decoder of text, no tree can go through it, or its logits are more than its output layer of its layers.
        InputError: no such folder, Hub id, dtype or device.
    """
    draft = target if draft is None else draft
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"dtype: expected a torch.dtype such as torch.float32, got {dtype!r}")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device: {str(error).splitlines()[0]}") from error
    target_folder = target_checkpoint(target)
    checkpoint = read_head(head_checkpoint(draft))
    model = _load_target(target_folder, dtype, device)
    check_kind(model)
    own = own_logits(model)
    wrapped = Target(model, eagle3=checkpoint.format != "eagle2")
    head = build_head(checkpoint, wrapped)
    speed_up(model)
    check_logits(wrapped, own)
    _say_what_is_not_applied(model)
    target_identity, draft_identity = pair_identities(target, draft)
    tokenizer = None
    if (target_folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(target_folder)
    pair = Pair(
        target=wrapped,
        head=head,
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(model),
        max_positions=int(model.config.max_position_embeddings),
        target_identity=target_identity,
        draft_identity=draft_identity,
    )
    return pair.with_graphs() if cuda_graphs else pair


def stock_target(pair: Pair, target: str | Path) -> PreTrainedModel:
    """A pair's target once more, as transformers itself loads it, nothing of it replaced: what to compare with.

    Args:
        target: as ``load_pair`` took it.
    """
    model = _load_target(target_checkpoint(target), pair.target.model.dtype, pair.target.device)
    model.eval()
    return model


def pair_identities(target: str | Path, draft: str | Path) -> tuple[str, str]:
    """``NAME@HASH`` of both models' weights, without loading them; names as ``load_pair`` takes them."""
    return _identity(target, target_checkpoint(target)), head_identity(draft)


def head_identity(draft: str | Path) -> str:
    """``NAME@HASH`` of a head's weights, without loading them."""
    return _identity(draft, head_checkpoint(draft))


def _identity(name: str | Path, folder: Path) -> str:
    # A Hub id lies in a folder that is called by its commit.
    known = str(name) in POCKET or not Path(name).is_dir()
    return identity(str(name) if known else folder.name, folder)


def target_checkpoint(name: str | Path) -> Path:
    """The folder of a target: a path, a Hub id or ``pocket``."""
    return _folder(name, "target")


def head_checkpoint(name: str | Path) -> Path:
    """The folder of a draft head: a path, a Hub id, ``pocket`` or ``pocket-eagle2``."""
    return _folder(name, POCKET.get(str(name), "draft"))


def _folder(name: str | Path, part: str) -> Path:
    if str(name) in POCKET:
        return Path(str(importlib.resources.files("radar_rl.zoo"))) / "pocket" / part
    return local_folder(name)


def _load_target(folder: Path, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    read_config(folder)  # a folder without config.json gets our error, not a traceback from afar
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # a bar a load is noise in a decode loop
    logging.set_verbosity(CRITICAL)  # what does not fit is our error below, in one line
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
        )
        model, report = loaded
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the target does not load ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    wrong = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys") if report.get(kind)}
    if report.get("mismatched_keys"):
        wrong["mismatched_keys"] = [str(entry) for entry in report["mismatched_keys"]]
    if wrong:
        raise CheckpointError(f"{folder.name}: the target's checkpoint does not fit its config: {wrong}")
    moved: PreTrainedModel = model.to(device)
    return moved


def build_head(checkpoint: HeadCheckpoint, target: Target) -> DraftHead:
    """The head that a checkpoint describes, with every tensor placed, beside the target and in its dtype.

    Raises:
        CheckpointError: it doesn't fit the target, or its tensors don't fit its config.
    """
    described, tensors = checkpoint.description, dict(checkpoint.tensors)
    config = described.llama_config()
    check_fit(described, target.vocab_size, target.hidden_size, len(target.decoder.layers))
    if config.hidden_size != target.hidden_size and "embed_tokens.weight" not in tensors:
        raise CheckpointError(
            f"draft head: missing tensor embed_tokens.weight: the target's embeddings are {target.hidden_size} wide, "
            f"the head's hidden size is {config.hidden_size}"
        )
    target_embeddings = target.model.get_input_embeddings().weight
    # A head reads positions up to the target's context, whatever its own config remembers of training.
    config.max_position_embeddings = max(config.max_position_embeddings, target.model.config.max_position_embeddings)
    head: DraftHead
    if checkpoint.format == "eagle2":
        head = Eagle2Head(config, target.hidden_size, target.vocab_size)
        head.target_logits = target.logits
    else:
        head = Eagle3Head(config, target.hidden_size, target.vocab_size, described.options)
        head.draft_to_target = draft_vocabulary(described, tensors)
        for name in VOCABULARY_TENSORS:
            tensors.pop(name, None)
    tensors.setdefault("embed_tokens.weight", target_embeddings.detach())
    check_tensors(head, tensors)
    head.load_state_dict(tensors, strict=True)
    head = head.to(device=target.device, dtype=target.model.dtype).eval().requires_grad_(False)
    head.join()
    return head


def _say_what_is_not_applied(model: PreTrainedModel) -> None:
    """Warn of what ``generate`` would do to logits by the target's own configuration, and decoding here does not."""
    told = model.generation_config
    found = [
        f"{name}={getattr(told, name)}" for name in PROCESSORS if getattr(told, name, None) not in (None, 0, 1, 1.0, [])
    ]
    if found:
        log.warning("generation_config: not applied, texts are those of generate without it: %s", ", ".join(found))


def _eos_token_ids(model: PreTrainedModel) -> frozenset[int]:
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = model.config.eos_token_id
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)
