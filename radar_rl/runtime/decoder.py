"""Decoding with a policy: the loop of DESIGN §6, and autoregressive decoding beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch

from radar_rl.errors import ArtifactError, ModelOutputError
from radar_rl.policies.protocol import CONTINUE, Policy
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose
from radar_rl.speculative.session import Round, SpeculativeSession
from radar_rl.speculative.target import TargetCache


class Options(TypedDict, total=False):
    """What a text is decoded with; defaults are ``SpeculativeSession``'s.

    Attributes:
        max_new_tokens: length at which the text is cut, in tokens (96).
        temperature: 0 for greedy (0).
        sample_top_k: keep the k most likely tokens; 0 keeps all (0).
        sample_top_p: keep the smallest set with at least this probability (1).
        seed: names the noise of sampling (0).
    """

    max_new_tokens: int
    temperature: float
    sample_top_k: int
    sample_top_p: float
    seed: int


@dataclass(frozen=True)
class Generation:
    """A decoded text.

    Attributes:
        token_ids: the new tokens.
        rounds: what each round did; the first token comes from the prompt's prefill, before any round.
    """

    token_ids: list[int]
    rounds: list[Round]

    @property
    def acceptance_length(self) -> float:
        """τ: emitted tokens per verification, NaN without rounds."""
        return sum(len(r.emitted) for r in self.rounds) / len(self.rounds) if self.rounds else float("nan")

    @property
    def draft_calls_per_round(self) -> float:
        """Mean draft calls in a round, NaN without rounds."""
        return sum(r.draft_calls for r in self.rounds) / len(self.rounds) if self.rounds else float("nan")


class SpeculativeDecoder:
    """Decodes prompts with a pair and a stop policy. The policy changes the speed, never the text.

    Args:
        pair: target and draft head.
        policy: when to stop drafting.
        max_depth: most draft calls in a round.
        top_k: beam width.
        tree_size: nodes verified, root included.
        widen_first_level: see ``SpeculativeSession``.

    Raises:
        ArtifactError: the policy was trained for another ``max_depth`` or ``top_k``.
    """

    def __init__(
        self,
        pair: Pair,
        policy: Policy,
        *,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        widen_first_level: bool = False,
    ) -> None:
        spec = getattr(policy, "spec", None)
        if spec is not None and (spec.max_depth, spec.top_k) != (max_depth, top_k):
            raise ArtifactError(
                f"policy {policy.name} observes max_depth {spec.max_depth} and top_k {spec.top_k}; "
                f"this decoder drafts with {max_depth} and {top_k}"
            )
        self.pair, self.policy, self.max_depth, self.top_k = pair, policy, max_depth, top_k
        self.tree_size, self.widen_first_level = tree_size, widen_first_level

    def start(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> SpeculativeSession:
        """Prefill a prompt; the session is what ``rounds`` decodes."""
        return SpeculativeSession(
            self.pair,
            prompt_ids,
            max_depth=self.max_depth,
            top_k=self.top_k,
            tree_size=self.tree_size,
            widen_first_level=self.widen_first_level,
            **options,
        )

    def rounds(self, session: SpeculativeSession) -> Iterator[Round]:
        """Decode a session to its end, yielding each round as it ends."""
        policy = self.policy
        policy.begin_sequence()
        while not session.finished:
            state = session.begin()  # makes draft call 1
            while state.depth < self.max_depth and policy.act(state) == CONTINUE:
                state = session.draft()
            ended = session.verify()
            policy.end_round(ended.draft_calls, ended.accepted)
            yield ended

    def generate(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> Generation:
        """Decode a prompt.

        Args:
            prompt_ids: token ids, not empty.
            options: how long the text gets and how its tokens are chosen (``Options``).

        Raises:
            InputError: the prompt cannot be decoded.
            ModelOutputError: a model returned values that no token may be chosen from.
        """
        session = self.start(prompt_ids, **options)
        rounds = list(self.rounds(session))
        return Generation(session.token_ids, rounds)

    def stream(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> Iterator[int]:
        """Like ``generate``, yielding token ids as rounds end."""
        session = self.start(prompt_ids, **options)
        yield session.token_ids[0]
        for ended in self.rounds(session):
            yield from ended.emitted


def autoregressive(
    pair: Pair,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """The target alone, a token per forward, with the same cache, noise and ends as speculative decoding.

    Raises:
        InputError: the prompt cannot be decoded.
        ModelOutputError: the target's logits are not finite.
    """
    pair.check_prompt(prompt_ids, max_new_tokens)
    sampling, target = Sampling(temperature, sample_top_k, sample_top_p, seed), pair.target
    noise = PositionNoise(seed, target.vocab_size, target.device)
    cache = TargetCache(target.model, len(prompt_ids) + max_new_tokens)
    zero = torch.zeros(1, dtype=torch.int64, device=target.device)
    step = torch.tensor(list(prompt_ids), device=target.device)
    for position in range(len(prompt_ids), len(prompt_ids) + max_new_tokens):
        with torch.inference_mode():
            hidden, _ = target.extend(step, cache)
            logits = target.logits(hidden[-1:])
            step = choose(logits, [position], zero, sampling, noise)
            token, finite = torch.stack((step[0], logits.isfinite().all().long())).tolist()
        if not finite:
            raise ModelOutputError(f"the target's logits at position {position} are not finite; no token can be chosen")
        noise.forget_before(position)
        yield token
        if token in pair.eos_token_ids:
            return
