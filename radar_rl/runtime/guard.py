"""When a policy cannot decide: the round goes to a static depth, which is warned of once and counted."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from radar_rl.errors import ArtifactError, FallbackWarning, RadarError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP, Policy
from radar_rl.runtime.artifact import check_pair
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import Round


class Guard:
    """What a decoder does where its policy cannot decide.

    Args:
        depth: draft calls of a round that the policy cannot decide.
        strict: raise instead.

    Attributes:
        fallbacks: rounds so far that were not drafted as the policy would have it.
    """

    def __init__(self, depth: int, strict: bool) -> None:
        self.depth, self.strict = depth, strict
        self.fallbacks = 0
        self._name, self._unfit, self._warned = "", False, False

    def admit(self, policy: Policy, misfit: str | None) -> None:
        """A policy takes over; one that does not fit is not asked.

        Args:
            misfit: why it does not; None: it does.

        Raises:
            ArtifactError: it does not, and ``strict``.
        """
        if misfit is not None and self.strict:
            raise ArtifactError(misfit)
        self._name, self._unfit = policy.name, misfit is not None
        if misfit is not None:
            self.warn(misfit)

    def watch(self, texts: int) -> "Watch":
        """Over texts that are decoded side by side."""
        return Watch(self, texts, self._unfit)

    def warn(self, reason: str) -> None:
        """Say, the first time, that and why the policy could not decide."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"policy {self._name} could not decide, rounds are drafted to depth {self.depth} instead: {reason}. "
                "The text is right all the same. Said once; SpeculativeDecoder.fallbacks counts the rounds, "
                "strict=True makes it an error",
                FallbackWarning,
                stacklevel=4,
            )


class Watch:
    """Texts that are decoded side by side, under a guard.

    Args:
        guard: of their decoder.
        texts: how many.
        unfit: whether all their rounds go to the static depth.

    Attributes:
        fallbacks: by text, as ``Guard.fallbacks``.
    """

    def __init__(self, guard: Guard, texts: int, unfit: bool) -> None:
        self.fallbacks = [0] * texts
        self._guard, self._unfit = guard, unfit
        self._texts: Sequence[int] = ()
        self._fallen: set[int] = set()

    def begin(self, texts: Sequence[int]) -> None:
        """A round of some texts begins; its rows are called 0, 1, … in this order."""
        self._texts, self._fallen = texts, set()

    def decide(self, rows: Sequence[int], depth: int, ask: Callable[[Sequence[int]], list[int]]) -> list[int]:
        """STOP or CONTINUE for rows of the round after ``depth`` draft calls.

        A policy that could not decide after one call is not asked about the round's later ones.

        Args:
            ask: what their policies say of some rows.
        """
        if not self._fallen:
            try:
                return ask(rows)
            except RadarError:
                if self._guard.strict:
                    raise
        return [self._decide_alone(row, depth, ask) for row in rows]

    def _decide_alone(self, row: int, depth: int, ask: Callable[[Sequence[int]], list[int]]) -> int:
        """For one row: of texts side by side, only those whose policy cannot decide fall back."""
        if row not in self._fallen:
            try:
                return ask([row])[0]
            except RadarError as error:
                self._guard.warn(str(error))
                self._fallen.add(row)
        return CONTINUE if depth < self._guard.depth else STOP

    def end(self, rounds: Mapping[int, Round]) -> list[int]:
        """Count the round; returns the texts whose policy decided it, which it may learn from.

        Args:
            rounds: by text.
        """
        decided = []
        for row, text in enumerate(self._texts):
            fallen = row in self._fallen
            if rounds[text].damaged and not fallen:  # by a policy that did not look
                self._guard.warn("the draft head returned NaN")
            if fallen or self._unfit or rounds[text].damaged:
                self.fallbacks[text] += 1
                self._guard.fallbacks += 1
            if not fallen:
                decided.append(text)
        return decided


def misfit(
    policy: Policy, pair: Pair, shape: Mapping[str, int], made_for: Mapping[str, Any], allow_other_pair: bool
) -> str | None:
    """Why a policy cannot decide for a decoder, in words; None: it can.

    Args:
        pair, shape: what the decoder drafts with: ``max_depth``, ``top_k``, ``tree_size``.
        made_for: what is known of where the policy comes from (``target``, ``draft``, ``tree_size``).
        allow_other_pair: the pair does not matter.
    """
    spec = getattr(policy, "spec", None)
    if isinstance(spec, ObservationSpec):
        reads = {"max_depth": spec.max_depth, "top_k": spec.top_k}
    else:  # a policy of RADAR's reads one beam width, any number of levels
        reads = {"top_k": getattr(policy, "top_k", shape["top_k"])}
    for key, read in reads.items():
        if read != shape[key]:
            return f"policy {policy.name} observes {key} {read}, this decoder drafts with {shape[key]}"
    made, here = made_for.get("tree_size"), shape["tree_size"]
    if "mass" in getattr(policy, "features", ()) and made not in (None, here):
        return f"policy {policy.name} looks at the mass of trees of {made} nodes, this decoder's have {here}"
    if not allow_other_pair and (made_for.get("target") or made_for.get("draft")):
        try:
            check_pair(made_for, pair.target_identity, pair.draft_identity, allow_other_pair)
        except ArtifactError as error:
            return str(error)
    return None
