import numpy as np
import pytest
from synthetic_trace import written_out

from radar_rl.offline.behaviour import decide
from radar_rl.offline.shaping import potential
from radar_rl.offline.transitions import TraceTransitions, Transitions
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.rollouts.reward import KINDS, Reward


def transitions_of(outcomes: Outcomes, reward: Reward, episode, phi=None) -> Transitions:
    return written_out(TraceTransitions.of(outcomes, decide("full", outcomes, 0), reward, episode, phi))


CASES = [("sequence", Reward(rate=350.0)), *(("round", Reward(kind=kind, rate=350.0)) for kind in KINDS)]


@pytest.mark.parametrize(("episode", "reward"), CASES, ids=lambda case: getattr(case, "kind", case))
def test_one_action_of_every_state_is_free_and_the_other_costs_its_regret(outcomes: Outcomes, episode, reward) -> None:
    """With the clairvoyant value as potential, r + Φ(s') − Φ(s) is 0 for its action and the loss for the other."""
    plain = transitions_of(outcomes, reward, episode)
    regret = transitions_of(outcomes, reward, episode, potential(outcomes, reward, episode))
    values = regret.reward
    if episode == "sequence":  # Φ was centred: take off what a token to come is worth
        remaining = outcomes.trace.remaining
        passed = remaining[plain.row] - np.where(plain.terminal, 0, remaining[plain.next_row])
        ends = np.flatnonzero(plain.terminal.reshape(-1, 2).all(axis=1))[0]
        worth = values.reshape(-1, 2)[ends].max() / remaining[plain.row.reshape(-1, 2)[ends, 0]]
        values = values - worth * passed
    by_state = values.reshape(-1, 2)  # [states, actions]
    tolerance = 1e-4 * np.abs(plain.reward).max()
    np.testing.assert_allclose(by_state.max(axis=1), 0.0, atol=tolerance)
    assert (by_state < -tolerance).any(axis=0).all()  # each action is wrong somewhere


def test_shaping_moves_both_actions_of_a_state_alike(outcomes: Outcomes) -> None:
    reward = Reward(rate=350.0)
    plain = transitions_of(outcomes, reward, "round")
    phi = np.random.default_rng(0).normal(size=(len(outcomes.trace), 7)).astype(np.float32)
    moved = transitions_of(outcomes, reward, "round", phi)
    stops = (plain.depth == 7) | (plain.action == STOP)
    difference = moved.reward - plain.reward
    np.testing.assert_allclose(difference[stops], -phi[plain.row[stops], plain.depth[stops] - 1], atol=1e-5)
    goes = ~stops & (plain.action == CONTINUE)
    row, depth = plain.row[goes], plain.depth[goes]
    np.testing.assert_allclose(difference[goes], phi[row, depth] - phi[row, depth - 1], atol=1e-5)


def test_shaping_takes_away_most_of_the_spread(outcomes: Outcomes) -> None:
    reward = Reward(rate=350.0)
    plain = transitions_of(outcomes, reward, "sequence")
    regret = transitions_of(outcomes, reward, "sequence", potential(outcomes, reward, "sequence"))
    assert regret.reward.std() < 0.6 * plain.reward.std()
