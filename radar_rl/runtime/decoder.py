"""Decoding with a policy: the loop of DESIGN §6, and autoregressive decoding beside it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from radar_rl.errors import ArtifactError, ModelOutputError, check_whole
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.on_device import OnDevice
from radar_rl.policies.protocol import CONTINUE, MemorylessPolicy, Policy
from radar_rl.policies.switching import SwitchingPolicy
from radar_rl.runtime.decide import decide
from radar_rl.speculative.batch import SpeculativeBatch
from radar_rl.speculative.graphs import rounded
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.text import DraftOptions, DraftSource, Options, Round


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
        widen_first_level: see ``DraftOptions``.
        draft_source: ``head``, ``ngram`` (draft calls are never made, the policy is never asked) or ``hybrid``.

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
        draft_source: DraftSource = "head",
    ) -> None:
        spec = getattr(policy, "spec", None)
        if spec is not None and (spec.max_depth, spec.top_k) != (max_depth, top_k):
            raise ArtifactError(
                f"policy {policy.name} observes max_depth {spec.max_depth} and top_k {spec.top_k}; "
                f"this decoder drafts with {max_depth} and {top_k}"
            )
        reads = getattr(policy, "top_k", top_k)  # a policy of RADAR's reads any number of levels
        if reads != top_k:
            raise ArtifactError(f"policy {policy.name} reads top_k {reads}; this decoder drafts with {top_k}")
        self.pair, self.policy, self.max_depth, self.top_k = pair, policy, max_depth, top_k
        self.tree_size, self.widen_first_level, self.draft_source = tree_size, widen_first_level, draft_source
        # Where n-grams draft alone the policy is never asked.
        self._seen: DraftOptions = {} if draft_source == "ngram" else features_of(policy) | judged(pair, policy)

    def start(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> SpeculativeSession:
        """Prefill a prompt; the session is what ``rounds`` decodes."""
        return SpeculativeSession(self.pair, prompt_ids, **self._drafting(options))

    def _drafting(self, options: Options) -> DraftOptions:
        """Everything that a text is decoded and drafted with."""
        return {
            "max_depth": self.max_depth,
            "top_k": self.top_k,
            "tree_size": self.tree_size,
            "widen_first_level": self.widen_first_level,
            "draft_source": self.draft_source,
            **self._seen,
            **options,
        }

    def rounds(self, session: SpeculativeSession) -> Iterator[Round]:
        """Decode a session to its end, yielding each round as it ends."""
        for ended in self._play(session.batch, [self.policy]):
            yield ended[0]

    def _play(self, batch: SpeculativeBatch, policies: Sequence[Policy]) -> Iterator[dict[int, Round]]:
        """Decode a batch to its end, yielding each round of the texts that were active, by text.

        Args:
            policies: each text's.
        """
        for policy in policies:
            policy.begin_sequence()
        while batch.active:
            deciding = [policies[i] for i in batch.active]
            states = batch.begin()  # makes draft call 1
            rows = list(range(len(states)))
            while states[0].depth < batch.max_depth:
                acts = decide([deciding[row] for row in rows], states)
                rows = [row for row, act in zip(rows, acts, strict=True) if act == CONTINUE]
                if not rows:
                    break
                states = batch.draft(rows)
            texts = batch.active
            ended = dict(zip(texts, batch.verify(), strict=True))
            for i, done in ended.items():
                policies[i].end_round(done.draft_calls, done.accepted)
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

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None, **options: Unpack[Options]
    ) -> list[Generation]:
        """Decode prompts side by side: one verification for all in each round, a stop decision for each.

        Every text has a copy of the policy, so that what a policy remembers is its own text's.

        Args:
            prompts: token ids of each, not empty.
            seeds: each text's; None: ``options["seed"]`` for all.
            options: as ``generate`` takes them.

        Returns:
            As ``generate`` does for each prompt, up to ties of two logits within floating-point error.

        Raises:
            InputError, ModelOutputError: see ``generate``.
        """
        batch = SpeculativeBatch(self.pair, prompts, seeds=seeds, **self._drafting(options))
        rounds: list[list[Round]] = [[] for _ in prompts]
        for ended in self._play(batch, [copy.deepcopy(self.policy) for _ in prompts]):
            for i, done in ended.items():
                rounds[i].append(done)
        return [Generation(text.token_ids, done) for text, done in zip(batch.texts, rounds, strict=True)]

    def stream(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> Iterator[int]:
        """Like ``generate``, yielding token ids as rounds end."""
        session = self.start(prompt_ids, **options)

        def tokens() -> Iterator[int]:
            yield session.token_ids[0]
            for ended in self.rounds(session):
                yield from ended.emitted

        return tokens()


def features_of(policy: Policy) -> DraftOptions:
    """What texts are to be decoded with for a policy to see the features that it looks at."""
    spec = getattr(policy, "spec", None)
    if isinstance(spec, ObservationSpec) and spec.looks_at:
        return {"features": spec.looks_at, "feature_dim": spec.feature_dim, "feature_seed": spec.feature_seed}
    # A rule looks at columns that nothing projects.
    features = policy.features if isinstance(policy, MemorylessPolicy | SwitchingPolicy) else ()
    return {"features": features} if features else {}


def judged(pair: Pair, policy: Policy) -> DraftOptions:
    """Where a pair is on a GPU, a learned policy is evaluated there, in the draft calls' own passes."""
    if pair.target.device.type != "cuda" or not isinstance(policy, LearnedPolicy):
        return {}
    return {"judge": OnDevice(policy, pair.target.device)}


def autoregressive(
    pair: Pair,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    seed: int = 0,
    prefill_chunk: int = 512,
) -> Iterator[int]:
    """The target alone, a token per forward, with the same cache, noise and ends as speculative decoding.

    Args:
        pair: whose target decodes.
        prompt_ids: token ids, not empty.
        max_new_tokens, temperature, sample_top_k, sample_top_p, seed, prefill_chunk: see ``Options``.

    Raises:
        InputError: the prompt cannot be decoded.
        ModelOutputError: the target's logits are not finite.
    """
    pair.check_prompt(prompt_ids, max_new_tokens)
    check_whole("seed", seed, None)
    check_whole("prefill_chunk", prefill_chunk, 1)
    return _alone(
        pair, prompt_ids, max_new_tokens, Sampling(temperature, sample_top_k, sample_top_p), seed, prefill_chunk
    )


def _alone(
    pair: Pair, prompt_ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int, prefill_chunk: int
) -> Iterator[int]:
    target = pair.target
    noise = PositionNoise(seed, target.vocab_size, target.device)
    room = rounded(len(prompt_ids) + max_new_tokens, pair.arena.bucket) + 1
    lent, give_back = pair.arena.lend(
        ("alone", room), lambda replays: TargetCache(target.model, room, replays=replays())
    )
    cache = lent.fresh()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=target.device)
    prompt = torch.tensor(list(prompt_ids), device=target.device)
    with torch.inference_mode():
        for read in prompt.split(prefill_chunk):
            hidden, _ = target.extend(read, cache)
    for position in range(len(prompt_ids), len(prompt_ids) + max_new_tokens):
        with torch.inference_mode():
            logits = target.logits(hidden[None, -1:])
            step = choose(logits, [position], zero, sampling, [noise])[0]
            token, finite = torch.cat((step, logits.isfinite().all().long()[None])).tolist()
        if not finite:
            raise ModelOutputError(
                f"the target's lm_head returned NaN or infinite logits at position {position}; no token can be chosen"
            )
        noise.forget_before(position)
        yield token
        if token in pair.eos_token_ids or position == len(prompt_ids) + max_new_tokens - 1:
            give_back()
            return
        with torch.inference_mode():
            hidden = target.step(step, cache)
