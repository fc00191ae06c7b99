"""Every configuration composes, says what its keys mean, and fits the function that takes it."""

import importlib
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from radar_rl import cli, settings
from radar_rl.configs import choices, load
from radar_rl.offline.algorithms import ALGORITHMS, settings_of
from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.hardware import HardwareProfile

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
MEMBERS = [path for path in FILES if len(path.parts) == 2 and path.parts[0] not in ("hydra", "sweep")]


def composed(verb: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_module("radar_rl.configs", version_base="1.3"):
        return cast(dict[str, Any], OmegaConf.to_container(compose(verb, overrides=list(overrides)), resolve=True))


def test_every_verb_has_a_configuration_and_nothing_else_has() -> None:
    assert {path.stem for path in FILES if len(path.parts) == 1} == set(cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_composes_to_what_its_function_takes(verb: str) -> None:
    values = composed(verb)
    assert values == settings.defaults(verb, {})
    module, name = cli.VERBS[verb].split(":")
    taken = set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert set(values) == taken - {"prompts", "files", "compare", "explain"}


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_a_group_member_composes_in_every_verb_that_has_its_group(member: Path) -> None:
    group, name = member.parts[0], member.stem
    verbs = [verb for verb in cli.VERBS if group in settings.defaults(verb, {})]
    as_file = load(group, name)
    for verb in verbs if group in ("model", "algo", "reward") else []:
        assert composed(verb, f"{group}={name}")[group] == as_file
    assert as_file["kind" if group == "reward" else "name"]


@pytest.mark.parametrize("name", choices("sweep"))
def test_a_sweep_composes_with_training(name: str) -> None:
    assert set(composed("train", f"+sweep={name}")) == set(settings.defaults("train", {}))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_begins_with_what_it_is_for(file: Path) -> None:
    assert (CONFIGS / file).read_text().startswith("# ")


@pytest.mark.parametrize("name", choices("hardware"))
def test_a_hardware_profile_loads(name: str) -> None:
    values = load("hardware", name)
    profile = HardwareProfile.from_mapping(values, name)
    assert 0.0 < profile.marginal_draft_share < 0.5


def test_radars_constants_are_the_published_ones() -> None:
    values = load("hardware", "radar_llama31_8b")
    profile = HardwareProfile.from_mapping(values, "radar_llama31_8b")
    # Eight calls and the rest of a round, verification contained, whatever the number of nodes.
    assert profile.round_seconds([11, *[60] * 7])[-1] == pytest.approx(8 * 2.684e-3 + 7.067e-2)
    assert profile.decide_seconds == 4e-4


def test_the_fast_gpu_is_the_assumed_one() -> None:
    profile = HardwareProfile.from_mapping(load("hardware", "gpu_fast"), "gpu_fast")
    nodes = np.array([1, 11, 60, 200])
    np.testing.assert_allclose(profile.verify(nodes), 5.9e-3 + 21e-6 * nodes)
    assert (profile.draft_seconds, profile.rest_seconds) == ((4.3e-4,), 1.2e-3)
    assert profile.draft_share(60) == pytest.approx(4.3e-4 / (5.9e-3 + 60 * 21e-6 + 1.2e-3))


@pytest.mark.parametrize("name", choices("reward"))
def test_a_reward_has_the_keys_of_its_class(name: str) -> None:
    values = load("reward", name)
    assert set(values) <= {field.name for field in fields(Reward)}
    assert values["kind"] == name
    Reward(**{key: value for key, value in values.items() if value is not None})


def test_an_algorithm_is_a_file_and_what_trains_it() -> None:
    assert set(choices("algo")) == set(ALGORITHMS)
    for name in ALGORITHMS:
        assert settings_of({"name": name}) == load("algo", name)


@pytest.mark.parametrize("name", choices("task"))
def test_a_task_says_where_its_prompts_are(name: str) -> None:
    values = load("task", name)
    assert set(values) == {"name", "hub", "columns", "template"}
    if values["hub"] is None:
        assert (CONFIGS.parent / "datasets" / "prompts" / f"{name}.jsonl").is_file()
    else:
        assert {"path", "name", "splits"} <= set(values["hub"])
        assert "eval" in values["hub"]["splits"]
        assert values["template"] is None or "{prompt}" in values["template"]
        assert set(values["columns"]) == {"prompt", "context", "turns", "id"}
        assert (values["columns"]["prompt"] is None) == (values["columns"]["turns"] is not None)
