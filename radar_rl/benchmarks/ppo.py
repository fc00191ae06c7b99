"""``radar-rl bench ppo``: stable-baselines3's PPO learns online on replayed texts, then meets rules on held-out ones.

Learning-to-Draft trains its depth policy with PPO on a target that decodes. On a replay the same takes seconds.
"""

import time
from dataclasses import asdict, dataclass

import polars as pl
from rich.table import Table

from radar_rl.benchmarks.telling import tell
from radar_rl.console import wide_console
from radar_rl.envs.replay import sample_traces
from radar_rl.envs.stable_baselines import stable_baselines3
from radar_rl.errors import InputError, check_whole
from radar_rl.evaluation.compare import ALL_TASKS, Contender, comparison
from radar_rl.evaluation.tables import print_comparison
from radar_rl.offline.algorithms import settings_of
from radar_rl.offline.fit import one_thread
from radar_rl.offline.ppo import PPOLearner, Replayed
from radar_rl.offline.ranges import SEED, check_value
from radar_rl.offline.tuning import TunedRules, tune_rules
from radar_rl.offline.walk import Outcomes, walk_oracle, walk_policy
from radar_rl.policies import LearnedPolicy, RandomStop
from radar_rl.policies.observation import DEFAULT_NEWEST, ObservationSpec
from radar_rl.rollouts import held_out as is_held_out
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.reward import Reward
from radar_rl.runtime.profiler import named_hardware


@dataclass(frozen=True)
class Point:
    """A point of the learning curve.

    Attributes:
        seconds: spent on training so far.
        steps: transitions seen.
        tokens_per_second: of the greedy policy on the held-out texts.
    """

    seconds: float
    steps: int
    tokens_per_second: float


class Curve(stable_baselines3.common.callbacks.BaseCallback):
    """Stops the training after ``seconds``, and measures the policy now and then; the clock stands while it does.

    Args:
        learner: what is trained.
        outcomes: of the held-out texts.
        seconds: of training.
        points: measurements on the way, evenly spread, the first one before any training.

    Attributes:
        points: measured.
    """

    def __init__(self, learner: PPOLearner, outcomes: Outcomes, seconds: float, points: int) -> None:
        super().__init__()
        self.learner, self.outcomes, self.seconds, self.wanted = learner, outcomes, seconds, points
        self.points: list[Point] = []
        self._began = 0.0

    @property
    def trained(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self._began

    def measure(self) -> None:
        """Add a point."""
        seconds = self.trained
        speed = walk_policy(self.outcomes, self.learner.greedy()).tokens_per_second
        self.points.append(Point(seconds, self.learner.model.num_timesteps, speed))
        self._began = time.perf_counter() - seconds

    def _on_training_start(self) -> None:
        self._began = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if len(self.points) < self.wanted and self.trained >= len(self.points) * self.seconds / self.wanted:
            self.measure()

    def _on_step(self) -> bool:
        return self.trained < self.seconds


def bench_ppo(
    *,
    out: str | None,
    traces: str | None,
    hardware: str,
    held_out: float,
    seconds: float,
    num_envs: int,
    points: int,
    seed: int,
) -> pl.DataFrame:
    """The verb ``bench ppo``: train, replay everyone on the held-out texts, print curve and comparison.

    Args:
        out: a JSON file to write the figures to; None only prints them.
        traces: the folder of a collected trace; None: the sample that ships.
        hardware: FILE or NAME of a profile.
        held_out: share of prompts that nobody trains or tunes on.
        seconds: of training.
        num_envs: texts side by side.
        points: of the learning curve, before the last one.
        seed: where randomness starts.

    Returns:
        The rows of the table.

    Raises:
        InputError, ConfigError: a number is out of range.
        TraceError: there is no trace, or one of the halves has no texts.
    """
    for name, value in {"num_envs": num_envs, "points": points}.items():
        check_whole(name, value, 1)
    check_value("seed", seed, SEED)
    if not seconds > 0 or not 0.0 < held_out < 1.0:
        raise InputError(f"expected seconds > 0 and held_out between 0 and 1, got {seconds} and {held_out}")
    folder = sample_traces() if traces is None else traces
    train = load_trace(folder, keep=lambda texts: ~is_held_out(texts.prompt_id, held_out))
    test = load_trace(folder, keep=lambda texts: is_held_out(texts.prompt_id, held_out))
    made = train.settings
    profile = named_hardware(hardware)
    to_learn, outcomes = Outcomes.of(train, profile), Outcomes.of(test, profile)
    rules = tune_rules(to_learn, ["threshold"])
    spec = ObservationSpec(made.max_depth, made.top_k, newest=DEFAULT_NEWEST)
    problem = Replayed(to_learn, spec, Reward("throughput"), "sequence")
    settings = settings_of({"name": "ppo"}) | {"num_envs": num_envs}
    learner = PPOLearner(problem, rules.static_walk.tokens_per_second, settings, seed=seed, batch_size=2048)
    curve = Curve(learner, outcomes, seconds, points)
    with one_thread():
        learner.model.learn(2**62, callback=curve)
    curve.measure()
    rows = _compared(outcomes, rules, learner.greedy(), curve.trained, seed)
    print(f"PPO online on replay, {num_envs} texts side by side")
    wide_console().print(_table(curve.points))
    print_comparison(rows, rules.static.name, f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}")
    tell("bench ppo", (), {"rows": rows.to_dicts(), "curve": [asdict(point) for point in curve.points]}, out)
    return rows


def _compared(outcomes: Outcomes, rules: TunedRules, learned: LearnedPolicy, seconds: float, seed: int) -> pl.DataFrame:
    """Random choices, the tuned rules, PPO and the oracle over the same texts."""
    random = RandomStop(0.5, seed)
    entries = [
        Contender(random.name, "rule", walk_policy(outcomes, random)),
        *(Contender(rule.name, "rule", walk_policy(outcomes, rule)) for rule in rules.rules),
        Contender(rules.static.name, "static", walk_policy(outcomes, rules.static)),
        Contender(learned.name, "learned", walk_policy(outcomes, learned), seconds),
        Contender("oracle", "oracle", walk_oracle(outcomes)),
    ]
    rows = comparison(outcomes, entries, rules.static.name, resamples=2000, seed=seed)
    return rows.filter(pl.col("task") == ALL_TASKS)


def _table(points: list[Point]) -> Table:
    """The learning curve."""
    shown = Table()
    for column in ("seconds", "steps", "held-out tokens/s"):
        shown.add_column(column, justify="right")
    for point in points:
        shown.add_row(f"{point.seconds:.1f}", f"{point.steps:,}", f"{point.tokens_per_second:.1f}")
    return shown
