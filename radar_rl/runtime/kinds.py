"""The kinds of rules there are: what they are called on the command line and in artifacts, and their parameters."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from math import isfinite
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from radar_rl.errors import ArtifactError, ConfigError, in_words
from radar_rl.policies import (
    AcceptanceAverage,
    AdaEdl,
    ConfidenceThreshold,
    DraftChain,
    EntropyBound,
    Exp3Spec,
    ExpectedGain,
    JointConfidence,
    MemorylessPolicy,
    MinProbability,
    PlusTwo,
    Policy,
    RandomStop,
    StaticDepth,
    Svip,
    TapOut,
    UcbSpec,
)


class Kind(NamedTuple):
    """A kind of rule.

    Attributes:
        make: the policy's class, a dataclass whose fields are the parameters.
        value: the field that a name gives first, ``KIND:VALUE``; None where no name can say what the rule needs.
        form: how a name is written.
    """

    make: type[Any]
    value: str | None
    form: str


KINDS: dict[str, Kind] = {
    "static": Kind(StaticDepth, "depth", "static:DEPTH"),
    "threshold": Kind(ConfidenceThreshold, "threshold", "threshold:PROBABILITY"),
    "joint": Kind(JointConfidence, "threshold", "joint:PROBABILITY"),
    "p-min": Kind(MinProbability, "threshold", "p-min:PROBABILITY"),
    "chain": Kind(DraftChain, "most", "chain:TOKENS"),
    "svip": Kind(Svip, "limit", "svip:ROOT_OF_ENTROPY"),
    "entropy-bound": Kind(EntropyBound, "threshold", "entropy-bound:PROBABILITY"),
    "adaedl": Kind(AdaEdl, "threshold", "adaedl:PROBABILITY"),
    "plus-two": Kind(PlusTwo, "start", "plus-two:START"),
    "ema": Kind(AcceptanceAverage, "start", "ema:START"),
    "ucbspec": Kind(UcbSpec, "max_depth", "ucbspec:MAX_DEPTH"),
    "exp3spec": Kind(Exp3Spec, "max_depth", "exp3spec:MAX_DEPTH"),
    "tapout": Kind(TapOut, "rules", "tapout:RULE+RULE+…"),
    "random": Kind(RandomStop, "probability", "random:PROBABILITY"),
    "gain": Kind(ExpectedGain, None, "gain"),
}
"""By name. A kind that is added here at run time can be named, saved and loaded like the others."""

MOST = 4096
"""Of draft calls, nodes, arms and the like in an artifact: more is damage, and would take its memory."""

READERS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    tuple[int, ...]: lambda text: tuple(int(part) for part in text.split("/")),
    tuple[float, ...]: lambda text: tuple(float(part) for part in text.split("/")),
    tuple[MemorylessPolicy, ...]: lambda text: tuple(rule_from_string(part) for part in text.split("+")),
    bool: lambda text: {"true": True, "false": False}[text.lower()],
}


def forms() -> list[str]:
    """How the rules' names are written, of those that a name can say."""
    return [kind.form for kind in KINDS.values() if kind.value is not None]


def rule_from_string(text: str, seed: int = 0) -> Policy:
    """The rule of a name, ``KIND:VALUE[,KEY=VALUE…]``; lists of numbers are written ``1/3/5``, of rules with ``+``.

    Args:
        text: the name, of a kind in ``KINDS``.
        seed: of rules that draw at random, where the name has none.

    Raises:
        ConfigError: the kind has no name, a key is unknown, or a value cannot be.
    """
    kind, _, rest = text.partition(":")
    made = KINDS.get(kind)
    if made is None:
        raise ConfigError(f"policy {text!r}: unknown rule; expected {', '.join(forms())}")
    if made.value is None:
        raise ConfigError(
            f"policy {text!r}: its costs come from a hardware profile: let radar_rl.offline.tuning.tune_rules make it, "
            "save it with radar_rl.runtime.save_policy, and give the folder"
        )
    # A rule among others has commas of its own.
    value, *more = [rest] if kind == "tapout" else rest.split(",")
    given = {made.value: value} | dict(_pair(text, part) for part in more)
    types = {field.name: get_type_hints(made.make)[field.name] for field in fields(made.make)}
    if unknown := set(given) - set(types):
        raise ConfigError(f"policy {text!r}: unknown {sorted(unknown)}; {kind} has {', '.join(types)}")
    try:
        parameters = {name: READERS[types[name]](word) for name, word in given.items()}
        rule: Policy = made.make(**({"seed": seed} if "seed" in types else {}) | parameters)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"policy {text!r}: {error}") from error
    return rule


def _pair(text: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ConfigError(f"policy {text!r}: expected KEY=VALUE after the first value, got {part!r}")
    return key, value


def describe_rule(policy: Policy) -> tuple[str, dict[str, Any]]:
    """Kind and parameters of a rule, JSON-able.

    Raises:
        ArtifactError: it is none of ``KINDS``.
    """
    kind = next((kind for kind, made in KINDS.items() if type(policy) is made.make), None)
    if kind is None:
        raise ArtifactError(f"policy {policy.name}: {type(policy).__name__} has no exported form")
    return kind, {field.name: _plain(getattr(policy, field.name)) for field in fields(KINDS[kind].make)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, MemorylessPolicy):
        kind, parameters = describe_rule(value)
        return {"kind": kind, "parameters": parameters}
    return value


def build_rule(kind: str, parameters: Mapping[str, Any]) -> Policy:
    """The rule that ``describe_rule`` described, strictly: each parameter is there, and of the type it has.

    Raises:
        ArtifactError: the kind is unknown; a parameter is missing, unknown, of another type, or not finite.
        ConfigError: a value cannot be.
    """
    if kind not in KINDS:
        raise ArtifactError(f"unknown kind of rule {_short(kind)}; valid: {', '.join(KINDS)}")
    made = KINDS[kind].make
    hints = get_type_hints(made)
    expected = {field.name for field in fields(made)}
    check_keys(f"{kind}: parameters", parameters, expected)
    rule: Policy = made(**{name: _read(f"{kind}: {name}", value, hints[name]) for name, value in parameters.items()})
    return rule


def check_keys(what: str, values: Mapping[str, Any], expected: Collection[str], optional: Collection[str] = ()) -> None:
    """Refuse a mapping that lacks a key or has another.

    Raises:
        ArtifactError: naming which.
    """
    missing, unexpected = sorted(set(expected) - set(values)), sorted(set(values) - set(expected) - set(optional))
    if missing or unexpected:
        raise ArtifactError(f"{what}: {in_words(missing=missing, unexpected=unexpected)}")


def _read(what: str, value: Any, hint: Any) -> Any:
    """A parameter from JSON.

    Raises:
        ArtifactError: it is not what its type says, or so large that it can only be damage.
    """
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or len(value) > MOST:
            raise ArtifactError(f"{what}: expected a list of at most {MOST}, got {_short(value)}")
        return tuple(_read(f"{what}[{i}]", part, get_args(hint)[0]) for i, part in enumerate(value))
    if hint is MemorylessPolicy:
        rule = value if isinstance(value, Mapping) else {}
        made = KINDS.get(str(rule.get("kind")))
        # A rule among others holds none itself: nothing nests deeper.
        if set(rule) != {"kind", "parameters"} or made is None or not issubclass(made.make, MemorylessPolicy):
            raise ArtifactError(f"{what}: expected kind and parameters of a memoryless rule, got {_short(value)}")
        if not isinstance(rule["parameters"], Mapping):
            raise ArtifactError(f"{what}: parameters: expected a mapping, got {_short(rule['parameters'])}")
        return build_rule(str(rule["kind"]), rule["parameters"])
    if hint is bool:
        fits = isinstance(value, bool)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        fits = False
    elif hint is int:
        fits = isinstance(value, int) and (what.endswith("seed") or abs(value) <= MOST)
    else:
        fits = isfinite(value)
    if not fits:
        names = {int: f"a whole number of at most {MOST}", float: "a finite number", bool: "true or false"}
        raise ArtifactError(f"{what}: expected {names[hint]}, got {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
