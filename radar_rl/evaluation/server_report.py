"""A server's setting on the terminal: the table of what was tried, the line to paste, and where its flags stand."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from radar_rl.evaluation.servers import Server
from radar_rl.evaluation.serving import Tuned
from radar_rl.evaluation.tables import told_wide
from radar_rl.offline.walk import Walk
from radar_rl.speculative.hardware import HardwareProfile


def print_server(
    server: Server,
    tuned: Tuned,
    hardware: HardwareProfile,
    learned: tuple[str, Walk] | None,
    line: str,
    notes: Sequence[str],
    console: Console | None = None,
    *,
    off: bool = False,
) -> None:
    """Print the fastest setting of each number of draft calls, what there is beside it, and the line.

    Args:
        server: whose settings.
        tuned: what was found.
        hardware: the server's seconds.
        learned: a learned policy's name and its walk over the same held-out texts.
        line: the flags.
        notes: what to know beside.
        console: where to; standard output by default.
        off: whether the target alone is faster, so that there is nothing to paste.
    """
    console = told_wide(console)
    console.print(_settings(server, tuned, hardware, learned))
    if len(tuned.table) > 1:
        console.print(_batches(tuned))
    if off:
        told = "The target alone is faster than any of these settings: leave speculation off here; nothing to paste."
        console.print(told, style="bold", soft_wrap=True)
    console.print("The best setting all the same:" if off else "Paste:", style="bold")
    console.print(line, style="green", soft_wrap=True, markup=False, highlight=False)
    console.print()
    for flag in server.flags:
        console.print(f"{flag.name}: {flag.meaning}.\n  {flag.source}", markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"Note: {note}", markup=False, highlight=False)
    console.print(f"Seconds: {hardware.name}.", markup=False, highlight=False)


def _settings(server: Server, tuned: Tuned, hardware: HardwareProfile, learned: tuple[str, Walk] | None) -> Table:
    best = tuned.best.held_out
    assert best is not None
    texts = int((best.rounds > 0).sum())
    table = Table(
        title=f"{server.label}: the best setting of each depth (training prompts), replayed on {texts} held-out texts",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("setting", overflow="fold")
    for column in ("training\ntokens/s", "held-out\ntokens/s", "vs best", "τ", "draft\ncalls"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in tuned.by_depth:
        assert one.held_out is not None
        chosen = one is tuned.best
        table.add_row(
            one.setting.name + (" (best)" if chosen else ""),
            f"{one.training.tokens_per_second:.1f}",
            *_figures(one.held_out, best),
            style="bold" if chosen else "dim",
        )
    table.add_section()
    if hardware.autoregressive_seconds:
        alone = 1 / hardware.autoregressive_seconds
        table.add_row("target alone", "", f"{alone:.1f}", f"{alone / best.tokens_per_second - 1:+.1%}", "1.00", "0.00")
    if learned:
        table.add_row(f"learned: {learned[0]}", "", *_figures(learned[1], best), style="green")
    return table


def _figures(walk: Walk, best: Walk) -> list[str]:
    return [
        f"{walk.tokens_per_second:.1f}",
        f"{walk.tokens_per_second / best.tokens_per_second - 1:+.1%}",
        f"{walk.acceptance_length:.2f}",
        f"{walk.draft_calls_per_round:.2f}",
    ]


def _batches(tuned: Tuned) -> Table:
    table = Table(title="by texts decoded at once", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("texts", justify="right")
    table.add_column("setting", overflow="fold")
    for column in ("tokens/s,\nall texts", "target\nalone"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in tuned.table:
        known = [] if row.most_nodes is None else [f"of settings up to {row.most_nodes} nodes, as measured"]
        known += ["the target alone is faster: leave speculation off"] if row.setting and row.leave_off else []
        name = row.setting.name if row.setting else "no drafting"
        table.add_row(str(row.batch), name, f"{row.tokens_per_second:.1f}", f"{row.alone:.1f}", "; ".join(known))
    return table
