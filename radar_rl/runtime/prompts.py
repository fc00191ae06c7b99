"""The prompts of a command line: as typed, from files, from standard input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radar_rl.errors import InputError
from radar_rl.jsonl import read_jsonl
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import Prompt, prompts_of

STDIN = "-"
ROWS = (".jsonl", ".jsonl.gz")


def read_prompts(typed: Sequence[str], files: Sequence[str]) -> list[Prompt]:
    """Prompts in the order given, those that were typed first.

    Args:
        typed: each a user's message.
        files: JSON lines (``.jsonl``, ``.jsonl.gz``) with a prompt a row (``radar_rl.speculative.prompts``); any other
            file is one prompt, whole, and so is ``-``, standard input.

    Raises:
        InputError: nothing is asked for, a file is missing or not UTF-8, or a row is no prompt.
    """
    prompts = [Prompt("command line", str(number), text) for number, text in enumerate(typed, start=1)]
    for name in files:
        if name.endswith(ROWS):
            task = Path(name).name
            prompts += prompts_of(task, name, read_jsonl(name), "row")
        else:
            prompts.append(Prompt("standard input" if name == STDIN else name, "1", _whole(name)))
    if not prompts:
        raise InputError('no prompt; give one with --prompt "…", --file FILE, or - for standard input')
    return prompts


@dataclass
class Conversation:
    """A prompt being decoded, turn by turn.

    Attributes:
        prompt: with the user's turns.
        answers: the target's, so far.
        refused: why the next turn cannot be decoded, if so.
    """

    prompt: Prompt
    answers: list[str] = field(default_factory=list)
    refused: str | None = None

    @property
    def label(self) -> str:
        """How messages call the next turn."""
        if not self.prompt.later_turns:
            return self.prompt.label
        return f"{self.prompt.label}, turn {len(self.answers) + 1} of {len(self.prompt.later_turns) + 1}"

    @property
    def over(self) -> bool:
        """Whether no turn is left, or the next one is refused."""
        return self.refused is not None or len(self.answers) > len(self.prompt.later_turns)

    def ids(self, pair: Pair, max_new_tokens: int) -> list[int]:
        """Token ids of the next turn; one that cannot be decoded is ``refused``, and has none."""
        try:
            (self.prompt.text or "").encode()
            ids = self.prompt.encode(pair, self.answers)
            pair.check_prompt(ids, max_new_tokens)
        except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8 arrive as halves of characters
            self.refused = f"{self.label}: not UTF-8 (half a character at {error.start})"
        except InputError as error:
            self.refused = f"{self.label}: {str(error).removeprefix(f'{self.prompt.label}: ')}"
        else:
            return ids
        return []


def _whole(name: str) -> str:
    """A text file's contents, or all that comes from standard input."""
    if name == STDIN:
        if sys.stdin.isatty():
            print("decode: reading the prompt from the terminal; end it with Ctrl-D", file=sys.stderr, flush=True)
        where, read = "standard input", sys.stdin.buffer.read()
    else:
        if not Path(name).is_file():
            raise InputError(f"no such file: {name}; expected a text, or JSON lines named .jsonl or .jsonl.gz")
        where, read = name, Path(name).read_bytes()
    try:
        return read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
