import numpy as np
import polars as pl
import pytest
from synthetic_trace import HARDWARE, written_out

from radar_rl.errors import ConfigError, TraceError
from radar_rl.offline.behaviour import stopping_at
from radar_rl.offline.coverage import actions_taken, check_actions
from radar_rl.offline.from_rollouts import RolloutData
from radar_rl.offline.transitions import TraceTransitions
from radar_rl.offline.walk import Outcomes, policy_depths, walk_policy
from radar_rl.policies import Policy, StaticDepth
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Reward
from radar_rl.rollouts.acting import Slot, act_on, joined
from radar_rl.rollouts.columns import rollouts_table
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.sessions import ReplayTexts
from radar_rl.rollouts.split import learned_from

POLICY = ConfidenceThreshold(0.2)


def log_of(outcomes: Outcomes, policy: Policy) -> pl.DataFrame:
    texts, spec = ReplayTexts(outcomes.trace), ObservationSpec()
    payments = Payments.of(HARDWARE, Reward(), max_depth=8, top_k=10, tree_size=60)
    slots = [Slot(index) for index in range(len(texts))]
    rows = joined(act_on(texts, slots, policy, spec=spec, payments=payments))
    return pl.DataFrame(rollouts_table(rows, spec.size))


@pytest.fixture(scope="module")
def logged(outcomes: Outcomes) -> pl.DataFrame:
    return log_of(outcomes, POLICY)


def made(logged: pl.DataFrame, outcomes: Outcomes, episode="sequence") -> RolloutData:
    train = np.ones(logged.height, dtype=bool)
    return RolloutData.of(logged, HARDWARE, outcomes.nodes, Reward(), episode, ObservationSpec(), train)


@pytest.mark.parametrize("episode", ["sequence", "round"])
def test_rollouts_give_the_transitions_of_the_same_walk_over_the_trace(logged, outcomes: Outcomes, episode) -> None:
    data = made(logged, outcomes, episode)
    mine = data.transitions(rate=350.0)

    depths = policy_depths(outcomes, POLICY)
    table = written_out(TraceTransitions.of(outcomes, stopping_at(outcomes, depths), Reward(rate=350.0), episode))
    row_of = {key: i for i, key in enumerate(zip(outcomes.trace.sequence, outcomes.trace.position, strict=True))}
    texts = {name: i for i, name in enumerate(outcomes.trace.sequences.prompt_id)}
    step_rows = [row_of[texts[name], position] for name, position in logged.select("prompt_id", "position").iter_rows()]
    by_state = {(r, d): i for i, (r, d) in enumerate(zip(table.row, table.depth, strict=True))}
    assert len(mine) > 200
    for i in range(len(mine)):
        row, depth = step_rows[mine.row[i]], int(mine.depth[i])
        j = by_state[row, depth]
        assert mine.action[i] == table.action[j]
        assert mine.reward[i] == pytest.approx(table.reward[j], abs=1e-4)
        assert mine.terminal[i] == table.terminal[j]
        if not mine.terminal[i]:
            assert step_rows[mine.next_row[i]] == table.next_row[j]
            assert mine.next_depth[i] == table.next_depth[j]
        seen = data.source.observe(mine.row[[i]], mine.depth[[i]])
        built = data.spec.build(outcomes.trace.confidences[[row]], np.array([depth]))
        np.testing.assert_array_equal(seen, built)


@pytest.mark.parametrize("policy", [POLICY, ConfidenceThreshold(0.2, asks_from=3), StaticDepth(4)])
def test_the_first_rate_is_the_logged_policys_own_throughput(outcomes: Outcomes, policy: Policy) -> None:
    data = made(log_of(outcomes, policy), outcomes)
    assert data.first_rate == pytest.approx(walk_policy(outcomes, policy).tokens_per_second)


def test_the_first_rate_is_of_the_training_prompts(logged, outcomes: Outcomes) -> None:
    names = outcomes.trace.sequences.prompt_id
    some = learned_from(logged["prompt_id"].to_list(), 0.5, 1.0)
    data = RolloutData.of(logged, HARDWARE, outcomes.nodes, Reward(), "sequence", ObservationSpec(), some)
    run = walk_policy(outcomes, POLICY).of_sequences(learned_from(names, 0.5, 1.0))
    assert data.first_rate == pytest.approx(run.tokens_per_second)


def test_censored_steps_and_held_out_prompts_are_not_learned_from(logged, outcomes: Outcomes) -> None:
    train = logged["prompt_id"].to_numpy() != "p0"
    data = RolloutData.of(logged, HARDWARE, outcomes.nodes, Reward(), "sequence", ObservationSpec(), train)
    chosen = data.transitions(100.0).row
    assert not logged["censored"].to_numpy()[chosen].any()
    assert logged["censored"].any()
    assert "p0" not in logged["prompt_id"].to_numpy()[chosen]


def test_a_log_without_a_step_to_learn_from_is_told(logged, outcomes: Outcomes) -> None:
    with pytest.raises(TraceError, match="no step is left to train on"):
        made(logged.with_columns(censored=pl.lit(value=True)), outcomes)


def test_an_action_never_taken_is_counted(logged, outcomes: Outcomes) -> None:
    always = made(logged.with_columns(action=pl.lit(1, dtype=pl.Int8)), outcomes)
    with pytest.raises(ConfigError, match=r"logged: always: .* got only continue; .* log a policy that explores"):
        check_actions(actions_taken(always.decisions, 8), "bc", "logged: always")
