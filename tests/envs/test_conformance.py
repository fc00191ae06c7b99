"""Every id keeps every promise, under every combination of arguments that matters."""

from typing import Any

import gymnasium
import pytest
from env_conformance import conforms
from synthetic_trace import HARDWARE, with_features

import radar_rl.envs  # noqa: F401  (registers)
from radar_rl.policies import ObservationSpec
from radar_rl.rollouts import Prompt, Trace
from radar_rl.speculative import Pair
from radar_rl.speculative.features import FEATURES

ALL = ("confidences", "depth", *FEATURES)
IDS = [name for name in gymnasium.registry if name.startswith("Radar/")]


def test_every_id_is_here() -> None:
    assert sorted(IDS) == ["Radar/DraftTree-v0", "Radar/DraftTreeReplay-v0", "Radar/DraftTreeWallClock-v0"]


@pytest.mark.parametrize("name", IDS)
def test_every_id_conforms_without_arguments(name: str) -> None:
    conforms(lambda: gymnasium.make(f"radar_rl.envs:{name}"), episodes=2)


@pytest.mark.parametrize("reward", ["throughput", "linear", "radar", {"kind": "throughput", "rate": 31.0}])
@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"max_depth": 1},
        {"max_depth": 3, "tree_size": 20},
        {"observation": ("depth",)},
        {"observation": ALL},
        {"observation": ("log_probs", "mass", "hidden", "depth"), "max_depth": 5},
        {"observation": ObservationSpec(features=("entropy", "confidences"), floor=-10.0)},
    ],
    ids=["default", "one-call", "small", "depth", "all", "cut", "spec"],
)
def test_replay_conforms(trace: Trace, reward: Any, episode: str, shape: dict[str, Any]) -> None:
    given = trace.at(shape.get("tree_size", 60))  # type: ignore[attr-defined]
    options: dict[str, Any] = {"traces": with_features(given), "hardware": HARDWARE, "reward": reward} | shape
    conforms(lambda: gymnasium.make("radar_rl.envs:Radar/DraftTreeReplay-v0", episode=episode, **options))


@pytest.mark.parametrize("name", ["DraftTree-v0", "DraftTreeWallClock-v0"])
@pytest.mark.parametrize(
    "options",
    [
        {"reward": "linear", "episode": "round", "temperature": 1.0, "seed": 4},
        {"reward": "radar", "max_depth": 3, "top_k": 4, "tree_size": 9, "observation": ("entropy", "mass", "depth")},
        {"max_depth": 1, "top_k": 1, "tree_size": 2},
        {
            "episode": "round",
            "temperature": 0.7,
            "sample_top_k": 20,
            "sample_top_p": 0.9,
            "max_depth": 4,
            "observation": ObservationSpec(max_depth=4, features=ALL, feature_dim=3),
        },
    ],
    ids=["linear", "radar", "chain", "features"],
)
def test_live_conforms(pair: Pair, prompts: list[Prompt], name: str, options: dict[str, Any]) -> None:
    shared: dict[str, Any] = {"pair": pair, "prompts": prompts, "max_new_tokens": 10}
    conforms(lambda: gymnasium.make(f"radar_rl.envs:Radar/{name}", **shared, **options), episodes=4)
