"""Prompts: what a row of JSON lines asks for, and the token ids it comes to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from radar_rl.errors import InputError
from radar_rl.speculative.pair import Pair


@dataclass(frozen=True)
class Prompt:
    """One prompt: a user's message, or token ids as they are; and what else its row holds.

    Attributes:
        task: name of its set.
        prompt_id: the row's ``id``; distinct within a task.
        text: what the user says, the passage first where the row has one; None where ``token_ids`` are given.
        token_ids: the whole prompt, used as given.
        later_turns: what the user says next, each after the target's answer to the turn before.
        completion: the answer that a server logged; only where completions were asked for.
        completion_ids: the same as token ids, used as given.
    """

    task: str
    prompt_id: str
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    later_turns: tuple[str, ...] = ()
    completion: str | None = None
    completion_ids: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.task}, prompt {self.prompt_id}"

    def encode(self, pair: Pair, answers: Sequence[str] = ()) -> list[int]:
        """Token ids of the conversation so far: through the target's chat template if it has one, else as plain text.

        Args:
            pair: whose tokenizer and template.
            answers: the target's, one for each turn before the one to encode; none: the first turn.

        Raises:
            InputError: the prompt is empty, or it is text and the pair has no tokenizer; names the prompt.
        """
        if self.token_ids is not None:
            return list(self.token_ids)
        messages = [{"role": "user", "content": self.text or ""}]
        for answer, turn in zip(answers, self.later_turns, strict=False):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
        try:
            return pair.encode_messages(messages)
        except InputError as error:
            raise InputError(f"{self.label}: {error}") from error


def user_message(row: Mapping[str, Any]) -> str:
    """What a user of a row's task types: the passage, if the row has one, then the question."""
    turns = row.get("turns")
    prompt = str(turns[0] if turns else row["prompt"])
    return f"{row['context']}\n\n{prompt}" if row.get("context") else prompt


def prompts_of(
    task: str, origin: str, rows: Iterable[Mapping[str, Any]], numbered: str, completions: bool = False
) -> Iterator[Prompt]:
    """Rows as prompts, each checked; those without an id are called ``NUMBERED-NUMBER``.

    Args:
        task: what the set is called.
        origin: where the rows come from, for messages.
        rows: each with ``prompt``, ``turns`` (a conversation's user messages) or ``prompt_ids``, optionally ``id`` and
            ``context`` (a passage, put before the prompt).
        numbered: see above.
        completions: every row must hold the answer too, as ``completion`` (text) or ``completion_ids``.

    Raises:
        InputError: a row is not what it should be, its id was there before, or there are no rows.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        identity = row.get("id")
        prompt_id = f"{numbered}-{number}" if identity is None else str(identity)
        where = f"{origin}: row {number} ({prompt_id})"
        if prompt_id in seen:
            raise InputError(f"{origin}: row {number}: id {prompt_id!r} occurs twice; make ids distinct")
        seen.add(prompt_id)
        yield replace(_prompt(task, prompt_id, where, row), **(_completion(where, row) if completions else {}))
    if not seen:
        raise InputError(f"{origin}: no prompts")


def _prompt(task: str, prompt_id: str, where: str, row: Mapping[str, Any]) -> Prompt:
    if row.get("prompt_ids") is not None:
        return Prompt(task, prompt_id, token_ids=_ids(where, "prompt_ids", row["prompt_ids"]))
    turns, prompt, context = row.get("turns"), row.get("prompt"), row.get("context")
    if turns is None and prompt is None:
        raise InputError(f"{where}: expected a prompt, turns or prompt_ids, got keys {sorted(row)}")
    if turns is not None and not (isinstance(turns, list) and turns):
        raise InputError(f"{where}: turns: expected a list of texts, not empty, got {turns!r:.80}")
    for turn in [prompt] if turns is None else turns:
        check_text(where, "prompt" if turns is None else "turns", turn)
    if context:
        check_text(where, "context", context)
    return Prompt(task, prompt_id, text=user_message(row), later_turns=tuple(turns[1:]) if turns else ())


def _completion(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says the target answered."""
    if row.get("turns") is not None and len(row["turns"]) > 1:
        raise InputError(f"{where}: a completion answers one prompt, got {len(row['turns'])} turns; give prompt_ids")
    if row.get("completion_ids") is not None:
        return {"completion_ids": _ids(where, "completion_ids", row["completion_ids"])}
    if row.get("completion") is None:
        raise InputError(f"{where}: expected completion or completion_ids beside the prompt, got keys {sorted(row)}")
    check_text(where, "completion", row["completion"])
    return {"completion": row["completion"]}


def _ids(where: str, name: str, ids: Any) -> tuple[int, ...]:
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise InputError(f"{where}: {name} must be a list of whole numbers, not empty, got {ids!r:.80}")
    return tuple(ids)


def check_text(where: str, name: str, value: Any) -> None:
    """Refuse what is no text, an empty one, or one that no UTF-8 stands for.

    Args:
        where: the row, for the message.
        name: of the value in it.

    Raises:
        InputError: naming both.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name}: expected text, not empty, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {name}: half a character at {error.start} ({error.reason})") from error
