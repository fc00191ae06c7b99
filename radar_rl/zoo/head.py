"""Training a draft head with training-time test (EAGLE-3, arXiv 2503.01840, §3).

The head is fed its own outputs for several steps, as drafting will feed it, and learns the target's distribution over
a reduced vocabulary at each.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from radar_rl.speculative.heads import DraftHead, Eagle2Head, Eagle3Head
from radar_rl.speculative.target import Target
from radar_rl.zoo.texts import Texts
from radar_rl.zoo.training import Pace, run_steps


@dataclass(frozen=True)
class HeadTraining:
    """Settings of a head's training.

    Attributes:
        steps: optimizer steps; each reads about ``batch_tokens`` tokens.
        unroll: steps of training-time test; step j weighs ``decay`` ** j.
        prompt_share: share of prompt positions trained on besides all of the completion's.
    """

    steps: int = 800
    batch_tokens: int = 4096
    max_length: int = 512
    unroll: int = 6
    decay: float = 0.9
    prompt_share: float = 0.2
    learning_rate: float = 3e-3
    warmup: int = 40
    weight_decay: float = 0.05
    draft_vocab_size: int = 2048
    intermediate_size: int = 768
    save_every: int = 100
    seed: int = 0


def training_time_test(
    head: DraftHead, features: Tensor, token_ids: Tensor, unroll: int
) -> Iterator[tuple[Tensor, int]]:
    """The head's outputs at each step of training-time test.

    At step j the slot i holds, in place of the target's features at token i + j, the head's own output of step j − 1,
    beside the embedding of token i + 1 + j. It attends to the true slots up to i and to its own later outputs, as the
    nodes of a drafted path do.

    Args:
        features: [B, T, feature_size].
        token_ids: [B, T].

    Yields:
        hidden [B, T − 1, hidden] whose logits predict token i + 2 + j, and j.
    """
    slots = token_ids.shape[1] - 1
    padded = F.pad(token_ids, (0, unroll))
    causal = torch.ones(slots, slots, dtype=torch.bool).tril()
    hidden = head.condition(features[:, :-1])
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        group = query.shape[1] // key.shape[1]
        keys.append(key.repeat_interleave(group, dim=1))
        values.append(value.repeat_interleave(group, dim=1))
        if len(keys) == 1:
            return F.scaled_dot_product_attention(query, keys[0], values[0], is_causal=True)
        scale = query.shape[-1] ** -0.5
        to_text = (query @ keys[0].transpose(2, 3) * scale).masked_fill(~causal, float("-inf"))
        to_own = torch.stack([(query * own).sum(-1) * scale for own in keys[1:]], dim=-1)
        weights = torch.cat((to_text, to_own.to(to_text.dtype)), dim=-1).softmax(dim=-1)
        mixed = weights[..., :slots] @ values[0].to(weights.dtype)
        for i, own in enumerate(values[1:]):
            mixed = mixed + weights[..., slots + i, None] * own
        return mixed

    for j in range(unroll):
        positions = (torch.arange(slots) + j)[None]
        hidden = head.layer(hidden, padded[:, 1 + j : 1 + j + slots], positions, attend)
        yield hidden, j


def distillation_loss(
    head: DraftHead, target: Target, token_ids: Tensor, weights: Tensor, settings: HeadTraining
) -> tuple[Tensor, list[float]]:
    """Cross-entropy to the target's distribution over the draft vocabulary, summed over the steps.

    Positions whose most likely token the draft vocabulary lacks are left out, as EAGLE-3 does.

    Args:
        token_ids: [B, T], padded with 0.
        weights: [B, T] bool: at which tokens a prediction counts.

    Returns:
        The loss and each step's accuracy (draft argmax = target argmax, over all counted positions).
    """
    vocabulary = head.draft_to_target
    with torch.no_grad():
        target_hidden, features = _teacher(target, token_ids)
        teacher = target.logits(target_hidden)  # [B, T, vocabulary]
        best = teacher.argmax(dim=-1)
        wanted = teacher[..., vocabulary].softmax(dim=-1)  # [B, T, draft vocabulary]
        known = torch.zeros(target.vocab_size, dtype=torch.bool).index_fill_(0, vocabulary, True)[best]
    slots = token_ids.shape[1] - 1
    total = torch.zeros(())
    accuracy = []
    for hidden, j in training_time_test(head, features, token_ids, settings.unroll):
        # Slot i predicts token i + 2 + j; the target's word on it stands at index i + 1 + j.
        reach = slots - 1 - j
        counted = weights[:, 2 + j : 2 + j + reach]
        there = slice(1 + j, 1 + j + reach)
        learned = counted & known[:, there]
        scores = head.logits(hidden[:, :reach][learned]).float()
        loss = -(wanted[:, there][learned] * scores.log_softmax(dim=-1)).sum(dim=-1).mean()
        total = total + settings.decay**j * loss
        right = (vocabulary[scores.argmax(dim=-1)] == best[:, there][learned]).sum()
        accuracy.append(float(right / counted.sum()))
    return total, accuracy


def _teacher(target: Target, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states [B, T, hidden] and features [B, T, F] of a batch; padding comes last and is unseen."""
    hidden: Tensor = target.decoder(input_ids=token_ids, use_cache=False).last_hidden_state
    return hidden, target.features(hidden)


def draft_vocabulary(texts: Texts, size: int, vocab_size: int) -> tuple[Tensor, float]:
    """The ``size`` most frequent tokens of the completions, ascending, and the share of them that they cover."""
    counts = np.bincount(texts.token_ids[texts.in_completion()], minlength=vocab_size).astype(np.float64)
    everywhere = np.bincount(texts.token_ids, minlength=vocab_size)
    kept = np.sort(np.argsort(-(counts + 1e-9 * everywhere), kind="stable")[:size])
    return torch.from_numpy(kept), float(counts[kept].sum() / counts.sum())


def new_head(target: Target, settings: HeadTraining, vocabulary: Tensor, *, eagle3: bool) -> DraftHead:
    """A head that begins as much like the target's last layer as its shape allows."""
    own = target.model.config
    config = LlamaConfig(
        vocab_size=own.vocab_size,
        hidden_size=own.hidden_size,
        intermediate_size=settings.intermediate_size if eagle3 else own.intermediate_size,
        num_attention_heads=own.num_attention_heads,
        num_key_value_heads=own.num_key_value_heads,
        head_dim=own.head_dim,
        num_hidden_layers=1,
        max_position_embeddings=own.max_position_embeddings,
        rms_norm_eps=own.rms_norm_eps,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        tie_word_embeddings=False,
    )
    config.draft_vocab_size = len(vocabulary)
    head: DraftHead
    last = target.decoder.layers[-1]
    if eagle3:
        head = Eagle3Head(config, own.hidden_size, own.vocab_size)
        part: Any = head.midlayer
        head.draft_to_target = vocabulary
        head.lm_head.weight.data.copy_(target.output_layer.weight[vocabulary])
        head.norm.weight.data.copy_(target.decoder.norm.weight)
    else:
        config.bias = True
        head = Eagle2Head(config, own.hidden_size, own.vocab_size)
        part = head.layers[0]
        head.target_logits = target.logits
        part["mlp"].load_state_dict(last.mlp.state_dict())
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        theirs = getattr(last.self_attn, name).weight
        getattr(part["self_attn"], name).weight.data[:, -theirs.shape[1] :].copy_(theirs)
    part["post_attention_layernorm"].weight.data.copy_(last.post_attention_layernorm.weight)
    head.embed_tokens.weight = target.model.get_input_embeddings().weight
    return head


def batches(texts: Texts, settings: HeadTraining) -> Callable[[int], NDArray[np.int64]]:
    """Which texts a step reads: similar lengths together, about ``batch_tokens`` tokens, every text once a pass."""
    lengths = np.minimum(texts.lengths, settings.max_length)
    usable = np.flatnonzero(lengths > settings.unroll + 2)
    ordered = usable[np.argsort(lengths[usable], kind="stable")]
    groups, first = [], 0
    while first < len(ordered):
        count = 1
        while first + count < len(ordered) and (count + 1) * lengths[ordered[first + count]] <= settings.batch_tokens:
            count += 1
        groups.append(ordered[first : first + count])
        first += count

    def at(step: int) -> NDArray[np.int64]:
        passes, index = divmod(step, len(groups))
        order = np.random.default_rng([settings.seed, passes]).permutation(len(groups))
        return np.asarray(groups[order[index]])

    return at


def train_head(
    model: LlamaForCausalLM,
    texts: Texts,
    out: Path,
    settings: HeadTraining,
    *,
    eagle3: bool,
    log: Callable[[str], None],
) -> None:
    """Train a head for ``model`` on ``texts`` and write it to ``out`` in SafeAILab's layout."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    target = Target(model, eagle3=eagle3)
    size = settings.draft_vocab_size if eagle3 else target.vocab_size
    vocabulary, coverage = draft_vocabulary(texts, size, target.vocab_size)
    head = new_head(target, settings, vocabulary, eagle3=eagle3).train()
    log(f"head: {len(texts)} texts, draft vocabulary of {len(vocabulary)} covers {coverage:.4f} of the completions")
    at, inside = batches(texts, settings), texts.in_completion()

    def loss_of(step: int) -> tuple[Tensor, list[float]]:
        generator = np.random.default_rng([settings.seed, 1, step])
        token_ids, weights = _padded(texts, inside, at(step), settings, generator)
        return distillation_loss(head, target, token_ids, weights, settings)

    pace = Pace(settings.steps, settings.learning_rate, settings.warmup, settings.weight_decay, settings.save_every)
    running = run_steps(head, loss_of, pace, out / "state.pt", "head", log)
    save_head(head, out, eagle3=eagle3)
    report = {**asdict(settings), "coverage": coverage, "texts": len(texts)}
    if len(running):
        report |= {"loss": running[0], "accuracy_by_step": running[1:].tolist()}
    (out / "training.json").write_text(json.dumps(report, indent=1))


def save_head(head: DraftHead, out: Path, *, eagle3: bool) -> None:
    """Write a head in bfloat16 with SafeAILab's names; the embeddings stay the target's."""
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in head.state_dict().items()
        if name != "embed_tokens.weight"
    }
    if eagle3:
        ids = head.draft_to_target
        used = torch.zeros(head.config.vocab_size, dtype=torch.bool)
        used[ids] = True
        tensors |= {"d2t": ids - torch.arange(len(ids)), "t2d": used}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    values = head.config.to_dict() | {"architectures": ["LlamaForCausalLMEagle3" if eagle3 else "LlamaForCausalLM"]}
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def _padded(
    texts: Texts,
    inside: NDArray[np.bool_],
    rows: NDArray[np.int64],
    settings: HeadTraining,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    lengths = np.minimum(texts.lengths[rows], settings.max_length)
    token_ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    weights = np.zeros(token_ids.shape, dtype=bool)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        first = texts.offsets[row]
        token_ids[i, :length] = texts.token_ids[first : first + length]
        weights[i, :length] = inside[first : first + length] | (generator.random(length) < settings.prompt_share)
    return torch.from_numpy(token_ids), torch.from_numpy(weights)
