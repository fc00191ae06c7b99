"""Prompts of a task: from a JSON-lines file, a folder of sets, the package itself, or the Hugging Face Hub."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from radar_rl.configs import choices, load
from radar_rl.errors import InputError
from radar_rl.jsonl import read_jsonl
from radar_rl.rollouts.hub import hub_rows
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import Prompt, prompts_of

SHIPPED = ("dialogue", "arithmetic", "instructions", "python")
DATA_VARIABLE = "RADAR_RL_DATA"


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
        return list(prompts_of(name, str(path), islice(read_jsonl(path), limit), name, completions))
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
        prompts.extend(prompts_of(name, origin, islice(rows, limit), numbered, completions))
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
    shipped = Path(str(resources.files("radar_rl"))) / "datasets" / "prompts" / f"{name}.jsonl"
    if shipped.is_file():
        return f"datasets/prompts/{name}.jsonl", read_jsonl(shipped)
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
