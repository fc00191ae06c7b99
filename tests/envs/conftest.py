"""A synthetic trace, and the embedded pair."""

import pytest
from synthetic_trace import make_trace

from radar_rl.rollouts import Prompt, Trace
from radar_rl.speculative import Pair


@pytest.fixture
def trace() -> Trace:
    return make_trace(prompts=6, new_tokens=24, seed=5)


@pytest.fixture
def pair(pocket: Pair) -> Pair:
    return pocket


@pytest.fixture
def prompts() -> list[Prompt]:
    questions = [
        "Lena has 4 baskets with 9 apples each and eats 5 of them. How many apples are left?",
        "Write a Python function that doubles every number of a list.",
        "A tram ride costs $3. Omar takes 2 rides a day. What does he pay in a week?",
    ]
    return [Prompt("sums", f"sum-{i}", text=q) for i, q in enumerate(questions)]
