"""A synthetic trace, and a real pair where one is at hand."""

import os
from importlib import resources
from pathlib import Path

import pytest
from synthetic_trace import make_trace

from radar_rl.rollouts import Prompt, Trace
from radar_rl.speculative import Pair, load_pair


@pytest.fixture
def trace() -> Trace:
    return make_trace(prompts=6, new_tokens=24, seed=5)


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The reference pair, else the embedded one; skipped without either."""
    reference = os.environ.get("RADAR_RL_REFERENCE")
    if reference and Path(reference).is_dir():
        return load_pair(f"{reference}/pair/target", f"{reference}/pair/draft")
    if resources.files("radar_rl.zoo").joinpath("pocket", "draft", "config.json").is_file():
        return load_pair("pocket")
    pytest.skip("neither RADAR_RL_REFERENCE nor the embedded pair is at hand")


@pytest.fixture
def prompts() -> list[Prompt]:
    """Prompts in the words that the reference pair knows."""
    questions = [
        "Natalia sold clips to 48 of her friends, and then she sold half as many. How many clips did she sell?",
        "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts does it take?",
        "Tom has 5 boxes with 12 pens each. He gives away 7 pens. How many pens are left?",
    ]
    return [Prompt("sums", f"sum-{i}", text=f"Question: {q}\nAnswer:") for i, q in enumerate(questions)]
