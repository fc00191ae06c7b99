"""``radar-rl ope``: off-policy estimates of policies' values beside the exact ones, which a trace knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.candidates import Candidate, candidates
from radar_rl.evaluation.compare import FACTS
from radar_rl.evaluation.ope_report import draw_ope, print_ope
from radar_rl.evaluation.trained import agreed_tree_size, check_fits
from radar_rl.folders import made_folder
from radar_rl.offline.behaviour import Behaviour, decide
from radar_rl.offline.buffer import TraceObservations
from radar_rl.offline.coverage import FITTED_Q, actions_taken, check_actions
from radar_rl.offline.fqe import ChoiceShown, FittedValue, FQESettings, depths_of, fit_value
from radar_rl.offline.ranges import ABOVE_ZERO, BELOW_ONE, check_value
from radar_rl.offline.returns import policy_values, start_rows
from radar_rl.offline.shaping import potential, token_worth
from radar_rl.offline.transitions import Episode, TraceTransitions, check_episode
from radar_rl.offline.tuning import tune_static
from radar_rl.offline.walk import Outcomes, choices
from radar_rl.rollouts import load_trace, trace_settings
from radar_rl.rollouts.pricing import profile_for
from radar_rl.rollouts.reading import Keep
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.split import learned_from
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.hardware import HardwareProfile

TABLE_FILE = "ope.parquet"
PICTURE_FILE = "ope.png"

# The texts that estimates are fitted to, and those that were kept from them and from training.
TRAINING, HELD_OUT = "training", "held-out"

SCHEMA = {
    "policy": pl.String,
    "texts": pl.String,
    "exact": pl.Float64,
    "estimate": pl.Float64,
    "error": pl.Float64,
    "tokens_per_second": pl.Float64,
    "estimated_tokens_per_second": pl.Float64,
    "starts": pl.Int64,
    "loss": pl.Float64,
    "estimator_episode": pl.String,
    "estimator_behaviour": pl.String,
    "shaped": pl.Boolean,
    "rate": pl.Float64,
    "hardware": pl.String,
    **FACTS,
}


@dataclass(frozen=True)
class Problem:
    """What policies are evaluated on, and how.

    Attributes:
        outcomes: of some texts, what stopping brings.
        reward: emitted − λ · seconds.
        episode: ``sequence`` or ``round``.
        starts: [S] int64, rows whose rounds begin an episode.
        phi: [N, L − 1] float32, the potential that rewards are shaped with; None: they are not.
    """

    outcomes: Outcomes
    reward: Reward
    episode: Episode
    starts: NDArray[np.int64]
    phi: NDArray[np.float32] | None

    @classmethod
    def of(cls, outcomes: Outcomes, reward: Reward, episode: Episode, worth: float | None) -> "Problem":
        """The problem on some texts.

        Args:
            worth: that the potential is centred with; None: rewards are not shaped.
        """
        phi = None if worth is None else potential(outcomes, reward, episode, worth)
        return cls(outcomes, reward, episode, start_rows(outcomes.trace, episode), phi)

    def seen(self, candidate: Candidate) -> ChoiceShown:
        """What the estimator sees of the texts: the candidate's observation, and its choices."""
        trace = self.outcomes.trace
        spec = candidate.spec(trace.settings)
        return ChoiceShown(TraceObservations(spec, trace.confidences, trace.features), choices(candidate.policy, trace))

    def values(self, candidate: Candidate, seen: ChoiceShown, fitted: FittedValue) -> dict[str, Any]:
        """A policy's exact value and the estimate, means over the starts, and the throughputs that they stand for.

        Over a whole text the emitted tokens are fixed, so a value names the seconds, and these a throughput. The value
        of rounds names none: which rounds there are is up to the policy.
        """
        paid = candidate.paid(self.outcomes)
        exact = float(policy_values(self.outcomes, self.reward, self.episode, depths_of(seen.table), paid).mean())
        told = fitted.at_first_call(seen, self.starts)
        estimate = float(told.mean() if self.phi is None else (told + self.phi[self.starts, 0]).mean())
        return {
            "policy": candidate.name,
            "exact": exact,
            "estimate": estimate,
            "error": estimate - exact,
            "tokens_per_second": self._throughput(exact),
            "estimated_tokens_per_second": self._throughput(estimate),
            "starts": len(self.starts),
        }

    def _throughput(self, value: float) -> float | None:
        if self.episode == "round":
            return None
        emitted = float(self.outcomes.trace.tokens_after(self.starts).mean())
        return self.reward.rate * emitted / (emitted - value) if value < emitted else None


def ope(
    *,
    out: str,
    traces: str,
    runs: Sequence[str],
    hardware: str | None,
    model: Mapping[str, Any],
    behaviour: Behaviour,
    episode: Episode,
    shaped: bool,
    held_out: float,
    share: float,
    fqe: Mapping[str, Any],
    allow_other_pair: bool,
    tree_size: int | None,
) -> list[dict[str, Any]]:
    """Estimate policies' values from decisions as logs hold them, beside the exact ones: a table and a picture.

    Args:
        out: the folder to write.
        traces: folder of a collected trace.
        runs: folders of runs or saved policies, folders of such folders, and rules by name (``static:4``).
        hardware: FILE or NAME of a profile; None measures ``model`` on this machine and keeps it in ``out``.
        model: the pair to measure where ``hardware`` is None.
        behaviour: who acts in the data that estimates are fitted to.
        episode: ``sequence``: a value is a text's; ``round``: a round's.
        shaped: fit to rewards shaped by the clairvoyant optimum's value, which is added to the estimate again.
        held_out: share of held-out prompts if no run has recorded one.
        share: of the other prompts, how many to fit to.
        fqe: settings of the estimator, fields of ``FQESettings``.
        allow_other_pair: accept a trace of another pair than the runs were trained on.
        tree_size: nodes verified, at most the collected ones; None takes the runs', or without runs the collected ones.

    Returns:
        The rows of the table, one for each policy on the training texts and, where there are any, on the held-out ones;
        columns as ``SCHEMA``. Values are in tokens, emitted − λ · seconds, λ being the throughput of the static depth
        tuned on the training texts.

    Raises:
        ConfigError: a setting is out of range, a policy is there twice or is no function of the state, the behaviour
            never takes one of the two actions, or the estimator diverged.
        TraceError: the trace does not fit a policy, or leaves no text to fit to.
    """
    settings = _settings(fqe)
    check_episode(episode)
    check_value("held_out", held_out, BELOW_ONE)
    check_value("share", share, ABOVE_ZERO)
    folder, asked, made = Path(out), candidates(runs), trace_settings(traces)
    for each in asked:
        each.check_depth(made.max_depth)
    loaded = [each.run for each in asked if each.run]
    for run in loaded:
        check_fits(run, made, allow_other_pair)
    size = agreed_tree_size(loaded, made, tree_size)
    read, measured = made.read_for(size), folder / "hardware.json"
    profile = profile_for(read, hardware, measured, model, allow_other_pair=allow_other_pair)
    fraction = min((run.held_out for run in loaded if run.about["split"]), default=held_out)
    columns = [name for name in FEATURES if any(name in each.policy.features for each in asked)]
    texts = _texts(traces, lambda of: learned_from(of.prompt_id, fraction, share), size, columns, episode)
    if not len(texts):
        raise TraceError(
            f"{traces}: at held_out={fraction}, share={share} no text is left to fit to; collect more prompts"
        )
    fitted, reward, worth, rows = _on_training_texts(
        asked, Outcomes.of(texts, profile), behaviour, episode, shaped, settings
    )
    del texts  # one half after the other
    kept = _texts(traces, lambda of: is_held_out(of.prompt_id, fraction), size, columns, episode)
    if len(kept):
        problem = Problem.of(Outcomes.of(kept, profile), reward, episode, worth)
        for each, value in zip(asked, fitted, strict=True):
            rows.append({"texts": HELD_OUT, **problem.values(each, problem.seen(each), value)})
    table = _table(rows, asked, fitted, profile, reward, episode, behaviour, shaped)
    made_folder(folder)
    table.write_parquet(folder / TABLE_FILE)
    print_ope(table)
    draw_ope(table, folder / PICTURE_FILE)
    return table.to_dicts()


def _settings(fqe: Mapping[str, Any]) -> FQESettings:
    unknown = sorted(set(fqe) - set(FQESettings.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"fqe: unknown settings {unknown}; valid: {', '.join(FQESettings.__dataclass_fields__)}")
    return FQESettings(**fqe)


def _texts(traces: str, keep: Keep, tree_size: int, columns: Sequence[str], episode: Episode) -> Trace:
    """Some of the texts, for whole texts with all of their rows.

    Near the end of a text that was cut by length, a replay's rounds are cut too. As any walk does, a text's value
    counts them; and were the decisions there left out of the data, their values would be made up: an episode would have
    no end.
    """
    trace = load_trace(traces, tree_size=tree_size, keep=keep, features=columns)
    return replace(trace, censored=np.zeros_like(trace.censored)) if episode == "sequence" else trace


def _on_training_texts(
    asked: Sequence[Candidate],
    outcomes: Outcomes,
    behaviour: Behaviour,
    episode: Episode,
    shaped: bool,
    settings: FQESettings,
) -> tuple[list[FittedValue], Reward, float | None, list[dict[str, Any]]]:
    """Every candidate's value function, the reward, what a token to come is worth in shaped ones, and its rows."""
    reward = Reward(rate=tune_static(outcomes).walk.tokens_per_second)
    worth = token_worth(outcomes, reward, episode) if shaped else None
    problem = Problem.of(outcomes, reward, episode, worth)
    decisions = decide(behaviour, outcomes, settings.seed)
    check_actions(actions_taken(decisions, outcomes.max_depth), FITTED_Q, behaviour)
    fitted, rows = [], []
    for each in asked:
        seen = problem.seen(each)
        # The data say what was done; what is paid for are the decisions that the evaluated policy makes.
        transitions = TraceTransitions.of(outcomes, decisions, reward, episode, problem.phi, each.paid(outcomes))
        value = fit_value(each.name, seen, transitions, settings)
        fitted.append(value)
        rows.append({"texts": TRAINING, **problem.values(each, seen, value)})
    return fitted, reward, worth, rows


def _table(
    rows: Sequence[dict[str, Any]],
    asked: Sequence[Candidate],
    fitted: Sequence[FittedValue],
    profile: HardwareProfile,
    reward: Reward,
    episode: Episode,
    behaviour: Behaviour,
    shaped: bool,
) -> pl.DataFrame:
    """The rows with what is the same for all of them, and what is known of each policy."""
    common = {
        "estimator_episode": episode,
        "estimator_behaviour": behaviour,
        "shaped": shaped,
        "rate": reward.rate,
        "hardware": profile.name,
    }
    known = {
        each.name: {"loss": value.loss, **{name: each.facts.get(name) for name in FACTS}}
        for each, value in zip(asked, fitted, strict=True)
    }
    return pl.DataFrame([{**row, **common, **known[row["policy"]]} for row in rows], schema=SCHEMA)
