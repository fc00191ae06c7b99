"""From the command line's ``key=value`` to a verb's arguments: wrong keys, values and choices are named at the door.

Hydra composes the configuration; this module turns its errors into one line that says what to do, and checks the
composed values against the types that the verb's function declares, so that ``steps=many`` never reaches a training.
"""

import difflib
import hashlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, cast

from radar_rl.configs import choices, load
from radar_rl.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Verb = Callable[..., object]

# configs/hardware and configs/sweep are folders, so Hydra would read ``hardware=FILE`` as the choice of a group's
# member. The value travels one level down instead and comes back up in ``checked``.
PLAIN_KEYS = ("hardware", "sweep")

MAX_NAME = 150  # characters of a job's folder; filesystems allow 255 bytes

# A URI, up to the comma that separates it from the next value of a sweep or a list.
URI = r"[A-Za-z][\w+.-]*://[^,\[\]\s]*"


def overrides(written: Sequence[str]) -> list[str]:
    """The command line's ``key=value`` as Hydra gets them; other arguments as they are.

    URIs are quoted, because Hydra reads the ``&`` and ``=`` of their queries as its own.
    """
    plain = rf"^({'|'.join(PLAIN_KEYS)})="
    own = r"[\"']|(?<!\$)\{"  # quotes or braces of the user's
    quoted = [argument if re.search(own, argument) else re.sub(URI, r'"\g<0>"', argument) for argument in written]
    return [re.sub(plain, r"++\1.plain=", argument) for argument in quoted]


def swept_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that have several values, of a sweep's overrides as Hydra gets them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    pairs = OverridesParser.create().parse_overrides(list(overrides))
    return {pair.key_or_group for pair in pairs if pair.is_sweep_override()}


def written_keys(overrides: Sequence[str]) -> set[str]:
    """The keys of a sweep's overrides, as Hydra gets them."""
    return {text.lstrip("+~").partition("=")[0] for text in overrides}


def job_parts(overrides: Sequence[str], keys: Collection[str]) -> list[str]:
    """What distinguishes a job of a sweep from the others: ``["algo=cql", "seed=0"]``.

    Args:
        overrides: all of the job's, as Hydra got them.
        keys: what the sweep is over; if empty, all are named.
    """
    own = [text for text in overrides if text.lstrip("+").partition("=")[0] in keys] or overrides
    return [re.sub(r"^\++(\w+)\.plain=", r"\1=", text) for text in own]


def job_name(overrides: Sequence[str], keys: Collection[str]) -> str:
    """The parts as one line."""
    return " ".join(job_parts(overrides, keys))


def folder_name(parts: Sequence[str]) -> str:
    """A folder for a job, whatever the order its parts were written in: ``algo-cql_seed-0``.

    It holds nothing that a shell or Hydra would read as its own. Names that would come to the same folder end in a
    piece of their hash.
    """
    plain = "_".join(sorted(part.lstrip("+").replace("=", "-") for part in parts))
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:MAX_NAME]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def written_out(overrides: Sequence[str]) -> str | None:
    """The ``out=`` of a sweep if it is one folder for all jobs; None if they name their own.

    Args:
        overrides: of the command line, as Hydra gets them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    out = None
    for pair in OverridesParser.create().parse_overrides(list(overrides)):
        if pair.key_or_group == "out":
            value = None if pair.is_sweep_override() else pair.value()
            out = None if value is None or "${" in str(value) else str(value)
    return out


def resolved(composed: "DictConfig") -> dict[str, Any]:
    """A composed configuration as plain values.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def closest(word: str, valid: Iterable[str]) -> str:
    """A hint naming the most similar valid word, or all valid words if none is similar."""
    valid = list(valid)
    near = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(valid)}"


def keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All keys of a nested mapping, inner ones as ``outer.inner``."""
    found = []
    for key, value in values.items():
        found.append(prefix + key)
        if isinstance(value, Mapping):
            found.extend(keys(value, f"{prefix}{key}."))
    return found


def explained(error: Exception, verb: str, written: Sequence[str]) -> ConfigError:
    """What a Hydra or OmegaConf error means, in one line.

    Args:
        error: raised while the configuration of ``verb`` was composed.
        verb: the verb, naming its configuration.
        written: what the user wrote after the verb.
    """
    from hydra.errors import MissingConfigException, OverrideParseException

    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        extra = "; more come with pip install 'radar-rl[scale]'" if group == "hydra/launcher" else ""
        return ConfigError(f"{group}={choice}: no such choice; {closest(choice, error.options)}{extra}")
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"cannot read {error.override!r}; write key=value, and quote a value with special characters: "
            "'key=\"a=b, c\"'"
        )
    unknown = re.search(r"Could not override '\+*([^'@]+)'", text)
    if unknown:
        key = unknown[1].removesuffix(".plain")
        if hint := _added_hint(key, written):
            return ConfigError(f"unknown key {key!r}; {hint}")
        return ConfigError(f"unknown key {key!r}; {closest(key, keys(defaults(verb, choices_written(written))))}")
    return ConfigError(text)


def choices_written(written: Sequence[str]) -> dict[str, str]:
    """The group members that a user picked by name (not those of a sweep)."""
    pairs = [item.partition("=")[::2] for item in written]
    return {key: value for key, value in pairs if value in choices(key)}


def _added_hint(key: str, written: Sequence[str]) -> str | None:
    """How to give one value of an inner key, ``GROUP.KEY``, to a sweep over members of the group; None: in no way.

    Hydra composes what the jobs of a sweep have in common with the group's default member, which may lack the key.
    """
    group, _, inner = key.partition(".")
    swept = [value for name, _, value in (item.partition("=") for item in written) if name == group]
    members = [member for value in swept for member in value.split(",") if member in choices(group)]
    having = [member for member in members if inner in keys(load(group, member))]
    if not having:
        return None
    lacking = [member for member in members if member not in having]
    hint = f"{' and '.join(having)} {'has' if len(having) == 1 else 'have'} it: write ++{key}=…"
    return hint + (f", without {', '.join(lacking)}" if lacking else "")


def defaults(verb: str, picked: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of a verb as its files have it.

    Args:
        verb: the verb, naming its configuration.
        picked: members picked instead of the default ones, by group.
    """
    values = load(verb)
    for entry in values.pop("defaults"):
        if isinstance(entry, Mapping) and "hydra" not in entry:
            ((group, member),) = entry.items()
            values[group] = load(group, picked.get(group, member))
    return values


def checked(function: Verb, composed: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A verb's keyword arguments.

    Args:
        function: what runs it; its annotations say what each key may hold.
        composed: plain values, ``???`` where a key must be given.
        defaults: the values of the files, which say what inner keys may hold.

    Raises:
        ConfigError: a key is missing or unknown, or a value is of another kind than its default or annotation.
    """
    values = dict(composed)
    for key in PLAIN_KEYS:
        if isinstance(values.get(key), Mapping):
            values[key] = values[key]["plain"]
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in values:
            if key not in parameters:
                raise ConfigError(f"unknown key {key!r}; {closest(key, parameters)}")
    deleted = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    missing = [key for key in dict.fromkeys([*values, *deleted]) if values.get(key, "???") == "???"]
    if missing:
        raise ConfigError(f"give {', '.join(f'{key}=…' for key in missing)}; --help says what it means")
    _check_nested(values, defaults)
    hints = typing.get_type_hints(function)
    return {key: converted(key, value, hints.get(key, Any)) for key, value in values.items()}


def _check_nested(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> None:
    """Values of inner keys must be of their default's kind; a default of null says nothing."""
    for key, default in defaults.items():
        value = values.get(key)
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            _check_nested(value, default, f"{prefix}{key}.")
        elif prefix and default is not None and value is not None:
            converted(prefix + key, value, type(default))


def converted(key: str, value: Any, kind: Any) -> Any:
    """``value`` as the annotation ``kind`` wants it.

    Raises:
        ConfigError: it is something else.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        kinds = [option for option in options if option is not type(None)]
        return converted(key, value, kinds[0]) if len(kinds) == 1 else value
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{key}={value}: {closest(str(value), map(str, options))}")
        return value
    kind = origin or kind
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and number and value == value // 1:
        return int(value)
    if kind is float and number:
        return float(value)
    if kind is str and (isinstance(value, str) or type(value) is int):
        return str(value)
    if kind in (list, tuple, Sequence) and isinstance(value, list):
        return [converted(key, item, options[0]) for item in value] if options else value
    if kind in (dict, Mapping) and isinstance(value, Mapping):
        return value
    expected = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        dict: "a mapping",
        Mapping: "a mapping",
    }.get(kind)
    if kind in (list, tuple, Sequence):
        expected = f"a list, {key}=[…,…]"
    if expected is None:
        return value
    raise ConfigError(f"{key}: expected {expected}, got {value!r}")
