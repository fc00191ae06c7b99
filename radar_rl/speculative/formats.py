"""Draft-head checkpoints: four formats, told apart by config and keys, translated into one description and back.

| format | config | keys of the layer |
|---|---|---|
| eagle2 | flat | ``layers.0.*``, no ``hidden_norm`` |
| safeailab | flat | ``midlayer.*`` |
| specforge | flat, architecture ``LlamaForCausalLMEagle3`` | ``midlayer.*`` |
| speculators | nested, ``speculators_model_type: eagle3`` | ``layers.0.*`` |

They are defined by SafeAILab/EAGLE (``eagle/model/cnets1.py`` and ``cnets.py``), sgl-project/SpecForge
(``specforge/modeling/draft/llama3_eagle.py``) and vllm-project/speculators (``models/eagle3/core.py``). They agree on
the other keys, on ``d2t`` (an offset) and on ``t2d`` (which target tokens the draft vocabulary has). ``Eagle3Options``
says what the options mean. SafeAILab's heads have none; SpecForge's have ``fc_norm`` and ``norm_output``, the latter as
of its pull request 879 (a head that it trained before has the option's name without its meaning, here as in SGLang and
vLLM); speculators' have all four.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from radar_rl.errors import CheckpointError
from radar_rl.speculative.checkpoints import read_config, read_tensors
from radar_rl.speculative.heads import Eagle3Head, Eagle3Options
from radar_rl.speculative.target import MOVING_ROPE

Eagle3Format = Literal["safeailab", "speculators", "specforge"]
Format = Literal["eagle2", Eagle3Format]

OPTIONS = tuple(option.name for option in fields(Eagle3Options))
KNOWN_OPTIONS: dict[Format, tuple[str, ...]] = {
    "eagle2": (),
    "safeailab": (),
    "specforge": ("fc_norm", "norm_output"),
    "speculators": OPTIONS,
}

# The target's norm and output layer, which speculators' loss reads and a draft doesn't.
UNUSED_TENSORS = ("verifier_norm.weight", "verifier_lm_head.weight")

# What a flat config must say, lest a default of LlamaConfig take its place.
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
# speculators always writes these; without the last two, it and vLLM would assume different values.
REQUIRED_SPECULATORS = ("transformer_layer_config", "draft_vocab_size", "norm_before_residual")
# Written out in every config, as the defaults of the formats' own code differ.
SPELT_OUT = (*REQUIRED, "num_key_value_heads", "rms_norm_eps", "head_dim", "max_position_embeddings")
# Keys of a layer for which one value is supported.
ONLY = {
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "logit_scale": 1.0,
    "quantization_config": None,
}
# What a flat config says beside the layer.
BESIDE_THE_LAYER = ("architectures", "model_type", "draft_vocab_size", "target_hidden_size", "eagle_config", *OPTIONS)

SPECFORGE_ARCHITECTURE = "LlamaForCausalLMEagle3"
VOCABULARY_TENSORS = ("d2t", "t2d")
LAYER_IDS = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True)
class HeadDescription:
    """What a config says of a head, whatever its format.

    Attributes:
        layer: the decoder layer, as keyword arguments of LlamaConfig; its sizes and rotary embedding always there.
        draft_vocab_size: tokens that the head can draft.
        target_hidden_size: width of one of the target's features.
        feature_layers: the target's layers whose inputs are the features; None: EAGLE-3's 2, n // 2, n − 3.
        options: what departs from EAGLE-3 as published.
    """

    layer: dict[str, Any]
    draft_vocab_size: int
    target_hidden_size: int
    feature_layers: tuple[int, ...] | None = None
    options: Eagle3Options = field(default_factory=Eagle3Options)

    def llama_config(self) -> LlamaConfig:
        """The layer as transformers' config, with ``draft_vocab_size``.

        Raises:
            CheckpointError: it describes no Llama layer.
        """
        config = _llama_config(self.layer)
        config.draft_vocab_size = self.draft_vocab_size
        return config


@dataclass(frozen=True)
class HeadCheckpoint:
    """A head as read from its folder.

    Attributes:
        tensors: by the names of our parameters (SafeAILab's), and ``d2t``, ``t2d`` where the checkpoint has them.
        unused: names of tensors that were left out because no draft needs them.
    """

    format: Format
    description: HeadDescription
    tensors: dict[str, torch.Tensor]
    unused: tuple[str, ...]


def read_head(folder: Path) -> HeadCheckpoint:
    """Read a head's checkpoint in whichever format it is.

    Raises:
        CheckpointError: no known format, or one with something that this library doesn't run.
    """
    values, tensors = read_config(folder), read_tensors(folder)
    format = detect(values, tensors)
    description = describe(values, format)
    if format != "eagle2" and "lm_head.weight" not in tensors:
        raise CheckpointError("draft head: missing tensor lm_head.weight; a head that ties or borrows it isn't run")
    unused = tuple(name for name in UNUSED_TENSORS if name in tensors and format == "speculators")
    return HeadCheckpoint(
        format,
        description,
        {_renamed(name, format, "safeailab"): tensor for name, tensor in tensors.items() if name not in unused},
        unused,
    )


def detect(values: Mapping[str, Any], names: Collection[str]) -> Format:
    """The format of a checkpoint.

    Args:
        values: its ``config.json``.
        names: its tensors' names.

    Raises:
        CheckpointError: none, or config and keys contradict each other.
    """
    kind = values.get("speculators_model_type")
    if kind is not None and kind != "eagle3":
        raise CheckpointError(f"draft head: speculators_model_type: expected 'eagle3', got {kind!r}")
    midlayer = any(name.startswith("midlayer.") for name in names)
    numbered = any(name.startswith("layers.") for name in names)
    eagle3_keys = any(name.endswith(".hidden_norm.weight") for name in names)
    if numbered and not midlayer and eagle3_keys == (kind is not None):
        return "speculators" if eagle3_keys else "eagle2"
    if midlayer and not numbered and kind is None:
        return "specforge" if SPECFORGE_ARCHITECTURE in (values.get("architectures") or ()) else "safeailab"
    layers = sorted({name.partition(".self_attn")[0] for name in names if ".self_attn" in name})
    raise CheckpointError(
        "draft head: expected tensors midlayer.* (SafeAILab, SpecForge), layers.0.* with hidden_norm and "
        "speculators_model_type in config.json (speculators), or layers.0.* with neither (EAGLE-2); got layers "
        f"{layers}, hidden_norm {'there' if eagle3_keys else 'missing'}, speculators_model_type {kind!r}"
    )


def describe(values: Mapping[str, Any], format: Format) -> HeadDescription:
    """A format's config as the description of the head.

    Raises:
        CheckpointError: it lacks something, or asks for something that the format doesn't define or we don't run.
    """
    nested = format == "speculators"
    missing = [key for key in (REQUIRED_SPECULATORS if nested else REQUIRED) if values.get(key) is None]
    if missing:
        raise CheckpointError(f"draft head: config.json lacks {', '.join(missing)}")
    inner = _mapping(values, "transformer_layer_config") if nested else values
    if nested and inner.get("model_type") != "llama":
        got = inner.get("model_type")
        raise CheckpointError(f"draft head: transformer_layer_config.model_type: expected 'llama', got {got!r}")
    layer = {key: value for key, value in inner.items() if key not in BESIDE_THE_LAYER}
    _check_layer(layer)
    layer |= _rope(layer)
    config = _llama_config(layer)  # speculators leaves out what is LlamaConfig's default
    layer |= {key: getattr(config, key) for key in SPELT_OUT} | {"num_hidden_layers": 1}
    aside = {} if nested else dict(_mapping(values, "eagle_config"))
    layer_ids = values.get(LAYER_IDS) if nested else aside.pop(LAYER_IDS, None)
    asked = {name: bool(aside.pop(name, values.get(name))) for name in OPTIONS}
    if aside.pop("use_aux_hidden_state", True) is not True or any(aside.values()):
        raise CheckpointError(
            f"draft head: eagle_config: expected {LAYER_IDS}, use_aux_hidden_state: true; got {values['eagle_config']}"
        )
    _check_options(Eagle3Options(**asked), format)
    return HeadDescription(
        layer=layer,
        draft_vocab_size=_size(values, "draft_vocab_size", config.vocab_size),
        target_hidden_size=_size(values, "target_hidden_size", config.hidden_size),
        feature_layers=None if layer_ids is None else _feature_layers(layer_ids, format),
        options=Eagle3Options(**asked),
    )


def check_fit(description: HeadDescription, vocab_size: int, hidden_size: int, layers: int) -> None:
    """Refuse a head that was made for another target.

    Args:
        vocab_size, hidden_size, layers: the target's.

    Raises:
        CheckpointError: naming what the target has and what the head expects.
    """
    for what, expected, got in (
        ("vocab_size", vocab_size, description.llama_config().vocab_size),
        ("target_hidden_size, which fc takes", hidden_size, description.target_hidden_size),
        ("feature layers", default_feature_layers(layers), description.feature_layers),
    ):
        if got is not None and got != expected:
            raise CheckpointError(f"draft head: made for another target: {what}: expected {expected}, got {got}")


def default_feature_layers(layers: int) -> tuple[int, int, int]:
    """The layers whose inputs EAGLE-3 reads where a config names none (SafeAILab/EAGLE, ``modeling_llama_kv.py``)."""
    return 2, layers // 2, layers - 3


def config_of(
    description: HeadDescription, format: Eagle3Format, verifier: str | None, architectures: list[str]
) -> dict[str, Any]:
    """A description as a format's ``config.json``; the inverse of ``describe``.

    Args:
        verifier, architectures: name and architectures of the target, which speculators' config has a place for.

    Raises:
        CheckpointError: the format's own code can't do what the head needs.
    """
    _check_expressible(description, format)
    layer, ids, options = description.layer, description.feature_layers, asdict(description.options)
    values: dict[str, Any] = {"draft_vocab_size": description.draft_vocab_size}
    if description.target_hidden_size != layer["hidden_size"]:
        values["target_hidden_size"] = description.target_hidden_size
    if format == "speculators":
        # What its own converter writes (convert/eagle/eagle3_converter.py); the server may draft another number.
        proposal = {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0}
        return {
            "architectures": ["Eagle3DraftModel"],
            "speculators_model_type": "eagle3",
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [proposal],
                "verifier": {"name_or_path": verifier, "architectures": architectures},
            },
            "transformer_layer_config": layer | {"model_type": "llama"},
            LAYER_IDS: None if ids is None else list(ids),
            **options,
            **values,
        }
    if ids is not None:
        values["eagle_config"] = {LAYER_IDS: [i - 1 for i in ids]}
    # Options only where they are set: some versions of SpecForge read `norm_output: false` as no norm at all.
    values |= {name: True for name, on in options.items() if on}
    architecture = SPECFORGE_ARCHITECTURE if format == "specforge" else "LlamaForCausalLM"
    return {"architectures": [architecture], "model_type": "llama", **layer, **values}


def draft_vocabulary(description: HeadDescription, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Target token ids of the draft vocabulary, [draft vocabulary] int64.

    ``d2t`` holds offsets: target = draft + d2t[draft] (SafeAILab/EAGLE, ``cnets.py: topK_genrate``; SGLang's and vLLM's
    ``llama_eagle3.py`` read it alike).

    Raises:
        CheckpointError: ``d2t`` is missing or names no distinct tokens of the target, or ``t2d`` names others.
    """
    offsets, used = tensors.get("d2t"), tensors.get("t2d")
    size, vocab_size = description.draft_vocab_size, int(description.layer["vocab_size"])
    if offsets is None:
        if size != vocab_size:
            raise CheckpointError("draft head: missing tensor d2t, which a reduced draft vocabulary needs")
        return torch.arange(size)
    if offsets.shape != (size,):
        raise CheckpointError(f"draft head: d2t: expected [{size}], got {list(offsets.shape)}")
    ids = torch.arange(size) + offsets.to(torch.int64)
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size or len(ids.unique()) != size:
        raise CheckpointError(
            f"draft head: d2t maps the draft vocabulary to ids {int(ids.min())} … {int(ids.max())}; expected distinct "
            f"ids below the target's {vocab_size}"
        )
    if used is not None and (len(used) != vocab_size or not torch.equal(used.nonzero()[:, 0], ids.sort().values)):
        raise CheckpointError("draft head: t2d and d2t name different tokens")
    return ids


def check_tensors(head: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are not exactly the head's.

    Raises:
        CheckpointError: naming what is missing, unexpected or of another shape.
    """
    expected = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise CheckpointError(f"draft head: missing tensors {missing}, unexpected tensors {unexpected}")
    misfits = [
        f"{name}: expected {shape}, got {list(tensors[name].shape)}"
        for name, shape in expected.items()
        if list(tensors[name].shape) != shape
    ]
    if misfits:
        raise CheckpointError(f"draft head does not fit its config or the target: {'; '.join(misfits)}")


def check_complete(checkpoint: HeadCheckpoint) -> None:
    """Refuse an EAGLE-3 checkpoint that would not load with the target it was made for.

    Raises:
        CheckpointError: see ``draft_vocabulary`` and ``check_tensors``.
    """
    described = checkpoint.description
    draft_vocabulary(described, checkpoint.tensors)
    # Shapes do not depend on the rotary embedding, whose tables cannot all be built without memory.
    config = _llama_config({key: value for key, value in described.layer.items() if not key.startswith("rope_")})
    config.draft_vocab_size = described.draft_vocab_size
    with torch.device("meta"):
        head = Eagle3Head(config, described.target_hidden_size, config.vocab_size, described.options)
    parameters = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in VOCABULARY_TENSORS}
    if described.target_hidden_size == config.hidden_size:
        parameters.setdefault("embed_tokens.weight", head.embed_tokens.weight)  # the target's will do
    check_tensors(head, parameters)


def named_for(tensors: Mapping[str, torch.Tensor], format: Eagle3Format) -> dict[str, torch.Tensor]:
    """Tensors by our names as the format names them."""
    return {_renamed(name, "safeailab", format): tensor for name, tensor in tensors.items()}


def _renamed(name: str, source: Format, to: Eagle3Format) -> str:
    if source == "speculators" and name.startswith("layers.0."):
        return "midlayer." + name.removeprefix("layers.0.")
    if to == "speculators" and name.startswith("midlayer."):
        return "layers.0." + name.removeprefix("midlayer.")
    return name


def _llama_config(layer: Mapping[str, Any]) -> LlamaConfig:
    try:
        return LlamaConfig(**copy.deepcopy(dict(layer)))  # it writes into the mappings that it is given
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"draft head: config.json describes no Llama layer ({error})") from error


def _check_layer(layer: Mapping[str, Any]) -> None:
    """Refuse what our one Llama layer doesn't do.

    Raises:
        CheckpointError: naming the key, what is supported and what came.
    """
    for key, only in ONLY.items():
        if layer.get(key, only) != only:
            raise CheckpointError(f"draft head: {key}: expected {only!r}, got {layer[key]!r}")
    if set(layer.get("layer_types") or ()) - {"full_attention"}:
        raise CheckpointError(f"draft head: layer_types: expected full_attention, got {layer['layer_types']}")


def _rope(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding in the words of transformers 5 and of those who read transformers 4's.

    Raises:
        CheckpointError: a type that transformers doesn't have, or one type per kind of layer.
    """
    rope = dict(_mapping(layer, "rope_parameters") or _mapping(layer, "rope_scaling"))
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    theta = rope.pop("rope_theta", layer.get("rope_theta") or 10000.0)
    known = {"default", *ROPE_INIT_FUNCTIONS} - set(MOVING_ROPE)
    if kind not in known or any(isinstance(value, Mapping) for value in rope.values()):
        raise CheckpointError(
            f"draft head: rotary embedding: expected one type of {', '.join(sorted(known))}; got {kind!r} with {rope}"
        )
    scaling = None if kind == "default" else {"rope_type": kind, **rope}
    return {
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": theta, "rope_type": kind, **rope},
    }


def _check_expressible(description: HeadDescription, format: Eagle3Format) -> None:
    """Refuse a head that the format's own code would run as another.

    Raises:
        CheckpointError: naming what it can't do.
    """
    _check_options(description.options, format)
    layer, ids = description.layer, description.feature_layers
    lacking = []
    if format != "speculators" and layer.get("attention_bias"):
        lacking.append("attention_bias")
    if format == "safeailab" and layer["rope_scaling"] is not None:
        lacking.append(f"rotary embedding of type {layer['rope_scaling']['rope_type']} with rope_theta")
    if format == "safeailab" and layer["head_dim"] * layer["num_attention_heads"] != layer["hidden_size"]:
        lacking.append(f"head_dim {layer['head_dim']} beside hidden_size {layer['hidden_size']}")
    if format == "safeailab" and ids is not None:
        lacking.append(f"feature layers {list(ids)} (if they are the target's 2, n // 2, n − 3: name it, target=…)")
    if lacking:
        raise CheckpointError(f"{format}: the format has no {', no '.join(lacking)}")


def _check_options(options: Eagle3Options, format: Format) -> None:
    unknown = [name for name, on in asdict(options).items() if on and name not in KNOWN_OPTIONS[format]]
    if unknown:
        able = [name for name, known in KNOWN_OPTIONS.items() if set(unknown) <= set(known)]
        raise CheckpointError(f"{format}: the format has no {', '.join(unknown)}; {' and '.join(able)} can express it")
    if options.fc_norm and options.norm_before_fc:
        raise CheckpointError("draft head: fc_norm and norm_before_fc: expected one of them, got both")


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"draft head: {key}: expected a mapping, got {value!r}")
    return value


def _size(values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise CheckpointError(f"draft head: {key}: expected a whole number of at least 1, got {value!r}")
    return value


def _feature_layers(ids: object, format: Format) -> tuple[int, ...]:
    """The layers whose inputs are the features.

    speculators names them so, as vLLM captures them; SpecForge, like SGLang, names the layers whose outputs they are,
    one less (``resolve_eagle_capture_layers``: 1, n // 2 − 1, n − 4).
    """
    if not isinstance(ids, list) or len(ids) != 3 or any(type(i) is not int for i in ids):
        raise CheckpointError(f"draft head: {LAYER_IDS}: expected three layers, got {ids!r}")
    return tuple(ids) if format == "speculators" else tuple(i + 1 for i in ids)
