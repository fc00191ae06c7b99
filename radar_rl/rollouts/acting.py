"""A policy acting in an environment, text after text: every transition as a row."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from radar_rl.errors import InputError
from radar_rl.policies.protocol import STOP, Policy
from radar_rl.rollouts.sessions import LiveSession

if TYPE_CHECKING:  # Gymnasium is needed to act, not to import this package
    from radar_rl.envs.base import DraftTreeBase

Row = dict[str, Any]


def play(environment: "DraftTreeBase", policy: Policy, episodes: int | None = None) -> Iterator[list[Row]]:
    """Let a policy act on text after text.

    Args:
        environment: with ``episode="sequence"``.
        policy: who decides.
        episodes: how many texts, round again from the first if there are fewer; None takes each once. Texts that
            their first token ended are passed over.

    Yields:
        The rows of one episode each, columns as ``rollouts_schema`` describes them.
    """
    count, text, played = len(environment.texts), 0, 0
    while played < (count if episodes is None else episodes):
        observation, info = environment.reset(options={"text": text % count})
        passed_over = (info["text"] - text) % count
        if episodes is None and text + passed_over >= count:
            return
        yield _episode(environment, policy, played, observation, info)
        text += passed_over + 1
        played += 1
        if episodes is None and text >= count:
            return


def _episode(
    environment: "DraftTreeBase", policy: Policy, episode: int, observation: Any, info: dict[str, Any]
) -> list[Row]:
    """One text, from its first observation on."""
    session, payments = environment.session, environment.payments
    stopwatch = session if isinstance(session, LiveSession) else None
    task, prompt_id = environment.texts.name(info["text"])
    rows: list[Row] = []
    rounds, terminated = 0, False
    first_call = stopwatch.draft_seconds if stopwatch else float(payments.draft_seconds[0])
    policy.begin_sequence()
    while not terminated:
        state = environment.state
        if session is None or state is None:
            raise InputError("the episode is over: reset the environment first")
        asked = state.depth < environment.max_depth
        before = time.perf_counter()
        action = policy.act(state) if asked else STOP
        thought = time.perf_counter() - before
        depth, position = state.depth, state.position
        following, reward, terminated, truncated, info = environment.step(action)
        stopped = info["draft_calls"] > 0
        if stopwatch:
            draft = first_call if stopped else stopwatch.draft_seconds
            verify = stopwatch.verify_seconds
            first_call = stopwatch.draft_seconds if stopped else first_call
            decide = thought if asked and policy.pays_decisions else 0.0
        else:
            draft = float(payments.draft_seconds[0 if stopped else depth])
            verify = float(payments.verify_seconds[depth - 1])
            decide = payments.decide_seconds if asked and policy.pays_decisions else 0.0
        rows.append(
            {
                "episode": episode,
                "round": rounds,
                "step": len(rows),
                "task": task,
                "prompt_id": prompt_id,
                "position": position,
                "depth": depth,
                "observation": observation,
                "action": action,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "accepted": info["accepted"],
                "emitted": info["emitted"],
                "draft_seconds": draft,
                "verify_seconds": verify if stopped else 0.0,
                "decide_seconds": decide,
                "policy": policy.name,
            }
        )
        if stopped:
            policy.end_round(depth, info["accepted"])
            rounds += 1
        observation = following
    if session is not None:
        for row in rows:
            row["censored"] = session.censored(row["position"])
    return rows
