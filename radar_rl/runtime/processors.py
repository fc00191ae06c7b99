"""Logits processors of transformers over draft trees: which can be honoured, and how.

A tree's nodes are chosen at together, so a processor may look at a node's own logits and at how long the text is there,
not at which tokens stand before it: those differ from branch to branch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process

from radar_rl.errors import ConfigError
from radar_rl.speculative.sampling import Processor

# Classes by what the scores of a position depend on. A subclass may do anything, so it counts as unknown.
BY_LOGITS = (
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "TypicalLogitsWarper",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "SuppressTokensLogitsProcessor",
    "LogitNormalization",
)
BY_LENGTH = (
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "ExponentialDecayLengthPenalty",
)
OF_TOKENS = ("SequenceBiasLogitsProcessor", "NoBadWordsLogitsProcessor")  # by the logits if of single tokens

# What GenerationConfig, or generate's arguments, call those that depend on more.
OPTIONS: Mapping[str, str] = {
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "EncoderRepetitionPenaltyLogitsProcessor": "encoder_repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "EncoderNoRepeatNGramLogitsProcessor": "encoder_no_repeat_ngram_size",
    "SequenceBiasLogitsProcessor": "sequence_bias, of several tokens",
    "NoBadWordsLogitsProcessor": "bad_words_ids, of several tokens",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "WatermarkLogitsProcessor": "watermarking_config",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
}


def over_trees(processors: Sequence[Any], width: int, device: torch.device) -> Processor | None:
    """Processors, in their order, as one that works on the logits of whole draft trees; None for none.

    Args:
        processors: as ``generate`` prepared them, the user's among them.
        width: tokens of the prompt, padding included, as the processors count them.
        device: where they expect logits.

    Raises:
        ConfigError: naming a processor that looks at more than a position's logits and length, or that is unknown.
    """
    for processor in processors:
        _check(processor)
    if not processors:
        return None

    def process(logits: Tensor, gained: Tensor) -> Tensor:
        scores = logits.flatten(0, 1).to(device)  # [B · n, vocabulary]: theirs know no third dimension
        lengths = width + gained.flatten().to(device)
        for processor in processors:
            if _is(processor, BY_LENGTH):
                scores = _by_length(processor, scores, lengths)
            else:
                scores = processor(_text_of(width, scores), scores)
        return scores.to(logits.device).view_as(logits)

    return process


def _check(processor: object) -> None:
    singles = _is(processor, OF_TOKENS) and all(len(tokens) == 1 for tokens in processor.sequence_bias)  # type: ignore[attr-defined]
    if singles or _is(processor, (*BY_LOGITS, *BY_LENGTH)):
        return
    name = type(processor).__name__
    option = OPTIONS.get(name) if type(processor) is getattr(logits_process, name, None) else None
    raise ConfigError(
        f"{option or 'logits_processor'}: {name} is none of those that work on draft trees, where the tokens before a "
        f"position differ from branch to branch: {', '.join(BY_LOGITS + BY_LENGTH + OF_TOKENS)}, the last two of "
        "single tokens. Unset it, or generate without custom_generate"
    )


def _is(processor: object, names: Sequence[str]) -> bool:
    """Whether a processor is of exactly one of these classes, as far as this version of transformers has them."""
    return type(processor) in [getattr(logits_process, name, None) for name in names]


def _by_length(processor: Any, scores: Tensor, lengths: Tensor) -> Tensor:
    """A processor that looks at the length of its input, called once for each length: [rows, vocabulary]."""
    processed = scores.clone()
    for length in lengths.unique().tolist():
        rows = lengths == length
        processed[rows] = processor(_text_of(length, scores[rows]), scores[rows])
    return processed


def _text_of(length: int, scores: Tensor) -> Tensor:
    """Texts [rows, length] int64 of which only the length means something."""
    return torch.zeros(1, 1, dtype=torch.int64, device=scores.device).expand(len(scores), length)
