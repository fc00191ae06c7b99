"""Rows of the Hugging Face Hub sets that ``configs/task`` names, under our names of the columns."""

from collections.abc import Iterator, Mapping
from typing import Any

from radar_rl.errors import InputError


def hub_rows(task: str, about: Mapping[str, Any], split: str) -> Iterator[dict[str, Any]]:
    """Stream a task's rows: ``prompt`` or ``turns``, ``context`` and ``id`` where the set has them, ``category``.

    Args:
        task: its name.
        about: ``configs/task/NAME.yaml``: where the set is, its columns, and the message made of a row.
        split: ours; ``hub.splits`` says which of the set's it is.

    Raises:
        InputError: the library is missing, there is no such split, or the set cannot be read or has other columns.
    """
    hub, columns, template = about["hub"], about["columns"], about["template"] or "{prompt}"
    instead = f"give data_dir=FOLDER with {task}/{split}.jsonl"
    if split not in hub["splits"]:
        raise InputError(
            f"task {task!r}: the Hub set {hub['path']} has no split={split}, only {', '.join(hub['splits'])}; {instead}"
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"task {task!r} comes from the Hugging Face Hub, which needs: pip install 'radar-rl[hub]'; or {instead}"
        ) from error
    row: Mapping[str, Any] = {}
    try:
        rows = datasets.load_dataset(
            hub["path"],
            hub.get("name"),
            split=hub["splits"][split],
            data_files=hub.get("data_files"),
            streaming=True,
        )
        for row in rows:
            ours = {name: row[theirs] for name, theirs in columns.items() if theirs is not None}
            if isinstance(ours.get("prompt"), str):
                ours["prompt"] = template.replace("{prompt}", ours["prompt"])
            yield ours | ({"category": row["category"]} if "category" in row else {})
    except KeyError as error:
        raise InputError(
            f"task {task!r}: the Hub set {hub['path']} has no column {error}; columns: {', '.join(row)}; {instead}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"task {task!r}: the Hub set {hub['path']} cannot be read ({error}); {instead}") from error
