"""Prompts of a task: from a JSON-lines file, a folder of sets, the package itself, or the Hugging Face Hub."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from radar_rl.configs import choices, load
from radar_rl.errors import InputError
from radar_rl.rollouts.hub import hub_rows
from radar_rl.rollouts.jsonl import read_jsonl
from radar_rl.speculative.pair import Pair

SHIPPED = ("dialogue", "arithmetic", "instructions", "python")
DATA_VARIABLE = "RADAR_RL_DATA"


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


@dataclass(frozen=True)
class Skipped:
    """A text that was not made, and why; ``turn`` counts from 0."""

    task: str
    prompt_id: str
    turn: int
    reason: str


def load_prompts(
    tasks: Sequence[str] = SHIPPED,
    *,
    path: str | Path | None = None,
    split: str = "eval",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    completions: bool = False,
) -> list[Prompt]:
    """Prompts of some tasks, or of a file.

    A task is read from ``data_dir/NAME/<split>.jsonl[.gz]`` if that exists, else from the package if it ships there,
    else from the Hub set that ``configs/task/NAME.yaml`` names. Rows hold ``prompt``, ``turns`` (a conversation's user
    messages) or ``prompt_ids``, optionally ``id`` and ``context`` (a passage, put before the prompt).

    Args:
        tasks: names, or NAME/CATEGORY for the rows of one ``category``; not used with ``path``.
        path: a file of rows instead; the task is called as the file.
        split: which file of a set.
        data_dir: folder of sets; None uses the environment variable ``RADAR_RL_DATA``, if set.
        limit: prompts per task, from the first on; None takes all.
        completions: every row must hold the answer too, as ``completion`` (text) or ``completion_ids``, which are
            used as given; otherwise those are ignored.

    Raises:
        InputError: an unknown task, a missing file, a row without a prompt or with values of another kind, an id that
            occurs twice, no prompts.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1 prompt, got {limit}")
    if path is not None:
        name = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        return list(_prompts(name, str(path), islice(read_jsonl(path), limit), name, completions))
    if not tasks:
        raise InputError("no tasks: give tasks=[NAME,…] or task.path=FILE.jsonl")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise InputError(f"data_dir={data_dir}: no such folder; expected NAME/{split}.jsonl[.gz] in it")
    folder = data_dir or os.environ.get(DATA_VARIABLE) or None
    prompts: list[Prompt] = []
    for name in dict.fromkeys(tasks):
        task, _, category = name.partition("/")
        origin, rows = _rows(task, split, None if folder is None else Path(folder))
        if category:
            rows = _of_category(origin, category, rows)
        numbered = name if split == "eval" else f"{name}-{split}"
        prompts.extend(_prompts(name, origin, islice(rows, limit), numbered, completions))
    return prompts


def fitting(
    pair: Pair, prompts: Sequence[Prompt], max_new_tokens: int
) -> tuple[list[tuple[Prompt, list[int]]], list[Skipped]]:
    """Prompts as token ids, and those that leave no room in the context for ``max_new_tokens``.

    Returns:
        Pairs of prompt and token ids (of the first turn), and the prompts that are skipped.

    Raises:
        InputError: a prompt is empty or holds ids outside the vocabulary, or none fits.
    """
    kept: list[tuple[Prompt, list[int]]] = []
    skipped: list[Skipped] = []
    for prompt in prompts:
        ids = prompt.encode(pair)
        reason = too_long(pair, len(ids), max_new_tokens)
        if ids and reason:
            skipped.append(Skipped(prompt.task, prompt.prompt_id, 0, reason))
            continue
        try:
            pair.check_prompt(ids, max_new_tokens)
        except InputError as error:
            raise InputError(f"{prompt.label}: {error}") from error
        kept.append((prompt, ids))
    if not kept:
        raise InputError(f"no prompt fits: {skipped[0].reason}; lower max_new_tokens" if skipped else "no prompts")
    return kept, skipped


def too_long(pair: Pair, length: int, more: int) -> str | None:
    """Why a text of ``length`` tokens cannot get ``more`` of them; None if it can."""
    fits = length + more <= pair.max_positions
    return None if fits else f"{length} tokens + {more} new ones exceed the context of {pair.max_positions}"


def digest(texts: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Hash of names and token ids in order: equal digests mean equal work."""
    running = hashlib.sha256()
    for name, token_ids in texts:
        running.update(f"{name}:{','.join(map(str, token_ids))};".encode())
    return running.hexdigest()[:16]


def split_file(folder: Path, name: str, split: str) -> Path | None:
    """``folder/name/<split>.jsonl`` or its gzipped form, whichever exists; None if neither does."""
    files = (folder / name / f"{split}{suffix}" for suffix in (".jsonl", ".jsonl.gz"))
    return next((file for file in files if file.is_file()), None)


def user_message(row: Mapping[str, Any]) -> str:
    """What a user of a row's task types: the passage, if the row has one, then the question."""
    turns = row.get("turns")
    prompt = str(turns[0] if turns else row["prompt"])
    return f"{row['context']}\n\n{prompt}" if row.get("context") else prompt


def _rows(name: str, split: str, folder: Path | None) -> tuple[str, Iterator[dict[str, Any]]]:
    """Where a task's rows come from, and the rows."""
    if folder is not None:
        file = split_file(folder, name, split)
        if file is not None:
            return str(file), read_jsonl(file)
        if (folder / name).is_dir():
            raise InputError(
                f"task {name!r}: {folder / name} has no {split}.jsonl or {split}.jsonl.gz; choose another split="
            )
    shipped = resources.files("radar_rl") / "datasets" / "prompts" / f"{name}.jsonl"
    if name in SHIPPED:
        return f"datasets/prompts/{name}.jsonl", read_jsonl(Path(str(shipped)))
    if name in choices("task"):
        about = load("task", name)
        if about.get("hub"):
            return str(about["hub"]["path"]), hub_rows(name, about, split)
    where = f"in {folder}" if folder is not None else f"(no data_dir= or {DATA_VARIABLE} given)"
    raise InputError(
        f"unknown task {name!r}: no {name}/{split}.jsonl {where}, and no such configuration; "
        f"known: {', '.join(choices('task'))}; or give task.path=FILE.jsonl"
    )


def _of_category(origin: str, category: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of one category.

    Raises:
        InputError: there are none; names the categories that there are.
    """
    others: set[str] = set()
    found = False
    for row in rows:
        own = str(row.get("category", "none"))
        if own == category:
            found = True
            yield row
        else:
            others.add(own)
    if not found:
        raise InputError(f"{origin}: no rows of category {category!r}; categories: {', '.join(sorted(others))}")


def _prompts(
    task: str, origin: str, rows: Iterator[dict[str, Any]], numbered: str, completions: bool
) -> Iterator[Prompt]:
    """Rows as prompts, each checked; those without an id are called ``NUMBERED-NUMBER``.

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
        _check_text(where, "prompt" if turns is None else "turns", turn)
    if context:
        _check_text(where, "context", context)
    return Prompt(task, prompt_id, text=user_message(row), later_turns=tuple(turns[1:]) if turns else ())


def _completion(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says the target answered."""
    if row.get("turns") is not None and len(row["turns"]) > 1:
        raise InputError(f"{where}: a completion answers one prompt, got {len(row['turns'])} turns; give prompt_ids")
    if row.get("completion_ids") is not None:
        return {"completion_ids": _ids(where, "completion_ids", row["completion_ids"])}
    if row.get("completion") is None:
        raise InputError(f"{where}: expected completion or completion_ids beside the prompt, got keys {sorted(row)}")
    _check_text(where, "completion", row["completion"])
    return {"completion": row["completion"]}


def _ids(where: str, name: str, ids: Any) -> tuple[int, ...]:
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise InputError(f"{where}: {name} must be a list of whole numbers, not empty, got {ids!r:.80}")
    return tuple(ids)


def _check_text(where: str, name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name}: expected text, not empty, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {name}: half a character at {error.start} ({error.reason})") from error
