"""``radar-rl bench ppo``: stable-baselines3's PPO learns online on replayed texts, then meets rules on held-out ones.

Learning-to-Draft trains its depth policy with PPO on a target that decodes. On a replay the same takes seconds.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from radar_rl.benchmarks.round import WIDTH
from radar_rl.envs import DraftTreeReplayVectorEnv
from radar_rl.envs.replay import sample_traces
from radar_rl.envs.stable_baselines import DraftTreeVecEnv, stable_baselines3
from radar_rl.errors import InputError, check_whole
from radar_rl.evaluation.compare import ALL_TASKS, Contender, comparison
from radar_rl.evaluation.report import print_comparison
from radar_rl.offline.fit import one_thread
from radar_rl.offline.tuning import TunedRules, tune_rules
from radar_rl.offline.walk import Outcomes, walk_oracle, walk_policy
from radar_rl.policies import LearnedPolicy, RandomStop
from radar_rl.rollouts import held_out as is_held_out
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.reward import Reward
from radar_rl.runtime.profiler import resolve_hardware

STEPS = 16384
"""Transitions that an update learns from, of all texts together."""

MINIBATCHES = 8


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


class Learner:
    """PPO on the texts of a trace: γ = 1 over whole texts, rewards emitted − rate · seconds (DESIGN §3.4).

    Observations and rewards are normalised by running statistics, as PPO on numbers of any scale needs.

    Args:
        outcomes: of the texts to learn on, and the machine.
        rate: λ, tokens per second; near the throughput it keeps returns near zero.
        num_envs: texts side by side.
        seed: of the network, the texts drawn and the actions.

    Attributes:
        envs: the normalised environments.
        model: the algorithm.
    """

    def __init__(self, outcomes: Outcomes, rate: float, *, num_envs: int, seed: int) -> None:
        native = DraftTreeReplayVectorEnv(
            num_envs, outcomes.trace, hardware=outcomes.hardware, reward=Reward("throughput", rate=rate)
        )
        self.spec = native.problem.spec
        # Nothing is clipped: the statistics become part of the first layer, see `greedy`.
        self.envs = stable_baselines3.common.vec_env.VecNormalize(DraftTreeVecEnv(native), clip_obs=np.inf, gamma=1.0)
        steps = -(-STEPS // num_envs)
        self.model = stable_baselines3.PPO(
            "MlpPolicy",
            self.envs,
            learning_rate=1e-3,
            n_steps=steps,
            batch_size=-(-steps * num_envs // MINIBATCHES),
            n_epochs=4,
            gamma=1.0,
            ent_coef=0.001,
            policy_kwargs={"net_arch": [64, 64], "activation_fn": torch.nn.ReLU},
            seed=seed,
            device="cpu",
        )

    def greedy(self) -> LearnedPolicy:
        """What it has learned, deterministically: the more probable action, normalisation and all as one network."""
        network = self.model.policy
        linear = [*network.mlp_extractor.policy_net, network.action_net]
        layers = [
            (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in linear
            if isinstance(layer, torch.nn.Linear)
        ]
        seen = self.envs.obs_rms
        assert isinstance(seen, stable_baselines3.common.running_mean_std.RunningMeanStd), "observations are a Box"
        weight, bias = layers[0]
        scaled = weight / np.sqrt(seen.var + self.envs.epsilon)
        layers[0] = (scaled.astype(np.float32), (bias - scaled @ seen.mean).astype(np.float32))
        return LearnedPolicy("PPO", self.spec, layers)


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

    def __init__(self, learner: Learner, outcomes: Outcomes, seconds: float, points: int) -> None:
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
        InputError: a number is out of range.
        TraceError: there is no trace, or one of the halves has no texts.
    """
    for name, value in {"num_envs": num_envs, "points": points}.items():
        check_whole(name, value, 1)
    check_whole("seed", seed, 0)
    if not seconds > 0 or not 0.0 < held_out < 1.0:
        raise InputError(f"expected seconds > 0 and held_out between 0 and 1, got {seconds} and {held_out}")
    folder = sample_traces() if traces is None else traces
    train = load_trace(folder, keep=lambda texts: ~is_held_out(texts.prompt_id, held_out))
    test = load_trace(folder, keep=lambda texts: is_held_out(texts.prompt_id, held_out))
    made = train.settings
    profile = resolve_hardware(
        hardware, Path(), {}, max_depth=made.max_depth, top_k=made.top_k, tree_size=made.tree_size
    )
    to_learn, outcomes = Outcomes.of(train, profile), Outcomes.of(test, profile)
    rules = tune_rules(to_learn, ["threshold"])
    learner = Learner(to_learn, rules.static_walk.tokens_per_second, num_envs=num_envs, seed=seed)
    curve = Curve(learner, outcomes, seconds, points)
    with one_thread():
        learner.model.learn(2**62, callback=curve)
    curve.measure()
    rows = _compared(outcomes, rules, learner.greedy(), curve.trained, seed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    print(f"PPO online on replay, {num_envs} texts side by side")
    console.print(_table(curve.points))
    print_comparison(rows, rules.static.name, f"{made.target.partition('@')[0]} + {made.draft.partition('@')[0]}")
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figures = {"rows": rows.to_dicts(), "curve": [asdict(point) for point in curve.points]}
        Path(out).write_text(json.dumps(figures, indent=2) + "\n")
        print(f"bench ppo: written to {out}")
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
