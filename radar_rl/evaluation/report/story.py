"""The words and figures of the page: who is how much faster, how sure that is, and how far from the best possible."""

from collections.abc import Sequence

from radar_rl.evaluation.compare import MEAN_OF_TASKS
from radar_rl.evaluation.report.evaluated import (
    KINDS,
    Evaluated,
    Row,
    at_home,
    best,
    depth_of,
    label,
    name_of,
    of_kind,
    the,
)
from radar_rl.evaluation.report.gains import shown_policies
from radar_rl.evaluation.report.page import Table, Tile
from radar_rl.evaluation.report.wording import PERCENT, count, counted, interval, percent, signed_percent, speed
from radar_rl.evaluation.statistics import MIN_PROMPTS
from radar_rl.speculative.hardware import HardwareProfile


def headline(row: Row, judged: Sequence[Row]) -> str:
    """Who is how much faster, in a sentence."""
    told = speed(row["speedup_static"] - 1)
    return f"{name_of(row, judged)} decodes {told} {'as' if told == 'as fast' else 'than'} the best fixed draft depth"


def summary(row: Row, judged: Sequence[Row], machine: HardwareProfile) -> list[str]:
    """How sure the headline is, how far from the best possible, and what it holds for.

    Args:
        row: of the policy that the page is about.
        judged: the rows over all tasks on its machine.
        machine: the machine.
    """
    oracle = the(judged, "oracle")
    alike = at_home(judged) if row["kind"] == "learned" else of_kind(judged, row["kind"])
    choice = (
        f" It was the fastest of {count(len(alike))} {KINDS[row['kind']]} policies on these prompts, which flatters "
        "it a little."
        if len(alike) > 1
        else ""
    )
    closed = row["oracle_gap_closed"]
    gap = f"; {percent(closed, 0)} of that gap is closed" if closed is not None else ""
    return [
        f"{_sureness(row)}{choice}",
        f"A clairvoyant oracle, which knows the text before it is written, would gain "
        f"{signed_percent(oracle['speedup_static'] - 1)} over that depth ({depth_of(row['baseline'])}, tuned on the "
        f"training prompts){gap}.",
        f"All policies write the same text; only time differs. Seconds are those of “{machine.name}”: a draft call "
        f"costs {percent(row['marginal_draft_share'])} of a round's rest."
        + (" Figures are means over tasks, each weighing the same." if row["task"] == MEAN_OF_TASKS else ""),
    ]


def _sureness(row: Row) -> str:
    low, high, prompts = (
        row["speedup_static_low"],
        row["speedup_static_high"],
        counted(row["prompts"], "held-out prompt"),
    )
    if low is None:
        return f"How sure that is cannot be said: {prompts} are too few ({MIN_PROMPTS} a task give an interval)."
    verdict = "clear of zero" if low > 1 or high < 1 else "zero among it: the gain may be luck of the draw"
    return f"The 95{PERCENT} interval over {prompts} is {interval(low, high)}, {verdict}."


def tiles(row: Row) -> list[Tile]:
    """The figures of the headline."""
    low, high = row["speedup_static_low"], row["speedup_static_high"]
    shown = [
        Tile(
            signed_percent(row["speedup_static"] - 1),
            f"tokens/s against depth {depth_of(row['baseline'])}, the best fixed one",
        )
    ]
    if low is not None:
        shown.append(Tile(interval(low, high), f"95{PERCENT} interval over prompts"))
    if row["oracle_gap_closed"] is not None:
        shown.append(Tile(percent(row["oracle_gap_closed"], 0), "of what a clairvoyant oracle gains"))
    if row["speedup_default"] is not None:
        shown.append(Tile(signed_percent(row["speedup_default"] - 1), "tokens/s against the default depth"))
    return shown


def policies_table(judged: Sequence[Row], row: Row) -> Table:
    """The policies on the page's machine."""
    rows = [*shown_policies(judged), the(judged, row["baseline"])]
    rows = sorted(rows, key=lambda other: -other["speedup_static"])
    head = (
        "policy",
        "tokens/s",
        "gain",
        f"95{PERCENT} interval",
        "gap closed",
        "tokens a round",
        "draft calls",
        "µs a decision",
    )
    body = [
        (
            label(other, rows),
            f"{other['tokens_per_second']:,.1f}",
            signed_percent(other["speedup_static"] - 1),
            _between(other),
            _closed(other),
            f"{other['acceptance_length']:.2f}",
            f"{other['draft_calls']:.2f}",
            "" if other["decision_microseconds"] is None else f"{other['decision_microseconds']:.1f}",
        )
        for other in rows
    ]
    bold = [place for place, other in enumerate(rows) if other["policy"] == row["policy"]]
    return Table(f"Policies on {row['hardware']}; gains are over depth {depth_of(row['baseline'])}", head, body, bold)


def machines_table(evaluated: Evaluated, machine: HardwareProfile) -> Table | None:
    """The best policy on each machine, where there are several."""
    if len(evaluated.machines) < 2:
        return None
    head = ("machine", "draft call", "best depth", "policy", "gain", f"95{PERCENT} interval", "gap closed", "oracle")
    body = []
    for each in evaluated.machines:
        judged = evaluated.judged(each)
        row, oracle = best(judged), the(judged, "oracle")
        body.append(
            (
                each.name,
                percent(row["marginal_draft_share"]),
                str(depth_of(row["baseline"])),
                name_of(row, judged) + _elsewhere(row),
                signed_percent(row["speedup_static"] - 1),
                _between(row),
                _closed(row),
                signed_percent(oracle["speedup_static"] - 1),
            )
        )
    return Table(
        "The same trace priced for each machine, with the best policy there (*: trained for another)",
        head,
        body,
        [evaluated.machines.index(machine)],
    )


def _elsewhere(row: Row) -> str:
    """A mark of policies that were trained for another machine than the row's."""
    return "" if row["trained_for"] in (None, row["hardware"]) else "*"


def _between(row: Row) -> str:
    low, high = row["speedup_static_low"], row["speedup_static_high"]
    return "" if low is None or row["policy"] == row["baseline"] else interval(low, high)


def _closed(row: Row) -> str:
    told = row["oracle_gap_closed"] is not None and row["kind"] in ("learned", "rule")
    return percent(row["oracle_gap_closed"], 0) if told else ""
