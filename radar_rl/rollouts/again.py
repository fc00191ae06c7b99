"""The texts of a collection, to be traced again: with another beam, more depth, other features or another head.

Texts do not depend on what was drafted (DESIGN §3.1), so nothing is decoded: their token ids are in the collection.
"""

from collections.abc import Mapping
from typing import Any

from radar_rl.errors import TraceError
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.writing import Work, WrittenText
from radar_rl.speculative.prompts import Prompt

COLUMNS = ["task", "prompt_id", "sample", "turn", "token_ids", "prompt_length", "seed"]

KEPT = ("temperature", "sample_top_k", "sample_top_p", "seed", "source", "max_new_tokens", "samples")
"""Settings that are about the texts, not about how they are traced."""


def texts_again(place: str, target: str, limit: int | None = None) -> tuple[list[WrittenText], dict[str, Any]]:
    """The texts of a finished collection, and how they were made.

    Args:
        place: folder or URI of the collection.
        target: identity of the model that is to trace them, ``NAME@HASH``: the one that wrote them.
        limit: prompts per task, from the first on; None takes all.

    Returns:
        The texts in their order, and the settings named by ``KEPT``.

    Raises:
        TraceError: there is no collection, it is not finished, another target wrote it, or it has no texts.
    """
    found = DataSet.read(place, "traces")
    if not found.complete or not found.parts:
        raise TraceError(f"texts_of: {found.store.place} is not finished; run the same radar-rl collect again")
    if found.settings["target"] != target:
        raise TraceError(
            f"texts_of: {found.store.place} holds texts of {found.settings['target']}, the model is {target}; "
            "give the model= that wrote them"
        )
    texts, prompts = [], dict[str, set[str]]()
    for name, entry in found.parts.items():
        file = f"sequences/{name}.parquet"
        table, _ = found.store.read_parquet(file, "sequences", COLUMNS, entry["files"][file])
        for row in table.to_pylist():
            asked = prompts.setdefault(row["task"], set())
            if limit is None or row["prompt_id"] in asked or len(asked) < limit:
                asked.add(row["prompt_id"])
                texts.append(_written(row))
    if not texts:
        raise TraceError(f"texts_of: {found.store.place} holds no texts; collect some first")
    return texts, {name: found.settings[name] for name in KEPT}


def _written(row: Mapping[str, Any]) -> WrittenText:
    ids, length = tuple(row["token_ids"]), row["prompt_length"]
    prompt = Prompt(row["task"], row["prompt_id"], token_ids=ids[:length])
    work = Work(prompt, ids[:length], row["sample"])
    return WrittenText(work, row["turn"], ids[:length], ids[length:], row["seed"])
