import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from rich.console import Console

from radar_rl.evaluation.compare import SCHEMA
from radar_rl.evaluation.retarget import draw_retargeting, print_retargeting, retargetings

MACHINES = ("small machine", "large machine")


def row(policy: str, hardware: str, speedup: float, trained_for: str, **changes: Any) -> dict[str, Any]:
    facts = {"algorithm": "cql", "observation": "confidences", "behaviour": "uniform", "episode": "sequence"}
    facts |= {"settings": '{"alpha": 0.1}', "reward": '{"kind": "throughput"}', "share": 1.0, "steps": 4000}
    values = dict.fromkeys(SCHEMA) | facts | {"kind": "learned", "task": "all", "seed": 0, "baseline": "static-3"}
    return (
        values
        | {"policy": policy, "hardware": hardware, "speedup_static": speedup, "trained_for": trained_for}
        | changes
    )


def table(*more: dict[str, Any]) -> pl.DataFrame:
    rows = [
        row("a", MACHINES[0], 1.10, MACHINES[0]),
        row("b", MACHINES[0], 0.90, MACHINES[1]),
        row("a", MACHINES[1], 0.80, MACHINES[0], baseline="static-8"),
        row("b", MACHINES[1], 1.05, MACHINES[1], baseline="static-8"),
    ]
    return pl.DataFrame([*rows, *more], schema=SCHEMA)


def test_rows_are_what_runs_were_trained_for_columns_what_they_run_on() -> None:
    (matrix,) = retargetings(table())
    assert (matrix.trained_for, matrix.run_on, matrix.label) == (MACHINES, MACHINES, "cql")
    assert matrix.baselines == ("static-3", "static-8")
    np.testing.assert_allclose(matrix.gains, [[0.10, -0.20], [-0.10, 0.05]])


def test_seeds_are_averaged_and_what_else_differs_is_a_matrix_of_its_own() -> None:
    again = [
        row("c", MACHINES[0], 1.20, MACHINES[0], seed=1),
        row("c", MACHINES[1], 0.90, MACHINES[0], seed=1),
    ]
    elsewhere = [row("d", machine, 2.0, "a third machine") for machine in MACHINES]
    alone = [row("e", machine, 1.5, MACHINES[0], algorithm="bc") for machine in MACHINES]
    (matrix,) = retargetings(table(*again, *elsewhere, *alone))
    assert matrix.label == "cql, mean over 2 seeds"
    np.testing.assert_allclose(matrix.gains, [[0.15, -0.15], [-0.10, 0.05]])
    both = [row("f", on, 1.0, for_, episode="round") for on in MACHINES for for_ in MACHINES]
    assert [matrix.label for matrix in retargetings(table(*both))] == ["cql · sequence", "cql · round"]


@pytest.mark.parametrize(
    ("differs", "labels"),
    [
        ({"newest": 2}, ["cql · newest=None", "cql · newest=2"]),
        ({"reward": '{"kind": "radar", "alpha": 0.03}'}, ["cql · throughput", "cql · radar 0.03"]),
        ({"settings": '{"alpha": 1.0}'}, ["cql · alpha=0.1", "cql · alpha=1.0"]),
        ({"share": 0.5}, ["cql · share=1.0", "cql · share=0.5"]),
        ({"steps": 100}, ["cql · steps=4000", "cql · steps=100"]),
        ({"data_hash": "1234567890"}, ["cql · data None", "cql · data 12345678"]),
    ],
    ids=lambda value: next(iter(value)),
)
def test_runs_of_one_matrix_differ_in_the_machine_alone(differs: dict[str, Any], labels: list[str]) -> None:
    others = [row("f", on, 2.0, for_, **differs) for on in MACHINES for for_ in MACHINES]
    matrices = retargetings(table(*others))
    assert [matrix.label for matrix in matrices] == labels
    np.testing.assert_allclose(matrices[0].gains, [[0.10, -0.20], [-0.10, 0.05]])
    one_each = [row("g", on, 2.0, MACHINES[0], **differs) for on in MACHINES]
    assert len(retargetings(table(*one_each))) == 1


def test_means_over_tasks_are_taken_where_there_are_any() -> None:
    means = table().with_columns(task=pl.lit("mean"), speedup_static=pl.col("speedup_static") + 0.01)
    (matrix,) = retargetings(pl.concat([table(), means]))
    assert matrix.label == "cql, mean over tasks"
    np.testing.assert_allclose(matrix.gains, [[0.11, -0.19], [-0.09, 0.06]])


def test_runs_of_one_machine_have_no_matrix() -> None:
    assert retargetings(table().filter(pl.col("trained_for") == MACHINES[0])) == []


def test_it_is_printed_and_drawn(tmp_path: Path) -> None:
    matrices = retargetings(table())
    screen = io.StringIO()
    print_retargeting(matrices, Console(width=100, file=screen, color_system=None))
    (line,) = [line for line in screen.getvalue().splitlines() if line.strip("│ ").startswith("large machine  ")]
    assert line.split()[-2:] == ["-10.0%", "+5.0%"]
    draw_retargeting(matrices, tmp_path / "r.png")
    colours = {tuple(pixel) for pixel in (255 * imread(tmp_path / "r.png")[:, :, :3]).astype(int).reshape(-1, 3)}
    assert any(red > blue + 100 for red, _, blue in colours)  # a loss
    assert any(blue > red + 80 for red, _, blue in colours)  # a gain


@pytest.mark.parametrize("count", [1, 3])
def test_every_matrix_is_drawn(tmp_path: Path, count: int) -> None:
    draw_retargeting(retargetings(table()) * count, tmp_path / "r.png")
    assert imread(tmp_path / "r.png").shape[0] > 250 * count
