"""Where a report comes from: the command that makes it again, the data, the code."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from radar_rl import configs
from radar_rl.evaluation.report.evaluated import Evaluated, Row
from radar_rl.evaluation.report.replay import Texts
from radar_rl.evaluation.report.wording import count
from radar_rl.offline.provenance import commit, versions
from radar_rl.rollouts import data_digest
from radar_rl.rollouts.trace import TraceSettings


def command(arguments: Mapping[str, Any]) -> str:
    """The command that makes this page.

    Args:
        arguments: of ``report``, by name; those that are the default are left out.
    """
    defaults = configs.load("report")
    own = {name: value for name, value in arguments.items() if value != defaults.get(name)}
    return shlex.join(["radar-rl", "report", *(f"{name}={_written(value)}" for name, value in own.items())])


def _written(value: Any) -> str:
    return (
        f"[{','.join(map(str, value))}]" if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    )


def origin(told: str, traces: str, made: TraceSettings, evaluated: Evaluated, texts: Texts, row: Row) -> dict[str, str]:
    """Where the page comes from, by name.

    Args:
        told: the command.
        traces: folder of the trace that policies were compared on.
        made: what it was made with.
        evaluated: the comparison.
        texts: the held-out ones of the trace.
        row: of the policy that the page is about.
    """
    known = versions()
    kept = int((texts.emitted > 0).sum())
    sampled = "greedy" if made.temperature == 0 else f"temperature {made.temperature:g}"
    return {
        "command": told,
        "trace": f"{traces}, data {data_digest(traces)}: {made.target} + {made.draft}, {sampled}",
        "compared on": f"{count(kept)} texts of {count(row['prompts'])} held-out prompts, "
        f"{count(int(texts.emitted.sum()))} tokens; tasks: {', '.join(texts.tasks)}",
        "trees": f"{evaluated.made['tree_size']} nodes, {made.max_depth} draft calls at most, beams of {made.top_k}",
        "learned": _learned(row),
        "versions": ", ".join(f"{name} {version}" for name, version in known.items()),
        "commit": commit() or "not a checkout",
    }


def _learned(row: Row) -> str:
    if row["kind"] != "learned":
        return f"nothing; {row['policy']} is a rule"
    parts = {"trained for": row["trained_for"], "positions": row["positions"], "seed": row["seed"]}
    said = "; ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in parts.items()
    )
    return f"{row['policy']}: {said}"
