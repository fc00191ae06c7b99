"""Decoding with a policy inside transformers: ``model.generate(…, custom_generate=radar_generate(head, policy))``."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

from radar_rl.errors import ConfigError, check_whole
from radar_rl.policies import Policy
from radar_rl.runtime.artifact import MADE_FOR, load_artifact
from radar_rl.runtime.decoder import SHAPE, SpeculativeDecoder, check_policy
from radar_rl.runtime.delivery import Delivery, eos_of, new_tokens_of
from radar_rl.runtime.lent import Head, lent_pair
from radar_rl.runtime.named import place_of, policy_from_string
from radar_rl.runtime.processors import over_trees
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.same_text import check_kind
from radar_rl.speculative.text import DraftSource, Options

# What a model's forward would be given and needs no honouring, as it changes no token.
WITHOUT_EFFECT = ("use_cache", "logits_to_keep", "num_logits_to_keep", "cache_position", "tokenizer")
# With ``return_dict_in_generate``, what is asked for beside the text.
OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def radar_generate(
    head: Head,
    policy: Policy | str | Path,
    *,
    max_depth: int | None = None,
    top_k: int | None = None,
    tree_size: int | None = None,
    draft_source: DraftSource = "head",
    allow_other_pair: bool = False,
    strict: bool = False,
) -> "RadarGenerate":
    """What ``generate`` is to decode with: a draft head, and when to stop drafting.

        from radar_rl.runtime import radar_generate

        speculative = radar_generate("yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "runs/policy")
        model.generate(**inputs, max_new_tokens=200, custom_generate=speculative)

    The text is what the model generates without it: token for token under greedy decoding (up to ties of two logits
    within floating-point error, which are rare in float32 and not in bfloat16), with the same probabilities under
    sampling. The head is loaded at a model's first generation and kept for as long as the model is; a policy that
    learns as it decodes does so in what this returns.

    Args:
        head: a folder, a Hub id, ``pocket`` or ``pocket-eagle2``, or a loaded head.
        policy: a policy, a rule by its name such as ``static:5``, or the folder of an exported policy or run.
        max_depth: most draft calls in a round; None: what the policy was trained with, else 8.
        top_k: beam width; None: likewise, else 10.
        tree_size: nodes verified, root included; None: likewise, else 60.
        draft_source: ``head``, ``ngram`` or ``hybrid``, see ``DraftOptions``.
        allow_other_pair: let a policy run with another head or model than it was trained with.
        strict: raise where the policy cannot decide; otherwise rounds fall back, see ``SpeculativeDecoder``.

    ``generate`` does not hand its ``tokenizer`` on: stop strings go in as
    ``stopping_criteria=[StopStringCriteria(tokenizer, ["…"])]``.

    Raises:
        ConfigError: no such policy, or none at all.
        InputError: a depth, width or size is no whole number ≥ 1.
        ArtifactError: the folder holds no sound policy.
    """
    about: Mapping[str, Any] = getattr(policy, MADE_FOR, {})
    if isinstance(policy, str | Path):
        place = place_of(str(policy))
        about = load_artifact(place).about if place.is_dir() else {}
        policy = policy_from_string(str(policy))
    check_policy(policy)
    given = {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}
    for name, value in given.items():
        check_whole(name, 1 if value is None else value, 1)
    shape = {key: about.get(key) or SHAPE[key] if value is None else value for key, value in given.items()}
    guarding = {"made_for": about, "allow_other_pair": allow_other_pair, "strict": strict}
    return RadarGenerate(head, policy, shape | {"draft_source": draft_source} | guarding)


class RadarGenerate:
    """The decoding loop that ``generate`` calls once it has prepared its inputs; made by ``radar_generate``."""

    def __init__(self, head: Head, policy: Policy, settings: Mapping[str, Any]) -> None:
        self.head, self.policy, self.settings = head, policy, settings  # the settings are the decoder's

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Decode prompts; the arguments are those of ``GenerationMixin._sample``.

        Args:
            model: the target.
            input_ids: [B, width] int64, padded left where ``model_kwargs`` has an ``attention_mask``.
            logits_processor: the configuration's processors and the user's.
            stopping_criteria: likewise.
            generation_config: as ``generate`` completed it.
            synced_gpus, streamer: as ``generate`` was given them.
            model_kwargs: what the model's forward would be given.

        Returns:
            [B, width + new tokens] int64, padded right; with ``return_dict_in_generate``, as ``sequences``.

        Raises:
            ConfigError: naming what can't be honoured.
            InputError: a prompt can't be decoded.
            ArtifactError: the policy was trained with another pair or for other drafts, and ``strict``.
            CheckpointError: model and head don't fit each other.
            ModelOutputError: a model returned NaN or infinite logits.
        """
        asked = {"synced_gpus": synced_gpus, "streamer": streamer, **_kept_back(inspect.currentframe())}
        check_kind(model)
        _check_config(generation_config, asked)
        _check_inputs(input_ids, model_kwargs)
        width, greedy = input_ids.shape[1], not generation_config.do_sample
        room = new_tokens_of(stopping_criteria, width)
        pad = generation_config._pad_token_tensor
        delivery = Delivery(
            input_ids, room, stopping_criteria, asked["streamer"], None if pad is None else int(pad.flatten()[0])
        )
        options: Options = {
            "max_new_tokens": room,
            "temperature": 0.0 if greedy else 1.0,  # the configuration's is among the processors
            "prefill_chunk": getattr(generation_config, "prefill_chunk_size", None) or 512,
            "processor": over_trees(logits_processor, width, input_ids.device),
        }
        prompts = _prompts(input_ids, model_kwargs.get("attention_mask"))
        # Drawn from torch's own generator, so that torch.manual_seed makes a text come again.
        seeds = [0] * len(prompts) if greedy else torch.randint(2**62, (len(prompts),)).tolist()
        with lent_pair(model, self.head) as lent:
            pair = replace(lent, eos_token_ids=eos_of(stopping_criteria))
            _check_mask(pair, model_kwargs.get("attention_mask"))
            decoder = SpeculativeDecoder(pair, self.policy, **self.settings)
            batch = decoder.start_batch(prompts, seeds, **options)
            batch.end(delivery.deliver(batch.texts))
            for _ in decoder.play(batch):
                batch.end(delivery.deliver(batch.texts))
        sequences: Any = delivery.finish()
        return (
            GenerateDecoderOnlyOutput(sequences=sequences) if generation_config.return_dict_in_generate else sequences
        )


def _check_mask(pair: Pair, mask: Tensor | None) -> None:
    """Refuse masks that this target reads otherwise than we.

    Raises:
        ConfigError: such a mask.
    """
    if mask is not None and pair.target.window and bool((mask.diff(dim=1) < 0).any()):
        raise ConfigError(
            "attention_mask: expected prompts padded left, got tokens masked inside one, which a sliding window counts"
        )


def _kept_back(frame: FrameType | None) -> dict[str, Any]:
    """What ``generate`` was given and doesn't hand to a callable, read where it is: in the caller's variables.

    transformers 4.56 keeps an assistant model back, 5.23 a streamer too (``_extract_generation_mode_kwargs``). Unread,
    a streamer would get the prompt and nothing more, and an assistant model would be ignored without a word.
    """
    caller = frame.f_back if frame is not None else None
    if caller is None or caller.f_code.co_name != "generate":
        return {}
    names = ("streamer", "assistant_model", "synced_gpus")
    return {name: caller.f_locals[name] for name in names if caller.f_locals.get(name) is not None}


def _check_config(config: Any, asked: Mapping[str, Any]) -> None:
    """Refuse what is asked of ``generate`` beside greedy decoding or sampling.

    Raises:
        ConfigError: naming it.
    """
    refused = [name for name in ("assistant_model", "synced_gpus") if asked.get(name)]
    mode = config.get_generation_mode(asked.get("assistant_model"))
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) and not refused:
        options = ("num_beams", "num_beam_groups", "penalty_alpha", "dola_layers", "prompt_lookup_num_tokens")
        set_ones = [
            f"{name}={getattr(config, name)}" for name in options if getattr(config, name, None) not in (None, 1)
        ]
        refused.append(f"{mode.value} ({', '.join(set_ones)})" if set_ones else mode.value)
    if config.return_dict_in_generate:
        refused += [name for name in OUTPUTS if getattr(config, name, False)]
    memory = str(config.cache_implementation or "")
    if "offloaded" in memory or "quantized" in memory:
        refused.append(f"cache_implementation={memory!r}")
    if refused:
        raise ConfigError(
            f"{', '.join(refused)}: radar_generate decodes greedily or samples, into sequences alone, with caches of "
            "its own; unset it, or generate without custom_generate"
        )


def _check_inputs(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs that are more than prompts of tokens, padded left.

    Raises:
        ConfigError: naming them.
    """
    if input_ids.ndim != 2 or not input_ids.shape[1]:
        raise ConfigError(f"input_ids: expected [batch, tokens], got {list(input_ids.shape)}")
    known = ("attention_mask", "position_ids", "past_key_values", *OUTPUTS, *WITHOUT_EFFECT)
    more = [name for name, value in model_kwargs.items() if name not in known and value is not None]
    cache = model_kwargs.get("past_key_values")
    if cache is not None and (getattr(cache, "_is_user_defined", False) or cache.get_seq_length()):
        more.append("past_key_values")
    if more:
        raise ConfigError(
            f"{', '.join(more)}: radar_generate starts from tokens alone, input_ids and their attention_mask; leave it "
            "out, or generate without custom_generate"
        )
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None and (mask.shape != input_ids.shape or bool((mask[:, -1] == 0).any())):
        raise ConfigError(
            f"attention_mask: expected {list(input_ids.shape)}, padded left (padding_side='left'), "
            f"got {list(mask.shape)}" + (", padded right" if mask.shape == input_ids.shape else "")
        )
    seen = torch.ones_like(input_ids) if mask is None else (mask != 0).long()
    if positions is not None and bool(((positions != seen.cumsum(1) - 1) & (seen != 0)).any()):
        raise ConfigError("position_ids: expected those of prompts that start at 0, which generate makes itself")


def _prompts(input_ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """Each row's tokens, without those that are masked: nobody sees them, and positions pass over them."""
    if mask is None:
        rows: list[list[int]] = input_ids.tolist()
        return rows
    return [row[seen != 0].tolist() for row, seen in zip(input_ids, mask, strict=True)]
