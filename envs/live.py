"""The live environment: a target and its draft head decode, the agent says when to stop drafting."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from radar_rl.envs.base import DraftTreeBase
from radar_rl.envs.problem import Earned, Hardware, Observed, observation_spec
from radar_rl.errors import ConfigError, InputError, check_whole
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.rollouts.live import LiveTexts, timed
from radar_rl.rollouts.sessions import TextSession
from radar_rl.rollouts.tasks import load_prompts
from radar_rl.runtime.models import pair_from_config
from radar_rl.speculative.pair import Pair, load_pair
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.state import DraftState

T = TypeVar("T")


class DraftTreeEnv(DraftTreeBase):
    """Decide after each draft call whether to make another one or to verify the draft tree.

    ## Description
    A target language model decodes a text with the help of a draft head (EAGLE-3, arXiv 2503.01840). In a round the
    head grows a tree of tokens, one level a call; the target then verifies the tree in one forward pass, accepts a
    path and adds one token of its own. More levels may be accepted, and each costs a call. The text itself is the
    target's, whatever the agent does.

    ## Action space
    ``Discrete(2)``: 0 stops drafting and verifies, 1 makes another draft call. After ``max_depth`` calls both stop;
    ``info["action_mask"]`` is [1, 0] then, else [1, 1].

    ## Observation space
    ``Box`` float32: the features named by ``observation``, one after the other.

    | feature | numbers | meaning | of calls not made |
    |---|---|---|---|
    | ``confidences`` | ``max_depth × top_k`` | cumulative draft log-probabilities of each beam, descending | −20 |
    | ``depth`` | 1 | calls made / ``max_depth`` | |
    | ``entropy`` | ``max_depth`` | of the head's newest distribution, nats | 0 |
    | ``margin`` | ``max_depth`` | log-probability of its best token − its second best | 0 |
    | ``log_probs`` | ``max_depth × top_k`` | of each beam node given its parent | −20 |
    | ``mass`` | ``max_depth × max_depth`` | expected accepted nodes at each depth after each call, 0 … 1 | 0 |
    | ``ngram`` | 1 | tokens of the text's end that stand earlier in it too, at most 5 | |
    | ``hidden`` | ``max_depth × feature_dim`` | the head's hidden state at the best node, projected | 0 |
    | ``target`` | ``feature_dim`` | the target's features before the root, projected | |
    | ``top_mass`` | ``max_depth`` | log of what the 10 best tokens of the newest distribution have together | 0 |
    | ``history`` | 4 | draft tokens accepted in the text's last rounds, newest first | −1 (rounds) |

    The default is ``("confidences", "depth")``: ``max_depth × top_k + 1`` numbers. All but the depth are rounded to
    float16, as a trace holds them. Logarithms are cut at −20 and their differences at 20; an ``ObservationSpec`` sets
    another floor, and ``feature_dim`` and ``feature_seed``.
    ``radar_rl.speculative.features.FEATURES`` defines the features and says what each costs.

    ## Rewards
    - ``throughput`` (default): emitted tokens − rate · seconds. Its sum over an episode is largest where the text
      takes the least time; the default rate is the target's own tokens per second.
    - ``linear``: emitted tokens at a stop, −0.1 per further draft call.
    - ``radar``: 0.03084 · tokens per second of the round at a stop, −0.03 per further draft call (RADAR,
      arXiv 2512.14069).

    Seconds come from a hardware profile, so the environment is deterministic. Those of call 1 (which is always made),
    of verification and of the rest of the round are charged at the stop, those of each further call at its continue.

    ## Starting state
    A prompt is drawn, read by the target, and its first token emitted; draft call 1 of the first round has been made.
    Each turn of a conversation is a prompt, with the target's own answers to the turns before it. ``reset(seed=…)``
    seeds the drawing of prompts, the argument ``seed`` the target's own sampling; ``reset(options={"text": i})`` takes
    a prompt by its index.

    ## Episode end
    ``episode="sequence"`` (default): the text ends, by its end token or at ``max_new_tokens``. ``episode="round"``: a
    round ends; ``reset()`` then goes on with the text's next round. Episodes are never truncated. The observation
    that comes with ``terminated`` is the last one again.

    ## Info
    ``action_mask``, ``position`` (index of the root token in prompt + completion) and ``text`` (which prompt) describe
    what is observed; ``accepted``, ``emitted``, ``draft_calls`` (0 unless the step ended a round) and ``seconds`` the
    step just made; ``tokens_per_second`` of the episode comes with its end. A round emits the accepted tokens and one
    of the target's own, both cut where the text ends.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("radar_rl.envs:Radar/DraftTree-v0", prompts=["Explain why bread rises."], max_depth=6)
    ```

    ## Version history
    - v0: first version.

    Args:
        pair: a loaded pair, on a CPU or a GPU; or what ``load_pair`` takes as its target; or a mapping with target,
            draft, dtype and device, as ``configs/model`` holds it.
        prompts: user messages, ``Prompt``s, or token ids; None takes the shipped prompts.
        hardware: a profile, a NAME of ``configs/hardware``, or a FILE that ``radar-rl profile`` wrote, or its
            contents. None is ``pocket_cpu``, for the embedded pair only.
        reward: one of the names above, a mapping with parameters, or a ``Reward``.
        episode: ``sequence`` or ``round``.
        observation: names of features, or a whole ``ObservationSpec`` (which projected features need).
        max_new_tokens: length at which a text is cut.
        max_depth: most draft calls in a round.
        top_k: beam width.
        tree_size: nodes verified, root included.
        temperature: of the target, 0 is greedy.
        sample_top_k: keep the k most likely tokens; 0 keeps all.
        sample_top_p: keep the most likely tokens up to this probability.
        seed: of the target's sampling; each prompt's own seed derives from it.
        render_mode: ``ansi`` or ``rgb_array``.

    Attributes:
        pair: who decodes.

    Raises:
        InputError: a prompt, the pair or a size is not what was expected.
        ConfigError: an unknown feature, reward, episode, hardware or render mode; lists the valid ones.
        CheckpointError: see ``load_pair``.
    """

    def __init__(
        self,
        pair: Pair | str | Path | Mapping[str, Any] = "pocket",
        prompts: Sequence[str | Prompt | Sequence[int]] | None = None,
        *,
        hardware: Hardware = None,
        reward: Earned = "throughput",
        episode: str = "sequence",
        observation: Observed = DEFAULT_FEATURES,
        max_new_tokens: int = 96,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        temperature: float = 0.0,
        sample_top_k: int = 0,
        sample_top_p: float = 1.0,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        for name, value in {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}.items():
            check_whole(name, value, 1)
        spec = observation_spec(observation, max_depth=max_depth, top_k=top_k)
        self.pair = _loaded(pair)
        texts = LiveTexts(
            self.pair,
            _prompts(prompts),
            max_new_tokens=max_new_tokens,
            max_depth=max_depth,
            top_k=top_k,
            tree_size=tree_size,
            temperature=temperature,
            sample_top_k=sample_top_k,
            sample_top_p=sample_top_p,
            seed=seed,
            features=spec.looks_at,
            feature_dim=spec.feature_dim,
            feature_seed=spec.feature_seed,
        )
        super().__init__(
            texts, spec, hardware=hardware, reward=reward, episode=episode, render_mode=render_mode
        )


class DraftTreeWallClockEnv(DraftTreeEnv):
    """As ``Radar/DraftTree-v0``, with the seconds that this machine takes: the same run earns other rewards each time.

    ## Description
    The decision problem of ``DraftTreeEnv``, on the clock of the machine that decodes: what a policy is worth here and
    now, other load included. Texts, observations and accepted tokens stay deterministic under a seed.

    ## Action space
    As ``DraftTreeEnv``.

    ## Observation space
    As ``DraftTreeEnv``.

    ## Rewards
    As ``DraftTreeEnv``, with measured seconds: those of call 1 and of verification, each with all that surrounds it in
    the round, at the stop; those of each further call at its continue. The time that an agent takes between two steps
    may be spent on learning, so a decision costs the profile's ``decide_seconds``, and the default rate is the
    profile's too. Drawing a tree chooses its nodes beforehand, which verification then need not: don't compare seconds
    of an environment that is drawn. ``info["seconds"]`` and ``info["tokens_per_second"]`` are of the same seconds.

    ## Starting state
    As ``DraftTreeEnv``.

    ## Episode end
    As ``DraftTreeEnv``.

    ## Info
    As ``DraftTreeEnv``.

    ## Arguments
    As ``DraftTreeEnv``.

    ```python
    import gymnasium
    env = gymnasium.make("radar_rl.envs:Radar/DraftTreeWallClock-v0", max_new_tokens=32)
    ```

    ## Version history
    - v0: first version.
    """

    def _made(self, step: Callable[[], T]) -> T:
        made, self._taken = timed(self.pair, step)
        return made

    def _begin(self, session: TextSession) -> DraftState:
        state = super()._begin(session)
        self._round_seconds = self._first_call = self._taken
        return state

    def _pay_continue(self, depth: int) -> tuple[float, float]:
        seconds = self._taken + self.problem.hardware.decide_seconds
        self._round_seconds += seconds
        return float(self.problem.reward.of_continue(seconds)), seconds

    def _pay_stop(self, depth: int, emitted: int) -> tuple[float, float]:
        decided = self.problem.hardware.decide_seconds if depth < self.max_depth else 0.0
        verified = self._taken + decided
        seconds = self._first_call + verified
        reward = self.problem.reward.of_stop(emitted, seconds, self._round_seconds + verified)
        return float(reward), seconds


def _loaded(pair: Pair | str | Path | Mapping[str, Any]) -> Pair:
    if isinstance(pair, Mapping):
        if "target" not in pair:
            raise ConfigError(f"pair: expected a mapping with target, draft, dtype and device, got {dict(pair)}")
        return pair_from_config({"draft": "pocket", "dtype": "float32", "device": "cpu"} | dict(pair))
    if not isinstance(pair, Pair | str | Path):
        raise InputError(f"pair: expected a Pair, a folder or name of a target, or a mapping, got {pair!r}")
    return pair if isinstance(pair, Pair) else load_pair(pair)


def _prompts(prompts: Sequence[str | Prompt | Sequence[int]] | None) -> list[Prompt]:
    if prompts is None:
        return load_prompts()
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):  # a string is a sequence of strings, too
        raise InputError(f"prompts: expected a list of messages, Prompts or token ids, got {prompts!r}")
    return [_prompt(number, prompt) for number, prompt in enumerate(prompts, start=1)]


def _prompt(number: int, prompt: str | Prompt | Sequence[int]) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    name = f"prompts-{number}"
    if not isinstance(prompt, Sequence):
        raise InputError(f"{name}: expected a message, a Prompt or token ids, got {prompt!r}")
    if isinstance(prompt, str):
        return Prompt("prompts", name, text=prompt)
    token_ids: Sequence[Any] = prompt
    return Prompt("prompts", name, token_ids=tuple(token_ids))
