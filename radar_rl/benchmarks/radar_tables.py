"""``bench radar`` on the terminal: the published tables' shape with the paper's numbers, and what differs in words."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table

from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.radar_figures import ORACLE, TUNED, Contest
from radar_rl.benchmarks.telling import in_line, machine
from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.statistics import MIN_PROMPTS
from radar_rl.speculative.pair import Pair

WIDTH = 110

# Which of the paper's columns a task stands beside; those that ship only resemble it.
OWN_TASK = {"mt_bench": "MT-bench", "gsm8k": "GSM8K", "alpaca": "Alpaca", "mbpp": "MBPP"}
STANDS_IN = {"dialogue": "MT-bench", "arithmetic": "GSM8K", "instructions": "Alpaca", "python": "MBPP"}
COLUMN_OF = OWN_TASK | STANDS_IN

MEASURES = {
    "speedup": "Speedup over autoregressive decoding",
    "acceptance_length": "Acceptance length τ, tokens emitted per verification",
    "draft_calls": "Draft calls per round",
}


def paper_number(numbers: Mapping[str, Any], paper: str, measure: str, policy: str, task: str) -> float | None:
    """What the paper's table has for a policy on the task that ours stands beside; None if it has nothing.

    Args:
        numbers: of ``published("radar")``.
        paper: the target.
        measure: one of ``MEASURES``.
        policy: as rows call it; RADAR's own weights stand beside RADAR's numbers too.
        task: ours.
    """
    row = numbers["targets"][paper][measure].get("RADAR" if policy == "RADAR's weights" else policy)
    column = COLUMN_OF.get(task)
    return None if row is None or column is None else float(row[numbers["columns"].index(column)])


def tables(rows: pl.DataFrame, shown: Mapping[str, str], numbers: Mapping[str, Any], paper: str) -> Iterator[Table]:
    """The paper's three tables, ours and theirs in turn, then live decoding beside its replay.

    Args:
        rows: of ``radar_figures.figures``.
        shown: how the tables call policies, in their order.
        numbers: of ``published("radar")``.
        paper: the target whose numbers stand beside.
    """
    tasks = [task for task in rows["task"].unique(maintain_order=True) if task != ALL_TASKS]
    found = {(row["policy"], row["task"]): row for row in rows.iter_rows(named=True)}
    for measure, title in MEASURES.items():
        table = _table(f"{title}; live, beside RADAR's paper ({paper}). Oracle: replayed")
        for task in tasks:
            table.add_column(task, justify="right", no_wrap=True)
            if task in COLUMN_OF:
                table.add_column(f"{COLUMN_OF[task]}\npaper", justify="right", style="dim")
        for policy, name in {**shown, ORACLE: "oracle, clairvoyant"}.items():
            kind = f"{measure}_replayed" if policy == ORACLE else measure
            cells = []
            for task in tasks:
                cells.append(_number(found[policy, task][kind]))
                if task in COLUMN_OF:
                    cells.append(_number(paper_number(numbers, paper, measure, policy, task)))
            table.add_row(name, *cells, style=_style(policy))
        yield table
    yield _beside([found[name, ALL_TASKS] for name in (ALONE, *shown, ORACLE)], {ALONE: ALONE, **shown})


def _beside(rows: list[dict[str, Any]], shown: Mapping[str, str]) -> Table:
    table = _table(f"Live beside replayed, all {rows[0]['texts']} texts")
    for column in (
        "tokens/s\nlive",
        "\nreplayed",
        "\nerror",
        "× AR\nlive",
        "\nreplayed",
        f"live, vs\n{TUNED}",
        "\n95 % interval",
        "same\nτ, calls",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        low, high = row["gain_low"], row["gain_high"]
        relative = row["policy"] not in (ALONE, ORACLE)
        table.add_row(
            shown.get(row["policy"], row["policy"]),
            _number(row["tokens_per_second"], 1),
            _number(row["tokens_per_second_replayed"], 1),
            _percent(row["replay_error"]),
            _number(row["speedup"]),
            _number(row["speedup_replayed"]),
            _percent(row["gain"]) if relative else "",
            "" if low is None or not relative else f"{100 * low:+.1f} … {high:+.1%}",
            "" if row["agreeing"] is None else f"{row['agreeing']} of {row['texts']}",
            style=_style(row["policy"]),
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _style(policy: str) -> str:
    return {"ours": "green", TUNED: "bold", ORACLE: "dim"}.get(policy, "")


def differences(
    rows: pl.DataFrame, pair: Pair, contest: Contest, settings: Mapping[str, Any], paper: str
) -> Iterator[str]:
    """What the numbers are of, and how that differs from the paper's setting, line by line.

    Args:
        rows: the figures, by policy and task.
        pair: target and draft head.
        contest: what was decoded and replayed.
        settings: how.
        paper: the published column beside ours.
    """
    same, decoded = contest.same_texts()
    alike = "all" if same == decoded else "those that differ met a tie of two logits"
    yield f"Texts as the target alone writes them: {same} of {decoded} ({alike})."
    about = rows.filter(pl.col("task") == ALL_TASKS)
    parted = about.filter(pl.col("agreeing") < pl.col("texts"))["policy"].to_list()
    if parted:
        yield f"Live and replayed do not count the same everywhere: {', '.join(parted)}."
    if "EAGLE-2" in contest.shown:
        yield "EAGLE-2 was decoded live only: its head's trees are not in the trace."
    if contest.live.filter(pl.col("policy") == ALONE).select("task", "prompt_id").n_unique() < MIN_PROMPTS:
        yield f"No intervals: fewer than {MIN_PROMPTS} prompts."
    yield f"Replay: {contest.profile.name}; a decision costs what a network of the default size takes, RADAR's more."
    yield "Differences to the paper:"
    yield f"- target and heads: {pair.label}; theirs: {paper}."
    yield f"- machine: {in_line(machine(pair))}; theirs: a GPU, which their repository does not name, float16."
    stand_ins = [f"{task} for {STANDS_IN[task]}" for task in settings["tasks"] if task in STANDS_IN]
    if stand_ins:
        yield f"- prompts: stand-ins of our own, {', '.join(stand_ins)}; the paper's sets come with size=full."
    yield (
        f"- texts: temperature {settings['temperature']:g}, up to {settings['max_new_tokens']} tokens, one at a time; "
        "theirs: up to 512 tokens, one at a time, temperature 1 as the commands in their repository have it."
    )
    yield (
        "- speed: all tokens over all seconds, prefill not counted; theirs: mean speed of answers, prefill counted. "
        f"Autoregressive here: {_number(about.filter(pl.col('policy') == ALONE)['tokens_per_second'][0], 1)} tokens/s."
    )
    yield (
        "- RADAR, trained here: on the other prompts of the same sets, one training of their grid (α 0.02), "
        "which may settle on always continuing; β in units of this machine's rounds; stops where that is likelier. "
        "Theirs: on ShareGPT, chosen from a grid of 108, stops by chance, level 1 widened where it is alone."
    )
