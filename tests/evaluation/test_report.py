import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import headless_chromium
import numpy as np
import polars as pl
import pytest
from headless_chromium import Browser, chromium

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.evaluation.report.canvas import ROLES, apart
from radar_rl.evaluation.report.evaluated import Evaluated, best, the
from radar_rl.evaluation.report.prices import Prices
from radar_rl.evaluation.report.replay import Texts, at_price, follow, follow_oracle, static_rounds
from radar_rl.evaluation.report.report import report
from radar_rl.evaluation.report.sweep import sweep_picture
from radar_rl.evaluation.report.wording import folded, interval, signed_percent
from radar_rl.offline.results import write_results
from radar_rl.offline.run import load_run
from radar_rl.offline.walk import Outcomes
from radar_rl.policies import StaticDepth
from radar_rl.rollouts import Trace, held_out

PICTURES = ("gains", "accepted", "stopping", "prices", "round-time")
Report = Callable[..., dict[str, Any]]


def evaluating(traces: Path, out: Path, runs: list[Path], hardware: Any) -> None:
    evaluate(
        out=str(out),
        traces=str(traces),
        runs=[str(run) for run in runs],
        hardware=hardware,
        model={},
        allow_other_pair=False,
        held_out=0.3,
        seed=0,
        tree_size=None,
        resamples=100,
    )


def reporting(traces: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "out": str(out),
        "traces": str(traces),
        "evaluation": None,
        "runs": [],
        "sweep": None,
        "hardware": None,
        "model": {},
        "allow_other_pair": False,
        "held_out": 0.3,
        "seed": 0,
        "tree_size": None,
        "resamples": 100,
    }
    return report(**values | changes)


@pytest.fixture(scope="module")
def evaluation(
    tmp_path_factory: pytest.TempPathFactory, collection: Path, hardware_file: Path, runs: dict[str, Path]
) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluating(collection, folder, [runs["cql"], runs["bc"]], [str(hardware_file), "share_20"])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, collection: Path, evaluation: Path, runs: dict[str, Path]) -> Path:
    """A report's folder, with a picture of a sweep."""
    write_results(runs["cql"].parent)
    folder = tmp_path_factory.mktemp("report")
    reporting(collection, folder, evaluation=str(evaluation), sweep=str(runs["cql"].parent))
    return folder


def test_the_page_says_what_the_evaluation_found(made: Path, evaluation: Path) -> None:
    page = (made / "report.html").read_text()
    evaluated = Evaluated.read(evaluation)
    row = best(evaluated.judged(evaluated.machines[0]))
    assert row["kind"] == "learned"
    gain = signed_percent(row["speedup_static"] - 1)
    assert f"<dd>{gain}</dd>" in page
    assert "too few" in page if row["speedup_static_low"] is None else "clear of zero" in page or "zero among" in page
    heading = re.search(r"<h1>(.*?)</h1>", page)
    assert heading is not None
    assert heading[1].startswith(f"{row['algorithm']} decodes {gain.strip('+−')}")
    for machine in evaluated.machines:
        assert machine.name.replace("'", "&#39;") in page
    for name in (*PICTURES, "sweep"):
        assert (made / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'<section id="{name}">' in page


def test_the_page_needs_nothing_else_and_takes_its_colours_from_the_reader(made: Path) -> None:
    page = (made / "report.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:href|src)="([^"]*)"', page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([\w-]+)', page)
    assert used
    assert set(used) <= set(ids)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 2 * (len(PICTURES) + 1)
    for chart in charts:
        assert 'role="img"' in chart
        assert 'aria-label="' in chart
        assert "<text" in chart
        assert not re.findall(r"(?:fill|stroke): #\w+", chart)
    for light, dark in ROLES.values():
        assert light in page
        assert dark in page


def test_the_same_input_gives_the_same_page(
    made: Path, tmp_path: Path, collection: Path, evaluation: Path, runs: dict[str, Path]
) -> None:
    reporting(collection, tmp_path, evaluation=str(evaluation), sweep=str(runs["cql"].parent))
    again = (tmp_path / "report.html").read_text().replace(str(tmp_path), str(made))
    assert again == (made / "report.html").read_text()


def test_counts_of_stops_cost_what_walks_do(trace: Trace, evaluation: Path, runs: dict[str, Path]) -> None:
    some = trace.select(held_out(trace.sequences.prompt_id, 0.3))
    for machine in (evaluated := Evaluated.read(evaluation)).machines:
        outcomes = Outcomes.of(some, machine)
        texts = Texts.of(outcomes)
        judged, pooled = evaluated.judged(machine), evaluated.pooled(machine)
        base = follow(outcomes, StaticDepth(int(pooled[0]["baseline"][-1]))).seconds(machine, texts.nodes)
        stops = {name: follow(outcomes, load_run(runs[name]).policy) for name in ("cql", "bc")}
        for name, own in (stops | {"oracle": follow_oracle(outcomes)}).items():
            seconds = own.seconds(machine, texts.nodes)
            assert texts.emitted.sum() / seconds.sum() == pytest.approx(the(pooled, name)["tokens_per_second"])
            assert texts.speedup(seconds, base) == pytest.approx(the(judged, name)["speedup_static"])
            assert sum(own.parts(machine, texts.nodes).values()) == pytest.approx(seconds.sum())
            assert own.rounds.sum() == the(pooled, name)["rounds"]
            decided = own.decisions.sum(axis=(1, 2))
            assert decided[0] == own.rounds.sum()
            np.testing.assert_array_equal(own.decisions[:, :, 1].sum(axis=1), own.rounds.sum(axis=0)[:-1])


def test_prices_are_those_of_the_machine_where_they_are_its_own(trace: Trace, evaluation: Path) -> None:
    evaluated = Evaluated.read(evaluation)
    machine = evaluated.machines[0]
    some = trace.select(held_out(trace.sequences.prompt_id, 0.3))
    outcomes = Outcomes.of(some, machine)
    texts = Texts.of(outcomes)
    statics = [follow(outcomes, StaticDepth(depth)) for depth in range(1, 9)]
    rounds = static_rounds(trace.select(~held_out(trace.sequences.prompt_id, 0.3)))
    prices = Prices.around(machine, texts, rounds, statics)
    here = prices.shares.index(prices.own)
    judged = evaluated.judged(machine)
    assert f"static-{prices.tuned()[here]}" == judged[0]["baseline"]
    assert prices.tuned() == sorted(prices.tuned(), reverse=True)
    oracle = prices.gains(lambda priced: follow_oracle(Outcomes.of(some, priced)))
    default = prices.gains(lambda _: statics[-1])
    assert oracle[here] == pytest.approx(the(judged, "oracle")["speedup_static"] - 1)
    assert default[here] == pytest.approx(the(judged, "static-8")["speedup_static"] - 1)
    assert (oracle >= default).all()
    dear = at_price(machine, 0.4, texts.nodes)
    assert dear.draft_share(int(texts.nodes[-1])) == pytest.approx(0.4)
    assert dear.rest_seconds == machine.rest_seconds


def test_other_texts_or_machines_than_those_evaluated_are_refused(
    collection: Path, evaluation: Path, tmp_path: Path, runs: dict[str, Path]
) -> None:
    rows = pl.read_parquet(evaluation / "evaluation.parquet")
    altered = tmp_path / "altered"
    (altered / "rules").parent.mkdir()
    (altered / "rules").symlink_to(evaluation / "rules")
    rows.with_columns(tokens_per_second=pl.col("tokens_per_second") * 1.001).write_parquet(
        altered / "evaluation.parquet"
    )
    with pytest.raises(TraceError, match="on the texts of traces="):
        reporting(collection, tmp_path / "out", evaluation=str(altered))
    with pytest.raises(ConfigError, match="does not compare on 'fast GPU"):
        reporting(collection, tmp_path / "out", evaluation=str(evaluation), hardware="gpu_fast")
    with pytest.raises(InputError, match="no table at"):
        reporting(collection, tmp_path / "out", evaluation=str(tmp_path / "nothing"))
    rows.with_columns(run=pl.lit("gone")).write_parquet(altered / "evaluation.parquet")
    with pytest.raises(ConfigError, match="give the folders of"):
        reporting(collection, tmp_path / "out", evaluation=str(altered))
    told = reporting(
        collection, tmp_path / "out", evaluation=str(altered), runs=[str(runs[name]) for name in ("cql", "bc")]
    )
    assert Path(told["page"]).is_file()


def test_without_an_evaluation_it_evaluates_and_a_rule_leads_where_nothing_is_learned(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    told = reporting(collection, tmp_path, hardware=str(hardware_file))
    rows = pl.read_parquet(tmp_path / "evaluation" / "evaluation.parquet")
    rules = rows.filter((pl.col("kind") == "rule") & (pl.col("task") == "mean")).sort("speedup_static", descending=True)
    assert told["policy"] == rules["policy"][0]
    assert told["policy"] in told["headline"]
    page = (tmp_path / "report.html").read_text()
    assert "a machine" not in page
    assert f"hardware={hardware_file}" in page


def test_a_sweeps_picture_needs_a_table(tmp_path: Path, runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="sweep: no table"):
        sweep_picture(tmp_path)
    write_results(runs["cql"].parent)
    picture = sweep_picture(runs["cql"].parent)
    assert "3 runs" in picture.title
    assert "training prompts" in picture.reading


def test_labels_keep_their_distance_and_their_order() -> None:
    values = [1.0, 5.0, 1.1, 0.9, 9.0]
    places = apart(values, 0.5)
    assert np.argsort(places).tolist() == np.argsort(values).tolist()
    assert np.diff(np.sort(places)).min() >= 0.5 - 1e-9
    assert places[1] == 5.0
    assert np.mean(np.sort(places)[:3]) == pytest.approx(1.0)


def test_words_and_numbers() -> None:
    assert signed_percent(0.0774) == "+7.7\u202f%"
    assert signed_percent(-0.0004) == "0.0\u202f%"
    assert signed_percent(-0.02, 0) == "−2\u202f%"
    assert interval(0.99, 1.085) == "−1.0 … +8.5\u202f%"
    assert folded("joint-0.035-from-3", 14) == "joint-0.035-\nfrom-3"
    assert folded("a draft call at 0.06 of a round's rest", 20, 1) == "a draft call at 0.0…"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if headless_chromium.PROGRAM is None:
        pytest.skip("no Chromium here: Debian's is apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def sample_page(repository: Path, tmp_path_factory: pytest.TempPathFactory, train_run: Callable[..., None]) -> Path:
    """The report of the sample that ships."""
    folder = tmp_path_factory.mktemp("sample")
    traces = repository / "datasets" / "sample" / "traces"
    train_run(traces, Path("share_06"), folder / "bc", "bc")
    evaluating(traces, folder / "evaluation", [folder / "bc"], ["share_06", "share_20"])
    told = reporting(traces, folder / "report", evaluation=str(folder / "evaluation"))
    return Path(told["page"])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_it(browser: Browser, sample_page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    browser.open(sample_page, width, 800, dark=dark)
    shown = "[...document.querySelectorAll('svg')].filter(chart => chart.getBoundingClientRect().height > 100)"
    assert browser.evaluate(f"{shown}.map(chart => chart.closest('section').id).join()") == ",".join(PICTURES)
    kind = "narrow" if width < 600 else "wide"
    assert browser.evaluate(f"{shown}.every(chart => chart.classList.contains('{kind}'))")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        browser.evaluate("Math.max(...[...document.querySelectorAll('svg')].map(c => c.getBoundingClientRect().right))")
        <= width
    )
    smallest = (
        f"Math.min(...{shown}.flatMap(c => [...c.querySelectorAll('text')]).map(t => t.getBoundingClientRect().height))"
    )
    assert browser.evaluate(smallest) >= 9
    surface = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert surface == "rgb({}, {}, {})".format(*(int(ROLES["surface"][dark][i : i + 2], 16) for i in (1, 3, 5)))
    inks = browser.evaluate(f"{shown}.map(c => getComputedStyle(c.querySelector('text')).fill).join('|')").split("|")
    assert all((sum(map(int, re.findall(r"\d+", ink)[:3])) > 380) == dark for ink in inks)
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert browser.complaints() == []
    assert browser.requests() == [sample_page.resolve().as_uri()]
