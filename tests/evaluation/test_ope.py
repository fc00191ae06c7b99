import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from synthetic_trace import make_trace, write_collection

from radar_rl.errors import ArtifactError, ConfigError, InputError, TraceError
from radar_rl.evaluation.agreement import Agreement
from radar_rl.evaluation.candidates import candidates
from radar_rl.evaluation.ope import SCHEMA, Problem, ope
from radar_rl.evaluation.ope_report import agreement_words, better_half, draw_ope, number_places, print_ope
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import ConfidenceThreshold, RandomStop, StaticDepth
from radar_rl.rollouts import Trace
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.split import held_out
from radar_rl.runtime.artifact import load_policy, save_policy
from radar_rl.speculative.hardware import HardwareProfile

# One is asked late, one decides nothing: they pay for fewer decisions than there are states.
RULES = (ConfidenceThreshold(0.3, asks_from=3), StaticDepth(4), ConfidenceThreshold(0.3))
MADE_WITH = {"target": "target@0", "draft": "draft@0", "max_depth": 8, "top_k": 10, "tree_size": 60}


def asked(collection: Path, hardware_file: Path, out: Path, runs: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "traces": str(collection),
        "runs": runs,
        "hardware": str(hardware_file),
        "model": {},
        "behaviour": "uniform",
        "episode": "sequence",
        "shaped": True,
        "held_out": 0.3,
        "share": 1.0,
        "fqe": {"steps": 20, "batch_size": 64},
        "allow_other_pair": False,
        "tree_size": None,
    } | changes


@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize("shaped", [True, False])
def test_estimates_stand_beside_exact_values(
    collection: Path,
    hardware_file: Path,
    runs: dict[str, Path],
    trace: Trace,
    tmp_path: Path,
    capsys,
    episode: str,
    shaped: bool,
) -> None:
    save_policy(tmp_path / "late", RULES[0], MADE_WITH)
    policies = [str(runs["cql"]), str(runs["bc"]), "static:4", "threshold:0.3", str(tmp_path / "late")]
    rows = ope(**asked(collection, hardware_file, tmp_path, policies, episode=episode, shaped=shaped))
    assert [(row["policy"], row["texts"]) for row in rows] == [
        (name, half) for half in ("training", "held-out") for name in ("cql", "bc", *(rule.name for rule in RULES))
    ]
    assert pl.read_parquet(tmp_path / "ope.parquet").to_dicts() == rows
    assert (tmp_path / "ope.png").read_bytes().startswith(b"\x89PNG")
    assert [row["algorithm"] for row in rows[:5]] == ["cql", "bc", None, None, None]
    assert all(row["error"] == pytest.approx(row["estimate"] - row["exact"]) for row in rows)
    assert "Spearman ρ" in capsys.readouterr().out
    hidden = held_out(trace.sequences.prompt_id, 0.3)
    if episode == "round":
        assert all(row["tokens_per_second"] is None for row in rows)
        assert rows[-1]["starts"] == (hidden[trace.sequence] & ~trace.censored).sum()
        return
    # A text's value names the throughput that every other table has: each policy pays for the decisions it makes.
    outcomes = Outcomes.of(trace.select(hidden), HardwareProfile.load(hardware_file))
    for row, policy in zip(rows[5:], [*map(load_policy, policies[:2]), *RULES], strict=True):
        assert row["tokens_per_second"] == pytest.approx(walk_policy(outcomes, policy).tokens_per_second), row["policy"]
    assert rows[-1]["starts"] == len(outcomes.trace.first_row)
    best = max(rows[:5], key=lambda row: row["exact"])
    assert best["tokens_per_second"] == max(row["tokens_per_second"] for row in rows[:5])


def test_an_estimate_of_shaped_rewards_has_the_potential_added_again(trace: Trace, hardware_file: Path) -> None:
    outcomes = Outcomes.of(trace, HardwareProfile.load(hardware_file))
    problem = Problem.of(outcomes, Reward(rate=350.0), "round", 1.0)
    assert problem.phi is not None
    (candidate,) = candidates(["static:4"])
    nothing = SimpleNamespace(at_first_call=lambda seen, rows: np.zeros(len(rows)))
    values = problem.values(candidate, problem.seen(candidate), nothing)  # type: ignore[arg-type]
    assert values["estimate"] == pytest.approx(problem.phi[problem.starts, 0].mean())
    assert values["estimate"] != 0.0


def test_a_seed_gives_the_same_table(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    first, second = (
        ope(**asked(collection, hardware_file, tmp_path / name, ["static:2", "static:8"])) for name in ("one", "two")
    )
    assert first == second


def test_agreement_is_of_ranks_errors_and_the_choice_made() -> None:
    same = Agreement.of([1.0, 2.0, 3.0, 4.0], [-4.0, -3.0, -2.0, -1.0])
    assert (same.spearman, same.kendall, same.regret) == (pytest.approx(1.0), pytest.approx(1.0), 0.0)
    assert (same.mean_error, same.absolute_error, same.spread_error) == (-5.0, 5.0, 0.0)
    turned = Agreement.of([1.0, 2.0, 4.0], [3.0, 2.0, 1.0])
    assert (turned.spearman, turned.regret) == (pytest.approx(-1.0), 3.0)
    assert Agreement.of([1.0, 2.0, 2.0], [5.0, 5.0, 5.0]).spearman is None
    few = Agreement.of([1.0, 2.0], [1.0, 2.0])
    assert (few.spearman, few.kendall) == (None, None)
    assert "2 policies: fewer than 3 have no rank correlation" in agreement_words(few)
    assert np.isfinite(few.absolute_error)


def test_the_better_half_is_looked_at_by_itself(tmp_path: Path, capsys) -> None:
    values = [-9.0, -5.0, 0.0, 0.1, 0.2, 0.3]
    told = [-9.0, -5.0, 0.0, 0.3, 0.2, 0.1]
    rows = pl.DataFrame(
        [
            dict.fromkeys(SCHEMA)
            | {"policy": f"p{i}", "texts": "training", "exact": exact, "estimate": estimate, "error": estimate - exact}
            | {"starts": 5, "estimator_episode": "round", "rate": 1.0, "hardware": "made up"}
            for i, (exact, estimate) in enumerate(zip(values, told, strict=True))
        ],
        schema=SCHEMA,
    )
    assert better_half(rows)["policy"].to_list() == ["p3", "p4", "p5"]
    print_ope(rows)
    printed = " ".join(capsys.readouterr().out.split())
    assert "All: Spearman ρ 0.77" in printed
    assert "The better half: Spearman ρ -1.00" in printed
    draw_ope(rows, tmp_path / "ope.png")
    assert (tmp_path / "ope.png").is_file()


def test_numbers_in_a_cluster_stand_apart() -> None:
    points = np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 3.0], [3.0, 2.0], [80.0, 80.0]])
    numbers = points + np.array(number_places(points))
    apart = np.abs(numbers[:, None] - numbers[None]) >= (8.0, 7.0)
    assert (apart.any(axis=2) | np.eye(5, dtype=bool)).all()


def test_folders_of_policies_are_searched(runs: dict[str, Path], tmp_path: Path, caplog) -> None:
    save_policy(tmp_path / "rules" / "mine", ConfidenceThreshold(0.3), MADE_WITH)
    save_policy(tmp_path / "rules" / "chance", RandomStop(0.5), MADE_WITH)
    found = candidates([str(runs["cql"].parent), str(tmp_path / "rules"), "static:2"])
    assert "left out chance, which remember rounds or draw by chance" in caplog.text
    assert len(found) == 5
    # Runs that share a name are called by their folders, and so is what stands beside them.
    assert [each.name for each in found] == ["bc", "bc-again", "cql", "mine", "static-2"]
    assert found[-2].policy.name == "threshold-0.3"
    assert {each.facts.get("algorithm") for each in found} == {"cql", "bc", None}
    save_policy(tmp_path / "bare", ConfidenceThreshold(0.3), {})
    with pytest.raises(ArtifactError, match="does not say with which target, draft, max_depth"):
        candidates([str(tmp_path / "bare")])


def test_what_cannot_be_evaluated_is_named(
    collection: Path, hardware_file: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    def fails(kind: type[Exception], told: str, policies: list[str], **changes: Any) -> None:
        with pytest.raises(kind, match=told):
            ope(**asked(collection, hardware_file, tmp_path / "out", policies, **changes))

    fails(ConfigError, "give policies", [])
    fails(InputError, "no policy in .*nowhere", [str(tmp_path / "nowhere")])
    fails(ConfigError, "random-0.5 looks back at rounds, or draws by chance", ["random:0.5"])
    fails(ConfigError, "two policies are called static-2", ["static:2", "static:2"])
    fails(ConfigError, "a folder is there twice", [str(runs["bc"]), str(runs["bc"])])
    fails(ConfigError, r"fqe: unknown settings \['gamma'\]", ["static:2"], fqe={"gamma": 0.9})
    fails(ConfigError, "unknown behaviour", ["static:2"], behaviour="nobody")
    fails(ConfigError, "unknown episode", ["static:2"], episode="day")
    fails(ConfigError, "share", ["static:2"], share=0.0)
    fails(ConfigError, "static-9: rounds of the trace have at most 8 draft calls", ["static:8", "static:9"])
    fails(TraceError, "trained for trees of 60 nodes, but tree_size=30", [str(runs["bc"])], tree_size=30)
    other = write_collection(tmp_path / "other", make_trace(prompts=10, new_tokens=20, max_depth=5))
    fails(TraceError, "trained with max_depth=8", [str(runs["bc"])], traces=str(other))
    pair = write_collection(tmp_path / "pair", make_trace(prompts=10, new_tokens=20, target="other@1"))
    fails(TraceError, "allow_other_pair=true", [str(runs["bc"])], traces=str(pair))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_behaviour_that_takes_one_action_alone_is_refused(
    collection: Path, hardware_file: Path, tmp_path: Path
) -> None:
    dear = json.loads(hardware_file.read_text())
    dear["draft_seconds"] = [1.0] * len(dear["draft_seconds"])  # the tuned static depth is 1: it never continues
    (tmp_path / "dear.json").write_text(json.dumps(dear))
    with pytest.raises(ConfigError, match="behaviour static: expected both actions in the data, got only stop"):
        ope(**asked(collection, tmp_path / "dear.json", tmp_path / "out", ["static:2"], behaviour="static"))
    assert not (tmp_path / "out").exists()


def test_a_small_share_is_fitted_to_and_all_held_out_texts_compared(
    collection: Path, hardware_file: Path, tmp_path: Path, capsys
) -> None:
    whole = ope(**asked(collection, hardware_file, tmp_path / "a", ["static:2", "static:5"]))
    part = ope(**asked(collection, hardware_file, tmp_path / "b", ["static:2", "static:5"], share=0.5))
    starts = {half: [rows[i]["starts"] for rows in (whole, part)] for i, half in ((0, "training"), (-1, "held-out"))}
    assert starts["training"][1] < starts["training"][0]
    assert starts["held-out"][1] == starts["held-out"][0]
    assert re.search("2 policies: fewer than 3", capsys.readouterr().out)
