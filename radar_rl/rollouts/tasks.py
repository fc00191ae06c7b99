"""Prompts of a task: from a JSON-lines file, a folder of sets, the package itself, or the Hugging Face Hub."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from radar_rl.configs import choices, load
from radar_rl.errors import InputError
from radar_rl.rollouts.jsonl import read_jsonl
from radar_rl.speculative.pair import Pair

SHIPPED = ("dialogue", "arithmetic", "instructions", "python")
DATA_VARIABLE = "RADAR_RL_DATA"


@dataclass(frozen=True)
class Prompt:
    """One prompt: a user's message, or token ids as they are.

    Attributes:
        task: name of its set.
        prompt_id: the row's ``id``; distinct within a task.
        text: what the user says, the passage first where the row has one; None where ``token_ids`` are given.
        token_ids: the whole prompt, used as given.
    """

    task: str
    prompt_id: str
    text: str | None = None
    token_ids: tuple[int, ...] | None = None

    def encode(self, pair: Pair) -> list[int]:
        """Token ids of the prompt: through the target's chat template if it has one, else as plain text.

        Raises:
            InputError: the prompt is empty, or it is text and the pair has no tokenizer; names the prompt.
        """
        if self.token_ids is not None:
            return list(self.token_ids)
        try:
            return pair.encode_prompt(self.text or "")
        except InputError as error:
            raise InputError(f"{self.task}, prompt {self.prompt_id}: {error}") from error


def load_prompts(
    tasks: Sequence[str] = SHIPPED,
    *,
    path: str | Path | None = None,
    split: str = "eval",
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> list[Prompt]:
    """Prompts of some tasks, or of a file.

    A task is read from ``data_dir/NAME/<split>.jsonl[.gz]`` if that exists, else from the package if it ships there,
    else from the Hub set that ``configs/task/NAME.yaml`` names. Rows hold ``prompt``, ``turns`` (the first is used) or
    ``prompt_ids``, optionally ``id`` and ``context``.

    Args:
        tasks: names, or NAME/CATEGORY for the rows of one ``category``; not used with ``path``.
        path: a file of rows instead; the task is called as the file.
        split: which file of a set.
        data_dir: folder of sets; None uses the environment variable ``RADAR_RL_DATA``, if set.
        limit: prompts per task, from the first on; None takes all.

    Raises:
        InputError: an unknown task, a missing file, a row without a prompt, an id that occurs twice, no prompts.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1 prompt, got {limit}")
    if path is not None:
        name = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        return list(_prompts(name, str(path), islice(read_jsonl(path), limit)))
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
        prompts.extend(_prompts(name, origin, islice(rows, limit)))
    return prompts


def fitting(
    pair: Pair, prompts: Sequence[Prompt], max_new_tokens: int
) -> tuple[list[tuple[Prompt, list[int]]], list[dict[str, str]]]:
    """Prompts as token ids, and those that leave no room in the context for ``max_new_tokens``.

    Returns:
        Pairs of prompt and token ids; and of each skipped prompt its task, prompt_id and the reason.

    Raises:
        InputError: a prompt is empty or holds ids outside the vocabulary, or none fits.
    """
    kept: list[tuple[Prompt, list[int]]] = []
    skipped: list[dict[str, str]] = []
    for prompt in prompts:
        ids = prompt.encode(pair)
        total = len(ids) + max_new_tokens
        if ids and total > pair.max_positions:
            reason = f"{len(ids)} tokens + {max_new_tokens} new ones exceed the context of {pair.max_positions}"
            skipped.append({"task": prompt.task, "prompt_id": prompt.prompt_id, "reason": reason})
            continue
        try:
            pair.check_prompt(ids, max_new_tokens)
        except InputError as error:
            raise InputError(f"{prompt.task}, prompt {prompt.prompt_id}: {error}") from error
        kept.append((prompt, ids))
    if not kept:
        raise InputError(f"no prompt fits: {skipped[0]['reason']}; lower max_new_tokens" if skipped else "no prompts")
    return kept, skipped


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
            return str(about["hub"]["path"]), _hub_rows(name, about["hub"], about["columns"])
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


def _hub_rows(name: str, hub: Mapping[str, Any], columns: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Rows of a Hub set under our names of the columns."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"task {name!r} comes from the Hugging Face Hub, which needs: pip install 'radar-rl[hub]'; "
            f"or give data_dir=FOLDER with {name}/eval.jsonl"
        ) from error
    try:
        rows = datasets.load_dataset(
            hub["path"], hub.get("name"), split=hub["split"], data_files=hub.get("data_files"), streaming=True
        )
        for row in rows:
            renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs is not None}
            yield renamed | ({"category": row["category"]} if "category" in row else {})
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"task {name!r}: the Hub set {hub['path']} cannot be read ({error}); "
            f"give data_dir=FOLDER with {name}/eval.jsonl"
        ) from error


def _prompts(task: str, origin: str, rows: Iterator[dict[str, Any]]) -> Iterator[Prompt]:
    """Rows as prompts, each checked.

    Raises:
        InputError: a row holds no prompt, its id was there before, or there are no rows.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        identity = row.get("id")
        prompt_id = f"{task}-{number}" if identity is None else str(identity)
        if prompt_id in seen:
            raise InputError(f"{origin}: row {number}: id {prompt_id!r} occurs twice; make ids distinct")
        seen.add(prompt_id)
        ids = row.get("prompt_ids")
        if ids is not None:
            if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
                raise InputError(
                    f"{origin}: row {number} ({prompt_id}): prompt_ids must be a list of whole numbers, not empty"
                )
            yield Prompt(task, prompt_id, token_ids=tuple(ids))
            continue
        turns = row.get("turns") or [row.get("prompt")]
        if not isinstance(turns, list) or not isinstance(turns[0], str) or not turns[0].strip():
            raise InputError(
                f"{origin}: row {number} ({prompt_id}): expected a prompt, turns or prompt_ids, got keys {sorted(row)}"
            )
        yield Prompt(task, prompt_id, text=user_message(row))
    if not seen:
        raise InputError(f"{origin}: no prompts")
