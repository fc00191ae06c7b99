"""A pair of a model that someone else loaded, and goes on using, with a draft head: made once for each model and kept.

Nothing here keeps the model alive, and between two generations it is as its owner left it.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from radar_rl.errors import CheckpointError
from radar_rl.speculative.checkpoints import identity
from radar_rl.speculative.formats import read_head
from radar_rl.speculative.heads import DraftHead, Eagle2Head, Eagle3Head
from radar_rl.speculative.pair import Pair, build_head, head_checkpoint, head_identity
from radar_rl.speculative.same_text import check_logits, own_logits
from radar_rl.speculative.target import Target

Head = str | Path | DraftHead


@dataclass
class _Loan:
    """What is kept for a model; one thread at a time uses it, which may generate within a generation."""

    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    pairs: dict[str | DraftHead, Pair] = field(default_factory=dict)


_loans: WeakKeyDictionary[PreTrainedModel, _Loan] = WeakKeyDictionary()
_opening = threading.Lock()


@contextmanager
def lent_pair(model: PreTrainedModel, head: Head) -> Iterator[Pair]:
    """The pair of a model and a head, its passes ready for draft trees while this lasts.

    The model decodes as in evaluation mode, with attention of ours; both are undone at the end. A second thread waits.

    Args:
        model: a decoder-only language model of transformers, on one device.
        head: a folder, a Hub id, ``pocket`` or ``pocket-eagle2``, or a head that was loaded with the model's weights.

    Raises:
        CheckpointError: the head and the model don't fit each other, no tree can go through the model, or its own
            logits are not those of its layers and output layer alone.
        InputError: no such folder or Hub id.
    """
    with _opening:
        loan = _loans.setdefault(model, _Loan())
    key = head if isinstance(head, DraftHead) else str(head)
    with loan.lock, _evaluating(model):
        pair = loan.pairs.get(key)
        if pair is None or not _is_of(pair, model):
            pair = loan.pairs[key] = _pair_of(model, head)
        with pair.target.borrowed():
            yield pair


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, module by module, as some may be in it already."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _is_of(pair: Pair, model: PreTrainedModel) -> bool:
    """Whether a pair is still the model's: it may have been moved, cast or resized since."""
    target, weight = pair.target, next(pair.head.parameters())
    return (
        target.decoder is model.get_decoder()
        and target.output_layer is model.get_output_embeddings()
        and target.vocab_size == model.config.vocab_size
        and (weight.device, weight.dtype) == (model.device, model.dtype)
    )


def _pair_of(model: PreTrainedModel, head: Head) -> Pair:
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise CheckpointError(f"{type(model).__name__}: expected all weights on one device, got {', '.join(devices)}")
    if isinstance(head, DraftHead):
        target = Target(model, eagle3=isinstance(head, Eagle3Head), lent=True)
        placed, name = _placed(head, target), ""
    else:
        checkpoint = read_head(head_checkpoint(head))
        target = Target(model, eagle3=checkpoint.format != "eagle2", lent=True)
        placed, name = build_head(checkpoint, target), head_identity(head)
    own = own_logits(model)
    with target.borrowed():
        check_logits(target, own)
    folder = Path(model.config.name_or_path or "?")
    return Pair(
        target=target,
        head=placed,
        tokenizer=None,
        eos_token_ids=frozenset(),  # the generation's own count
        max_positions=int(model.config.max_position_embeddings),
        target_identity=identity(folder.name, folder) if folder.is_dir() else "",
        draft_identity=name,
    )


def _placed(head: DraftHead, target: Target) -> DraftHead:
    """A loaded head, to draft for this target.

    Raises:
        CheckpointError: it's made for another target, or lies elsewhere.
    """
    here, there = next(head.parameters()), target.model
    width = target.hidden_size * (1 if isinstance(head, Eagle2Head) else 3)
    for what, expected, got in (
        ("width of the target's features", width, head.feature_size),
        ("vocabulary", target.vocab_size, head.embed_tokens.num_embeddings),
        ("device", there.device, here.device),
        ("dtype", there.dtype, here.dtype),
    ):
        if expected != got:
            raise CheckpointError(f"draft head: {what}: expected the model's {expected}, got {got}")
    if isinstance(head, Eagle2Head):
        head = copy.copy(head)  # whose weights stay shared
        head.target_logits = target.logits
    return head
