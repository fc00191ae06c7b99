"""The figures of ``bench hardware`` as tables and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from radar_rl.benchmarks.hardware_figures import ORACLE, OTHERS, OWN, RULE, STATIC
from radar_rl.benchmarks.ratios import shown
from radar_rl.evaluation.style import COLOURS as KINDS
from radar_rl.evaluation.style import plain

WIDTH = 110
COLOURS = {
    STATIC: KINDS["static"],
    RULE: KINDS["rule"],
    OWN: KINDS["learned"],
    OTHERS: "#7fb2e0",
    ORACLE: KINDS["oracle"],
}
MARKERS = {RULE: "X", OWN: "D", OTHERS: "o", ORACLE: "*"}


def replay_table(rows: pl.DataFrame) -> Table:
    """What each machine's static depth, rules, policies and oracle bring there.

    Args:
        rows: the experiment's, with ``hardware_figures.replay_rows`` among them.
    """
    table = Table(
        title="Replay of held-out texts: tokens/s against the static depth tuned for the machine (of the oracle gap)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("machine", no_wrap=True)
    table.add_column("a call\ncosts", justify="right")
    for who in ("tuned static", "best rule", "trained\nfor it", "for\nothers", "oracle"):
        table.add_column(who, justify="right", overflow="fold")
    for machine, of in _by_machine(rows).items():
        static, rule = of[STATIC], of[RULE]
        table.add_row(
            machine,
            f"{static['draft_share']:.1%}",
            f"{static['policy']}\n{static['tokens_per_second']:.1f} tokens/s",
            f"{rule['policy']}\n{_gain(rule)}",
            f"[bold]{_gain(of[OWN])}[/]",
            _gain(of[OTHERS]),
            f"{of[ORACLE]['gain']:+.1%}",
        )
    return table


def _by_machine(rows: pl.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    replayed = rows.filter(pl.col("stage") == "replay")
    machines = replayed["hardware"].unique(maintain_order=True)
    return {
        machine: {row["who"]: row for row in replayed.filter(pl.col("hardware") == machine).iter_rows(named=True)}
        for machine in machines
    }


def _gain(row: Mapping[str, Any]) -> str:
    closed = row["oracle_gap_closed"]
    return f"{row['gain']:+.1%}" + ("" if closed is None else f" ({round(closed, 2) + 0.0:.0%})")  # no negative nothing


def matrix_table(rows: pl.DataFrame) -> Table:
    """What policies trained for one machine bring on the others.

    Args:
        rows: the experiment's, with ``hardware_figures.matrix_rows`` among them.
    """
    matrix = rows.filter(pl.col("stage") == "matrix")
    machines = matrix["trained_for"].unique(maintain_order=True).to_list()
    gains = {(trained, on): gain for trained, on, gain in matrix.select("trained_for", "hardware", "gain").iter_rows()}
    table = Table(
        title="Trained for one machine (rows), run on another (columns): tokens/s against its tuned static depth",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("trained for")
    for on in machines:
        table.add_column(on, justify="right")
    for trained in machines:
        cells = [
            f"[bold]{gains[trained, on]:+.1%}[/]" if on == trained else f"{gains[trained, on]:+.1%}" for on in machines
        ]
        table.add_row(trained, *cells)
    return table


def live_table(live: Sequence[Mapping[str, Any]]) -> Table:
    """Live seconds beside the replay's.

    Args:
        live: what ``hardware_figures.live_figures`` returned.
    """
    table = Table(
        title=f"This machine, live beside replay: {live[0]['texts']} held-out texts, decoded by each in turn",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("policy", no_wrap=True)
    for column in ("τ", "draft\ncalls", "tokens/s\nlive", "replayed", "error", "× alone\nlive", "replayed", "error"):
        table.add_column(column, justify="right")
    for row in live:
        table.add_row(
            row["policy"],
            f"{row['tau']:.2f}" if row["tau"] else "",
            f"{row['draft_calls']:.2f}" if row["draft_calls"] else "",
            shown("{:.1f}", row["live"]),
            shown("{:.1f}", row["replayed"]),
            shown("{:+.1%}", row["error"]),
            shown("{:.2f}", row["live_speedup"]),
            shown("{:.2f}", row["replayed_speedup"]),
            shown("{:+.1%}", row["speedup_error"]),
        )
    return table


def draw(rows: pl.DataFrame, live: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each machine's gains, and live tokens/s beside replayed ones where there are some.

    Args:
        rows: the experiment's.
        live: what ``hardware_figures.live_figures`` returned.
        path: the PNG to write.
    """
    machines = _by_machine(rows)
    high = max(len(machines), len(live))
    figure = Figure(figsize=(11 if live else 6.5, 1.9 + 0.42 * high), layout="constrained", dpi=150)
    panels = figure.subplots(1, 2 if live else 1, squeeze=False, width_ratios=(1.2, 1) if live else None)[0]
    _gains(panels[0], machines, rows.filter(pl.col("stage") == "matrix"))
    if live:
        _speeds(panels[1], live)
    figure.suptitle("One collection, a policy for each machine", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _gains(axes: Axes, machines: Mapping[str, Mapping[str, Mapping[str, Any]]], matrix: pl.DataFrame) -> None:
    axes.axvline(0, color=COLOURS[STATIC], lw=1.5)
    for place, (machine, of) in enumerate(machines.items()):
        strangers = matrix.filter((pl.col("hardware") == machine) & (pl.col("trained_for") != machine))["gain"]
        axes.plot(strangers, [place + 0.2] * len(strangers), "o", color=COLOURS[OTHERS], ms=4, alpha=0.8)
        axes.plot([0, of[ORACLE]["gain"]], [place, place], color="#e6e6e6", lw=4, zorder=0)
        for who, marker in MARKERS.items():
            if who != OTHERS:
                size = 12 if who == ORACLE else 7
                axes.plot(
                    of[who]["gain"],
                    place - 0.2 * (who == RULE),
                    marker,
                    color=COLOURS[who],
                    ms=size,
                    mec="white",
                    zorder=3,
                )
    for who, marker in MARKERS.items():
        axes.plot([], [], marker, color=COLOURS[who], ls="", ms=5 if who == OTHERS else 7, label=who)
    labels = [
        f"{machine}\n{of[STATIC]['policy']}, a call {of[STATIC]['draft_share']:.0%}" for machine, of in machines.items()
    ]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("tokens/s, replayed, against the static depth tuned for the machine", fontsize=9)
    _plain(axes, columns=4)


def _speeds(axes: Axes, live: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(live):
        if row["error"] is None:
            continue
        axes.plot([row["live"], row["replayed"]], [place, place], color="#c9c9c9", lw=2, zorder=0)
        axes.plot(row["replayed"], place, "o", mfc="white", color=COLOURS[OWN], ms=7)
        axes.plot(row["live"], place, "o", color=COLOURS[OWN], ms=7, mec="white")
        end = max(row["live"], row["replayed"])
        axes.annotate(
            f"{row['error']:+.1%}", (end, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.plot([], [], "o", mfc="white", color=COLOURS[OWN], ms=7, label="replayed")
    axes.plot([], [], "o", color=COLOURS[OWN], ms=7, mec="white", label="live")
    axes.set_yticks(range(len(live)), [row["policy"] for row in live], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("tokens/s on this machine; the replay's error", fontsize=9)
    _plain(axes, columns=2)


def _plain(axes: Axes, columns: int) -> None:
    axes.legend(fontsize=8, frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    axes.tick_params(labelsize=8)
    plain(axes, "x")
