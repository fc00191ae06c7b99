"""The command line's help, read from the configurations: their comments are the manual."""

import textwrap
from collections.abc import Mapping

from radar_rl.configs import choices, text

WIDTH = 100

OVERVIEW = """\
radar-rl: learn when to stop drafting, offline, and decode faster with the text unchanged.

usage: radar-rl VERB key=value …       run a verb
       radar-rl VERB --help            its keys, their defaults and meanings
       radar-rl VERB -m key=a,b …      a sweep over values

{verbs}

flags: --prompt TEXT   decode: a prompt; repeatable
       --file FILE     decode: a text that is one prompt, or JSON lines with a prompt a row; repeatable
       -               decode: one prompt from standard input
       --compare       decode: the target alone and the best static depth too, on the same prompts
       --explain       decode: show the rounds
       --debug         errors with their traceback
       --version

A first look, on the pair that ships with the package:
       radar-rl decode policy=static:8 --prompt "Write a function that adds two numbers." --compare
"""


def overview(verbs: Mapping[str, str]) -> str:
    """What ``radar-rl --help`` prints.

    Args:
        verbs: the verbs, in the order of the work; only their names matter here.
    """
    lines = []
    for verb in verbs:
        lines += textwrap.wrap(
            _purpose(verb),
            WIDTH,
            initial_indent=f"  {spoken(verb):<18}",
            subsequent_indent=" " * 20,
            break_on_hyphens=False,
        )
    return OVERVIEW.format(verbs="\n".join(lines))


def spoken(verb: str) -> str:
    """A verb as it is typed: ``bench round`` for ``bench-round``."""
    return verb.replace("bench-", "bench ")


def page(verb: str) -> str:
    """What ``radar-rl VERB --help`` prints: purpose, groups, keys with defaults and comments."""
    lines = textwrap.wrap(_purpose(verb), WIDTH)
    lines += ["", f"usage: radar-rl {spoken(verb)} key=value …", ""]
    for group, default in _groups(verb):
        lines.append(f"  {group}={default}")
        for name in choices(group):
            about = _header(text(group, name))
            lines += _indented(f"{name}: {about}")
        lines += _indented(f"Keys of the choice are set as {group}.KEY=…")
    lines += _keys(text(verb))
    return "\n".join(lines) + "\n"


def _header(file: str) -> str:
    """The comment that a file begins with."""
    lines = file.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:end])


def _purpose(verb: str) -> str:
    return _header(text(verb))


def _groups(verb: str) -> list[tuple[str, str]]:
    """The groups of a verb's defaults list that a user may choose from."""
    lines = [line.strip() for line in text(verb).splitlines()]
    pairs = [line.removeprefix("- ").split(": ") for line in lines if line.startswith("- ") and ": " in line]
    return [(group, default) for group, default in pairs if group != "hydra"]


def _indented(words: str) -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 10, break_on_hyphens=False)


def _keys(file: str) -> list[str]:
    """The keys below the defaults list, each followed by the comment above it."""
    lines: list[str] = []
    comment: list[str] = []
    outer: list[str] = []  # the keys around a line, by its indentation
    for line in file.split("_self_", 1)[1].splitlines():
        words = line.strip()
        if words.startswith("#"):
            comment.append(words.lstrip("# "))
        elif words:
            key, _, value = words.partition(":")
            outer = [*outer[: (len(line) - len(line.lstrip())) // 2], key]
            if value.strip():
                shown = "…          (must be given)" if value.strip() == "???" else value.strip()
                lines += [f"  {'.'.join(outer)}={shown}", *_indented(" ".join(comment))]
                comment = []
    return lines
