"""Decoding with a policy: the loop of DESIGN §6."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

from radar_rl.errors import ConfigError, check_whole
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.on_device import OnDevice
from radar_rl.policies.protocol import CONTINUE, MemorylessPolicy, Policy
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.switching import SwitchingPolicy
from radar_rl.runtime.artifact import MADE_FOR, Artifact, load_artifact
from radar_rl.runtime.decide import decide
from radar_rl.runtime.guard import Guard, Watch, misfit
from radar_rl.speculative.batch import SpeculativeBatch
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.text import DraftOptions, DraftSource, Options, Round

SHAPE = {"max_depth": 8, "top_k": 10, "tree_size": 60}
"""What is drafted where nobody says otherwise."""


@dataclass(frozen=True)
class Generation:
    """A decoded text.

    Attributes:
        token_ids: the new tokens.
        rounds: what each round did; the first token comes from the prompt's prefill, before any round.
        fallbacks: rounds that were not drafted as the policy would have it (``SpeculativeDecoder``).
    """

    token_ids: list[int]
    rounds: list[Round]
    fallbacks: int = 0

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

    A policy that cannot decide doesn't stop the decoding: the round goes to a static depth, which is warned of once
    (``FallbackWarning``) and counted. It cannot where it or a model returns NaN, where it lacks a feature, where it was
    made for another pair, ``max_depth``, ``top_k`` or, looking at the tree's mass, ``tree_size``. That the target's own
    numbers are damaged is always an error: no token may be chosen from them.

    Args:
        pair: target and draft head.
        policy: when to stop drafting. May be set anew between texts.
        max_depth: most draft calls in a round.
        top_k: beam width.
        tree_size: nodes verified, root included.
        widen_first_level: see ``DraftOptions``.
        draft_source: ``head``, ``ngram`` (draft calls are never made, the policy is never asked) or ``hybrid``.
        strict: raise where the policy cannot decide, or the head returns NaN.
        fallback_depth: draft calls where it cannot; None: the best static depth of ``made_for``, else ``max_depth``.
        made_for: ``target``, ``draft``, ``tree_size`` and ``best_static_depth`` that the policy was made for, as an
            artifact's config has them; what it lacks is not checked. None: what ``load_policy`` found beside it.
        allow_other_pair: let it run with another pair.

    Attributes:
        fallbacks: rounds so far, of all texts, that were not drafted as the policy would have it.

    Raises:
        ArtifactError: the policy was made for something else, and ``strict``.
        InputError: a depth, width or size is no whole number ≥ 1.
        ConfigError: that is no policy.
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
        strict: bool = False,
        fallback_depth: int | None = None,
        made_for: Mapping[str, Any] | None = None,
        allow_other_pair: bool = False,
    ) -> None:
        for name, value in {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}.items():
            check_whole(name, value, 1)
        if fallback_depth is not None:
            check_whole("fallback_depth", fallback_depth, 1)
        self.pair, self.max_depth, self.top_k = pair, max_depth, top_k
        self.tree_size, self.widen_first_level, self.draft_source = tree_size, widen_first_level, draft_source
        self._fallback_depth, self._allow_other_pair = fallback_depth, allow_other_pair
        self._guard = Guard(max_depth, strict)
        self._take(policy, made_for)

    @classmethod
    def from_artifact(
        cls,
        pair: Pair,
        artifact: Artifact | str | Path,
        *,
        strict: bool = False,
        allow_other_pair: bool = False,
        **shape: Any,
    ) -> Self:
        """A decoder as an artifact describes it: its policy, the drafts it was made for, its best static depth.

        Args:
            pair: target and draft head.
            artifact: an exported policy, or its folder.
            strict, allow_other_pair: see the class.
            shape: further arguments of the class, in place of what the artifact says.

        Raises:
            ArtifactError: the artifact is damaged; or, if ``strict``, was made for something else.
        """
        if not isinstance(artifact, Artifact):
            artifact = load_artifact(artifact)
        about = artifact.about
        recorded = {key: about[key] for key in ("max_depth", "top_k", "tree_size") if about.get(key) is not None}
        given = recorded | {"made_for": about} | shape
        return cls(pair, artifact.policy, strict=strict, allow_other_pair=allow_other_pair, **given)

    @property
    def policy(self) -> Policy:
        """When to stop drafting."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._take(policy, None)

    @property
    def fallbacks(self) -> int:
        """See the class."""
        return self._guard.fallbacks

    def _take(self, policy: Policy, made_for: Mapping[str, Any] | None) -> None:
        """Decode with a policy from here on, or with the static depth if it does not fit."""
        check_policy(policy)
        made_for = getattr(policy, MADE_FOR, {}) if made_for is None else made_for
        best = self._fallback_depth or made_for.get("best_static_depth") or self.max_depth
        self._guard.depth = min(int(best), self.max_depth)
        shape = {"max_depth": self.max_depth, "top_k": self.top_k, "tree_size": self.tree_size}
        reason = misfit(policy, self.pair, shape, made_for, self._allow_other_pair)
        self._guard.admit(policy, reason)
        self._policy = policy
        self._decides = policy if reason is None else StaticDepth(self._guard.depth)
        # Where n-grams draft alone the policy is never asked.
        if self.draft_source == "ngram":
            self._seen: DraftOptions = {}
        else:
            self._seen = features_of(self._decides) | judged(self.pair, self._decides)

    def start(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> SpeculativeSession:
        """Prefill a prompt; the session is what ``rounds`` decodes."""
        return SpeculativeSession(self.pair, prompt_ids, **self._drafting(options))

    def start_batch(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None, **options: Unpack[Options]
    ) -> SpeculativeBatch:
        """Prefill prompts; the batch is what ``play`` decodes. Arguments and errors as of ``generate_batch``.

        Raises:
            ConfigError: there are several prompts, and the policy learns from text to text.
        """
        if len(prompts) > 1 and getattr(self._decides, "remembers", False):
            raise ConfigError(
                f"policy {self.policy.name} learns from text to text, one after the other: decode {len(prompts)} "
                "prompts with generate, or with a policy that forgets"
            )
        return SpeculativeBatch(self.pair, prompts, seeds=seeds, **self._drafting(options))

    def _drafting(self, options: Options) -> DraftOptions:
        """Everything that a text is decoded and drafted with."""
        if unknown := sorted(set(options) - Options.__annotations__.keys()):
            raise ConfigError(f"{', '.join(unknown)}: unknown here; a text takes {', '.join(Options.__annotations__)}")
        return {
            "max_depth": self.max_depth,
            "top_k": self.top_k,
            "tree_size": self.tree_size,
            "widen_first_level": self.widen_first_level,
            "draft_source": self.draft_source,
            "skip_nan": not self._guard.strict,
            **self._seen,
            **options,
        }

    def rounds(self, session: SpeculativeSession) -> Iterator[Round]:
        """Decode a session to its end, yielding each round as it ends."""
        for ended in self.play(session.batch):
            yield ended[0]

    def play(self, batch: SpeculativeBatch, watch: Watch | None = None) -> Iterator[dict[int, Round]]:
        """Decode a batch to its end, yielding each round of the texts that were active, by text.

        Args:
            batch: as ``start_batch`` makes it; texts may be ended between two rounds.
            watch: over its texts; None: nobody asks which of them fell back.
        """
        watch = watch or self._guard.watch(len(batch.texts))
        alone = len(batch.texts) == 1
        policies = [self._decides if alone else copy.deepcopy(self._decides) for _ in batch.texts]
        for policy in policies:
            policy.begin_sequence()
        while batch.active:
            watch.begin(batch.active)
            deciding = [policies[i] for i in batch.active]
            states = batch.begin()  # makes draft call 1
            rows = list(range(len(states)))
            while states[0].depth < batch.max_depth:
                ask = partial(_ask, deciding, dict(zip(rows, states, strict=True)))
                acts = watch.decide(rows, states[0].depth, ask)
                rows = [row for row, act in zip(rows, acts, strict=True) if act == CONTINUE]
                if not rows:
                    break
                states = batch.draft(rows)
            texts = batch.active
            ended = dict(zip(texts, batch.verify(), strict=True))
            for i in watch.end(ended):
                policies[i].end_round(ended[i].draft_calls, ended[i].accepted)
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
        session, watch = self.start(prompt_ids, **options), self._guard.watch(1)
        rounds = [ended[0] for ended in self.play(session.batch, watch)]
        return Generation(session.token_ids, rounds, watch.fallbacks[0])

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None, **options: Unpack[Options]
    ) -> list[Generation]:
        """Decode prompts side by side: one verification for all in each round, a stop decision for each.

        Every text has a copy of the policy, so that what a policy remembers is its own text's. One that learns from
        text to text (``remembers``) takes one text at a time.

        Args:
            prompts: token ids of each, not empty.
            seeds: each text's; None: ``options["seed"]`` for all.
            options: as ``generate`` takes them.

        Returns:
            As ``generate`` does for each prompt, up to ties of two logits within floating-point error.

        Raises:
            ConfigError: the policy learns from text to text, and there are several.
            InputError, ModelOutputError: see ``generate``.
        """
        batch, watch = self.start_batch(prompts, seeds, **options), self._guard.watch(len(prompts))
        rounds: list[list[Round]] = [[] for _ in prompts]
        for ended in self.play(batch, watch):
            for i, done in ended.items():
                rounds[i].append(done)
        return [
            Generation(text.token_ids, done, fallbacks)
            for text, done, fallbacks in zip(batch.texts, rounds, watch.fallbacks, strict=True)
        ]

    def stream(self, prompt_ids: Sequence[int], **options: Unpack[Options]) -> Iterator[int]:
        """Like ``generate``, yielding token ids as rounds end."""
        session = self.start(prompt_ids, **options)

        def tokens() -> Iterator[int]:
            yield session.token_ids[0]
            for ended in self.rounds(session):
                yield from ended.emitted

        return tokens()


def check_policy(policy: object) -> None:
    """Refuse what is no policy.

    Raises:
        ConfigError: saying what one is.
    """
    if isinstance(policy, type) or not all(hasattr(policy, part) for part in ("name", "act", "end_round")):
        raise ConfigError(f"policy: expected one, such as load_policy(…) or StaticDepth(5) give, got {policy!r}")


def features_of(policy: Policy) -> DraftOptions:
    """What texts are to be decoded with for a policy to see the features that it looks at."""
    spec = getattr(policy, "spec", None)
    if isinstance(spec, ObservationSpec) and spec.looks_at:
        return {"features": spec.looks_at, "feature_dim": spec.feature_dim, "feature_seed": spec.feature_seed}
    # A rule looks at columns that nothing projects.
    features = policy.features if isinstance(policy, MemorylessPolicy | SwitchingPolicy) else ()
    return {"features": features} if features else {}


def _ask(policies: Sequence[Policy], states: Mapping[int, DraftState], rows: Sequence[int]) -> list[int]:
    """STOP or CONTINUE for some of a batch's rows."""
    return decide([policies[row] for row in rows], [states[row] for row in rows])


def judged(pair: Pair, policy: Policy) -> DraftOptions:
    """Where a pair is on a GPU, a learned policy is evaluated there, in the draft calls' own passes."""
    if pair.target.device.type != "cuda" or not isinstance(policy, LearnedPolicy):
        return {}
    return {"judge": OnDevice(policy, pair.target.device)}
