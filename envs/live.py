"""The live environment: a target and its draft head decode, the agent says when to stop drafting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radar_rl.envs.base import DraftTreeBase
from radar_rl.policies.observation import ObservationSpec
from radar_rl.rollouts.live import LiveTexts
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.tasks import Prompt, load_prompts
from radar_rl.speculative.hardware import HardwareProfile
from radar_rl.speculative.pair import Pair, load_pair


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
    ``Box`` float32, laid out by an ``ObservationSpec``. By default the cumulative draft log-probabilities of the
    ``top_k`` best nodes of each level, sorted descending, levels not drafted yet filled with −20, followed by
    calls made / ``max_depth``: ``max_depth × top_k + 1`` numbers.

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
    Each turn of a conversation is a prompt, with the target's own answers to the turns before it.

    ## Episode end
    ``episode="sequence"`` (default): the text ends, by its end token or at ``max_new_tokens``. ``episode="round"``: a
    round ends; ``reset()`` then goes on with the text's next round. Episodes are never truncated. The observation
    that comes with ``terminated`` is the last one again.

    ## Info
    ``action_mask``, ``position`` (index of the root token in prompt + completion) and ``text`` (which prompt) describe
    what is observed; ``accepted``, ``emitted``, ``draft_calls`` (0 unless the step ended a round) and ``seconds`` the
    step just made; ``tokens_per_second`` of the episode comes with its end.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("radar_rl.envs:Radar/DraftTree-v0", prompts=["Explain why bread rises."], max_depth=6)
    ```

    ## Version history
    - v0: first version.

    Args:
        pair: a loaded pair, or what ``load_pair`` takes as its target.
        prompts: user messages, ``Prompt``s, or token ids; None takes the shipped prompts.
        hardware: a profile, a NAME of ``configs/hardware``, or a FILE that ``radar-rl profile`` wrote.
        reward: one of the names above, a mapping with parameters, or a ``Reward``.
        episode: ``sequence`` or ``round``.
        spec: layout of the observation.
        max_new_tokens: length at which a text is cut.
        max_depth: most draft calls in a round.
        top_k: beam width.
        tree_size: nodes verified, root included.
        temperature: of the target, 0 is greedy.
        sample_top_k: keep the k most likely tokens; 0 keeps all.
        sample_top_p: keep the most likely tokens up to this probability.
        seed: of the target's sampling; each prompt's own seed derives from it.
    """

    def __init__(
        self,
        pair: Pair | str | Path = "pocket",
        prompts: Sequence[str | Prompt | Sequence[int]] | None = None,
        *,
        hardware: HardwareProfile | str | Path = "pocket_cpu",
        reward: Reward | str | Mapping[str, Any] = "throughput",
        episode: str = "sequence",
        spec: ObservationSpec | None = None,
        max_new_tokens: int = 96,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        temperature: float = 0.0,
        sample_top_k: int = 0,
        sample_top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        texts = LiveTexts(
            pair if isinstance(pair, Pair) else load_pair(pair),
            load_prompts() if prompts is None else [_prompt(i, prompt) for i, prompt in enumerate(prompts, start=1)],
            max_new_tokens=max_new_tokens,
            max_depth=max_depth,
            top_k=top_k,
            tree_size=tree_size,
            temperature=temperature,
            sample_top_k=sample_top_k,
            sample_top_p=sample_top_p,
            seed=seed,
        )
        super().__init__(texts, hardware=hardware, reward=reward, episode=episode, spec=spec)


def _prompt(number: int, prompt: str | Prompt | Sequence[int]) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt("prompts", f"prompts-{number}", text=prompt)
    return Prompt("prompts", f"prompts-{number}", token_ids=tuple(prompt))
