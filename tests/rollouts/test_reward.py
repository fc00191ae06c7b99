import numpy as np
import pytest
from synthetic_trace import HARDWARE

from radar_rl.errors import ConfigError
from radar_rl.rollouts import Reward
from radar_rl.speculative import tree_nodes

NODES = tree_nodes(8, 10, 60)
EMITTED = np.arange(1, 9)


def test_throughput_adds_up_to_emitted_minus_rate_times_seconds() -> None:
    reward = Reward("throughput", rate=150.0)
    earned = reward.stopping(HARDWARE, NODES, EMITTED) + np.r_[0.0, np.cumsum(reward.going(HARDWARE, 8))]
    decisions = np.minimum(np.arange(1, 9), 7) * HARDWARE.decide_seconds
    np.testing.assert_allclose(earned, EMITTED - 150.0 * (HARDWARE.round_seconds(NODES) + decisions), rtol=1e-12)


def test_linear_charges_calls_after_the_first() -> None:
    reward = Reward("linear", cost=0.25)
    assert reward.going(HARDWARE, 8).tolist() == [-0.25] * 7
    assert reward.stopping(HARDWARE, NODES, EMITTED).tolist() == EMITTED.tolist()


def test_radar_pays_for_speed() -> None:
    reward = Reward("radar", alpha=0.05, beta=0.03)
    assert reward.going(HARDWARE, 8).tolist() == [-0.05] * 7
    speed = reward.stopping(HARDWARE, NODES, EMITTED) / 0.03
    np.testing.assert_allclose(speed[0], 1 / (HARDWARE.round_seconds(NODES)[0] + HARDWARE.decide_seconds))


def test_a_missing_rate_takes_the_default() -> None:
    assert Reward.from_mapping({"kind": "throughput", "rate": None}, 190.0).rate == 190.0
    assert Reward.from_mapping({"kind": "throughput", "rate": 5}, 190.0).rate == 5
    assert Reward.from_mapping({"kind": "radar", "alpha": 0.01}, None) == Reward("radar", alpha=0.01)
    with pytest.raises(ConfigError, match=r"reward\.rate"):
        Reward.from_mapping({"kind": "throughput"}, None)


@pytest.mark.parametrize("rate", [0, -5.0])
def test_a_second_costs_something(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"reward\.rate: expected a finite number > 0, or null, got "):
        Reward.from_mapping({"kind": "throughput", "rate": rate}, None)
    assert Reward.from_mapping({"kind": "throughput"}, 0.0).rate == 0.0  # for who finds the rate later
    assert Reward.from_mapping({"kind": "linear", "rate": rate}, None).kind == "linear"


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="throughput, linear, radar"):
        Reward("speed")
    with pytest.raises(ConfigError, match="alpha"):
        Reward.from_mapping({"kind": "radar", "gamma": 1}, None)


@pytest.mark.parametrize("name", ["rate", "cost", "alpha", "beta"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", True])
def test_parameters_are_finite_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a finite number"):
        Reward(**{name: value})  # type: ignore[arg-type]
