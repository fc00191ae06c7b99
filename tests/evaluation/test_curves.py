from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure

from radar_rl.evaluation.compare import SCHEMA
from radar_rl.evaluation.curves import differing_positions, learning_curves


def row(kind: str, speedup: float, **changes: Any) -> dict[str, Any]:
    values = dict.fromkeys(SCHEMA) | {"policy": kind, "kind": kind, "task": "all", "hardware": "here"}
    ends = {"speedup_static_low": speedup - 0.01, "speedup_static_high": speedup + 0.01}
    return values | ends | {"speedup_static": speedup, "baseline": "static-3"} | changes


def learned(speedup: float, positions: int | None, **changes: Any) -> dict[str, Any]:
    facts = {"algorithm": "cql", "observation": "confidences", "trained_for": "here", "settings": "{}"}
    return row("learned", speedup, positions=positions, **facts | changes)


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([row("rule", 1.02), *rows, row("oracle", 1.40)], schema=SCHEMA)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: figures.append(self))
    return figures


def points(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    lines = {str(line.get_label()): line for line in figure.axes[panel].get_lines()}
    return {
        name: [(float(x), round(float(y), 6)) for x, y in line.get_xydata()]
        for name, line in lines.items()
        if not name.startswith("_")
    }


def test_a_line_for_each_algorithm_and_observation(drawn: list[Figure], tmp_path: Path) -> None:
    rows = table(
        learned(1.10, 1000),
        learned(1.06, 100, seed=0),
        learned(1.04, 100, seed=1),
        learned(1.08, 100, observation="confidences,entropy"),
        learned(1.12, 1000, observation="confidences,entropy"),
        learned(1.5, 100, algorithm="bc"),  # one point is no curve
        learned(1.3, 1000, trained_for="elsewhere"),  # not what training for this machine brings
    )
    assert differing_positions(rows)
    learning_curves(rows, tmp_path / "c.png")
    gains = points(drawn[0], 0)
    assert gains["cql · confidences"] == [(100, 0.05), (1000, 0.10)]
    assert gains["cql · confidences,entropy"] == [(100, 0.08), (1000, 0.12)]
    assert gains["best tuned rule"][0][1] == 0.02
    assert len(gains) == 3
    assert points(drawn[0], 1)["cql · confidences"] == [(100, 0.125), (1000, 0.25)]


@pytest.mark.parametrize(
    "differs", [{"newest": 2}, {"reward": '{"kind": "linear"}'}, {"settings": '{"alpha": 1.0}'}, {"episode": "round"}]
)
def test_runs_of_one_line_differ_in_their_share_alone(
    differs: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    common = {"reward": '{"kind": "throughput"}', "settings": '{"alpha": 0.1}', "episode": "sequence"}
    one, other = learned(1.05, 100, **common, share=0.1), learned(1.10, 1000, **common | differs, share=1.0)
    assert not differing_positions(table(one, other))
    rows = table(one, other, learned(1.15, 1000, **common, share=1.0))
    assert differing_positions(rows)
    learning_curves(rows, tmp_path / "c.png")
    (line,) = [values for name, values in points(drawn[0], 0).items() if name.startswith("cql")]
    assert line == [(100, 0.05), (1000, 0.15)]


def test_means_over_tasks_are_drawn_where_there_are_any(drawn: list[Figure], tmp_path: Path) -> None:
    means = [learned(1.01, 100, task="mean"), learned(1.02, 1000, task="mean"), row("oracle", 1.2, task="mean")]
    learning_curves(table(learned(1.10, 1000), learned(1.05, 100), *means), tmp_path / "c.png")
    assert points(drawn[0], 0)["cql"] == [(100, 0.01), (1000, 0.02)]


def test_runs_of_one_size_make_no_curve() -> None:
    assert not differing_positions(table(learned(1.1, 100), learned(1.2, 100, seed=1)))
    assert not differing_positions(table(learned(1.1, None), learned(1.2, None, seed=1)))
    assert not differing_positions(table(learned(1.1, 100), learned(1.2, 1000, algorithm="bc")))


def test_without_intervals_there_is_a_line_still(tmp_path: Path) -> None:
    none = {"speedup_static_low": None, "speedup_static_high": None}
    learning_curves(table(learned(1.1, 1000, **none), learned(1.05, 100, **none)), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
