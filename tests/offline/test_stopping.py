"""Learning to stop from exact returns: the maths by hand, the values by walks, the policy as exported."""

import numpy as np
import pytest
import torch
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.errors import ConfigError
from radar_rl.offline import stopping
from radar_rl.offline.algorithms import fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import EPOCHS, Training
from radar_rl.offline.returns import stopping_returns
from radar_rl.offline.stopping import FIRST_EPOCHS, continuation_advantage, expected_return_loss, regression_loss
from radar_rl.offline.walk import Outcomes, policy_depths, walk, walk_oracle, walk_policy
from radar_rl.policies import States
from radar_rl.rollouts.reward import Reward

# Two rounds, three depths: after call 1 continue for sure, after call 2 stop; and the other way round.
WORTH = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
RETURNS = torch.tensor([[3.0, 5.0, 4.0], [3.0, 5.0, 4.0]])


def test_continuing_is_worth_what_later_decisions_make_of_it() -> None:
    # Round 1 would stop after call 2 (5), round 2 go on to call 3 (4).
    assert continuation_advantage(WORTH, RETURNS).tolist() == [[2.0, -1.0], [1.0, -1.0]]
    assert regression_loss(WORTH, RETURNS).item() == pytest.approx(np.mean([1.0, 0.0, 4.0, 4.0]))


def test_the_expected_return_weighs_every_depth_by_its_probability() -> None:
    going = torch.sigmoid(WORTH).numpy()
    stops = np.stack([1 - going[:, 0], going[:, 0] * (1 - going[:, 1]), going[:, 0] * going[:, 1]], axis=1)
    assert expected_return_loss(WORTH, RETURNS).item() == pytest.approx(-(stops * RETURNS.numpy()).sum(axis=1).mean())


@pytest.mark.parametrize("episode", ["sequence", "round"])
def test_returns_are_what_a_walk_earns(outcomes: Outcomes, episode: str) -> None:
    rng, reward = np.random.default_rng(0), Reward(rate=400.0)
    depths = rng.integers(1, 9, size=len(outcomes.trace))
    returns = stopping_returns(outcomes, reward, episode, depths)
    seconds = outcomes.seconds + HARDWARE.decide_seconds * outcomes.decisions(np.arange(1, 9))
    for row in rng.integers(len(outcomes.trace), size=20):
        worth = []
        for first in range(1, 9):
            at, depth, earned = int(row), first, 0.0
            while at >= 0:
                emitted, following = outcomes.trace.stop(np.array([at]), depth)
                earned += emitted[0] - 400.0 * seconds[depth - 1]
                at = int(following[0]) if episode == "sequence" else -1
                depth = int(depths[at])
            worth.append(earned)
        np.testing.assert_allclose(returns[row], np.array(worth) - np.mean(worth), atol=1e-4)


@pytest.mark.parametrize("name", ["fitted", "direct"])
def test_what_can_be_seen_of_the_future_is_used(name: str) -> None:
    """Where a feature tells how far the draft will be accepted, little of the oracle's gap is left."""
    trace = with_features(make_trace(prompts=80, new_tokens=60, seed=5), feature_dim=8)
    told = np.repeat(trace.accepted[:, None, :], 8, axis=1).astype(np.float16)
    trace.features["hidden"][:] = told  # after every call: what each depth would bring
    outcomes = Outcomes.of(trace, HARDWARE)
    plain = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "sequence")
    told_data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "sequence", ["depth", "hidden"], newest=1)
    best, oracle = plain.first_rate, walk_oracle(outcomes).tokens_per_second
    closed = []
    for data in (plain, told_data):
        # What is told holds exactly: nothing of it is noise that decay would keep out.
        settings = settings_of({"name": name, "weight_decay": 1e-4})
        fitted = fit_policy(data, settings, Training(600, 1024, 0))
        assert fitted.curve[-1]["tokens_per_second"] == walk_policy(outcomes, fitted.policy).tokens_per_second
        closed.append((fitted.curve[-1]["tokens_per_second"] - best) / (oracle - best))
    # The oracle knows where every later round leads, too.
    assert closed[1] > max(0.5, closed[0] + 0.1)


def test_the_policy_is_the_network(outcomes: Outcomes) -> None:
    data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "round", newest=2)
    fitted = fit_policy(data, settings_of({"name": "fitted"}), Training(3 * EPOCHS, 256, 0, follow_rate=True))
    depth = np.tile(np.arange(1, 8), 100)
    confidences = np.repeat(outcomes.trace.confidences[:100], 7, axis=0)
    seen = torch.from_numpy(data.spec.build(confidences, depth))
    outputs = fitted.policy.outputs(States(confidences, depth))
    np.testing.assert_allclose(outputs[:, 1] - outputs[:, 0], fitted.algorithm(seen).detach().numpy(), atol=1e-4)
    rates = [row["rate"] for row in fitted.curve]
    assert rates[1:] == [row["tokens_per_second"] for row in fitted.curve[:-1]]
    assert (policy_depths(outcomes, fitted.policy) >= 1).all()


def test_direct_begins_as_fitted_and_then_ascends_the_expected_return(outcomes: Outcomes) -> None:
    losses = []
    for name in ("fitted", "direct"):
        data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "round")
        curve = fit_policy(data, settings_of({"name": name}), Training(2 * EPOCHS, 64, 0)).curve
        losses.append([row["loss"] for row in curve])
    assert losses[0][:FIRST_EPOCHS] == losses[1][:FIRST_EPOCHS]
    assert min(losses[0]) > 0  # squared errors …
    assert min(losses[1][FIRST_EPOCHS:]) < 0  # … and returns, negated


def test_returns_follow_the_policy_and_the_rate(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, np.ndarray]] = []

    def told(some: Outcomes, reward: Reward, episode: str, depths: np.ndarray) -> np.ndarray:
        asked.append((reward.rate, depths.copy()))
        return stopping_returns(some, reward, episode, depths)

    monkeypatch.setattr(stopping, "stopping_returns", told)
    data = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "round")
    curve = fit_policy(data, settings_of({"name": "fitted"}), Training(EPOCHS, 64, 0, follow_rate=True)).curve
    assert [rate for rate, _ in asked] == [row["rate"] for row in curve]
    assert (asked[0][1] == data.static.static.depth).all()
    for (_, depths), row in zip(asked[1:], curve, strict=False):
        assert walk(outcomes, depths, pays_decisions=True).tokens_per_second == row["tokens_per_second"]


def test_rollouts_do_not_show_every_outcome() -> None:
    with pytest.raises(ConfigError, match="algo=direct needs the outcomes of every depth"):
        fit_policy(object(), settings_of({"name": "direct"}), Training(EPOCHS, 16, 0))  # type: ignore[arg-type]
