"""Loading a target and its draft head, strictly: what does not fit is an error here, never a worse draft later."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel
from transformers.utils import logging

from radar_rl.errors import CheckpointError, InputError
from radar_rl.speculative.checkpoints import identity, local_folder, read_config, read_tensors
from radar_rl.speculative.fast import speed_up
from radar_rl.speculative.heads import DraftHead, Eagle2Head, Eagle3Head
from radar_rl.speculative.target import Target

POCKET = {"pocket": "draft", "pocket-eagle2": "draft_eagle2"}


@dataclass(frozen=True)
class Pair:
    """A target and a draft head that fit each other.

    Attributes:
        target, head: the models, on one device.
        tokenizer: the target's, None where its folder has none.
        eos_token_ids: tokens that end a text.
        max_positions: context length in tokens.
        target_identity, draft_identity: ``NAME@HASH`` of each model's weights.
        inflated: the shape that the pair was inflated to, in words; empty for its own (see ``inflate_pair``).
    """

    target: Target
    head: DraftHead
    tokenizer: Any
    eos_token_ids: frozenset[int]
    max_positions: int
    target_identity: str
    draft_identity: str
    inflated: str = ""

    @property
    def label(self) -> str:
        """What tables and profiles call the pair: the target's identity, and the shape if that is not its own."""
        return self.target_identity + self.inflated

    def check_prompt(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        """Refuse a prompt that cannot be decoded.

        Raises:
            InputError: it is empty, holds ids outside the vocabulary, or leaves no room for ``max_new_tokens``.
        """
        if len(prompt_ids) == 0:
            raise InputError("empty prompt: expected at least one token")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        low, high = min(prompt_ids), max(prompt_ids)
        if low < 0 or high >= self.target.vocab_size:
            outside = low if low < 0 else high
            raise InputError(f"prompt: token id {outside} is outside the vocabulary of {self.target.vocab_size}")
        if len(prompt_ids) + max_new_tokens > self.max_positions:
            raise InputError(
                f"prompt too long: {len(prompt_ids)} tokens + {max_new_tokens} new ones exceed the context of "
                f"{self.max_positions}; shorten the prompt or lower max_new_tokens"
            )

    def check_shape(self, max_depth: int, top_k: int, tree_size: int) -> None:
        """Refuse a draft tree that the head cannot grow.

        Raises:
            InputError: a number is out of range.
        """
        most = len(self.head.draft_to_target)
        if max_depth < 1 or not 1 <= top_k <= most or not 2 <= tree_size <= most + 1:
            raise InputError(
                f"expected max_depth ≥ 1, top_k in 1 … {most} and tree_size in 2 … {most + 1} (the draft vocabulary), "
                f"got {max_depth}, {top_k}, {tree_size}"
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
) -> Pair:
    """Load a target and its draft head.

    Args:
        target: a folder in the Hugging Face layout, a Hub id, or ``pocket``, the embedded target.
        draft: likewise; ``pocket`` and ``pocket-eagle2`` are the embedded heads. None: the head of the same name.
        dtype: what both compute in.
        device: where both live.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape than the target asks for.
        InputError: no such folder or Hub id.
    """
    draft = target if draft is None else draft
    target_folder, draft_folder = _folder(target, "target"), _folder(draft, POCKET.get(str(draft), "draft"))
    head_values, tensors = read_config(draft_folder), read_tensors(draft_folder)
    eagle3 = any(name.startswith("midlayer.") for name in tensors)
    if not eagle3 and "layers.0.hidden_norm.weight" in tensors:
        raise CheckpointError(f"{draft_folder.name}: an EAGLE-3 head in a layout not read yet; expected SafeAILab's")
    model = _load_target(target_folder, dtype, device)
    wrapped = Target(model, eagle3=eagle3)
    head = _build_head(head_values, tensors, wrapped, eagle3)
    head = head.to(device=device, dtype=dtype).eval().requires_grad_(False)
    head.join()
    speed_up(model)
    target_identity, draft_identity = pair_identities(target, draft)
    tokenizer = None
    if (target_folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(target_folder)
    return Pair(
        target=wrapped,
        head=head,
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(model),
        max_positions=int(model.config.max_position_embeddings),
        target_identity=target_identity,
        draft_identity=draft_identity,
    )


def pair_identities(target: str | Path, draft: str | Path) -> tuple[str, str]:
    """``NAME@HASH`` of both models' weights, without loading them; names as ``load_pair`` takes them."""
    folders = (_folder(target, "target"), _folder(draft, POCKET.get(str(draft), "draft")))
    named = [
        str(name) if str(name) in POCKET else folder.name for name, folder in zip((target, draft), folders, strict=True)
    ]
    return identity(named[0], folders[0]), identity(named[1], folders[1])


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


def _build_head(values: dict[str, Any], tensors: dict[str, torch.Tensor], target: Target, eagle3: bool) -> DraftHead:
    """The head that config and tensors describe, with every tensor placed.

    Args:
        tensors: name → tensor; emptied as they are used.
    """
    try:
        config = LlamaConfig(
            **{key: value for key, value in values.items() if key not in ("architectures", "model_type")}
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"draft head: config.json describes no Llama layer ({error})") from error
    target_embeddings = target.model.get_input_embeddings().weight
    # A head reads positions up to the target's context, whatever its own config remembers of training.
    config.max_position_embeddings = max(config.max_position_embeddings, target.model.config.max_position_embeddings)
    head: DraftHead
    if eagle3:
        head = Eagle3Head(config, values.get("target_hidden_size", target.hidden_size), target.vocab_size)
    else:
        head = Eagle2Head(config, target.hidden_size, target.vocab_size)
        head.target_logits = target.logits
    tensors = dict(tensors)
    offsets, used = tensors.pop("d2t", None), tensors.pop("t2d", None)
    if eagle3 and offsets is not None:
        head.draft_to_target = _draft_vocabulary(offsets, used, target.vocab_size)
    elif eagle3 and len(head.draft_to_target) != target.vocab_size:
        raise CheckpointError("draft head: missing tensor d2t, which a reduced draft vocabulary needs")
    tensors.setdefault("embed_tokens.weight", target_embeddings.detach())
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise CheckpointError(f"draft head: missing tensors {missing}, unexpected tensors {unexpected}")
    misfits = [
        f"{name}: expected {list(shape)}, got {list(tensors[name].shape)}"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    if misfits:
        raise CheckpointError(f"draft head does not fit its config or the target: {'; '.join(misfits)}")
    head.load_state_dict(tensors, strict=True)
    return head


def _draft_vocabulary(offsets: torch.Tensor, used: torch.Tensor | None, vocab_size: int) -> torch.Tensor:
    """Target token ids of the draft vocabulary; ``d2t`` holds offsets (target = draft + d2t[draft])."""
    ids = torch.arange(len(offsets)) + offsets.to(torch.int64)
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size or len(ids.unique()) != len(ids):
        raise CheckpointError(
            f"draft head: d2t maps the draft vocabulary to ids {int(ids.min())} … {int(ids.max())}; expected distinct "
            f"ids below the target's {vocab_size}"
        )
    if used is not None and (len(used) != vocab_size or not torch.equal(used.nonzero()[:, 0], ids.sort().values)):
        raise CheckpointError("draft head: t2d and d2t name different tokens")
    return ids


def _eos_token_ids(model: PreTrainedModel) -> frozenset[int]:
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = model.config.eos_token_id
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)
