"""What a policy may look at in the middle of a round."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Confidences = NDArray[np.float16]
FeatureValues = Mapping[str, NDArray[Any]]
Look = tuple[NDArray[np.floating], FeatureValues]
"""Confidences [max_depth, top_k] and features of one state, where levels not drafted may hold anything; of float16 or
wider types, the numbers being rounded to float16 in any case."""


class NodeCounts(NamedTuple):
    """Who proposed the draft nodes of a tree: the head alone, n-grams alone, or both."""

    head: int
    ngram: int
    both: int


class Beams:
    """The beams of one round, where its draft calls leave them: nothing is copied, nor read from a device.

    Attributes:
        numbers: float32, not rounded; call ℓ's ``top_k`` cumulative log-probabilities, descending, from
            (ℓ − 1) · ``top_k`` on; of calls not made they mean nothing. None once the next round has begun, and in a
            copy.
        shape: ``max_depth`` and ``top_k``.
    """

    __slots__ = ("numbers", "shape")

    def __init__(self, numbers: "memoryview[float] | None", shape: tuple[int, int]) -> None:
        self.numbers, self.shape = numbers, shape

    def __reduce__(self) -> tuple[Any, ...]:
        return Beams, (None, self.shape)


class DraftState:
    """The newest draft tree as a policy sees it.

    Attributes:
        position: index of the root token in prompt + completion.
        depth: draft calls made in this round, 1 … max_depth.
        max_depth: draft calls the round may make.
        confidences: [max_depth, top_k] float16, the cumulative draft log-probabilities of each level's beam, sorted
            descending; rows from ``depth`` on are not filled. Live, they are read from the device when a policy
            looks at them; one that never looks costs no read. Looked at first after the round, they are gone
            (RuntimeError); ModelOutputError where the head returned NaN.
        features: by name, those that the text is decoded with (``DraftOptions.features``), of the shapes and types of
            ``FEATURES``; rows of calls not made are not filled. Read as the confidences are, and with them.
        sources: who proposed the nodes that would be verified now, None in a replay. Live, they are read when a policy
            looks at them, while its tree is the newest (else RuntimeError), the confidences with them: look at the
            sources first, and one read does for both.
        beams: the round's, of a text that is decoded alone on a CPU; else None.
    """

    __slots__ = (
        "_confidences",
        "_features",
        "_look",
        "_sources",
        "_verdict",
        "beams",
        "depth",
        "max_depth",
        "position",
    )

    def __init__(
        self,
        position: int,
        depth: int,
        max_depth: int,
        confidences: Confidences | Callable[[], Confidences],
        sources: Callable[[], NodeCounts] | None = None,
        features: FeatureValues | Callable[[], FeatureValues] | None = None,
        look: Callable[[bool], Look] | None = None,
        verdict: Callable[[object], int | None] | None = None,
        beams: Beams | None = None,
    ) -> None:
        self.position, self.depth, self.max_depth = position, depth, max_depth
        self._confidences, self._sources = confidences, sources
        self._features: FeatureValues | Callable[[], FeatureValues] = {} if features is None else features
        self._look, self._verdict, self.beams = look, verdict, beams

    @property
    def confidences(self) -> Confidences:
        """See the class."""
        if not isinstance(self._confidences, np.ndarray):
            self._confidences = self._confidences()
        return self._confidences

    @property
    def features(self) -> FeatureValues:
        """See the class."""
        if callable(self._features):
            self._features = self._features()
        return self._features

    def look(self, check: bool = True) -> Look:
        """Confidences and features for the decision at hand, without copying them: not to be kept, nor changed.

        Levels above ``depth`` may hold anything. Live, it is one object all through a round and another in the next,
        so that who sees it again knows what it has read of it.

        Args:
            check: whether to refuse NaN; else that is left to who looks.

        Raises:
            RuntimeError, ModelOutputError: as for ``confidences``.
        """
        return (self.confidences, self.features) if self._look is None else self._look(check)

    def verdict(self, asker: object) -> int | None:
        """What was decided on the device: a flag of ``radar_rl.speculative.judging``, the only number that is read.

        Args:
            asker: the object that the decision would be for.

        Returns:
            None where nothing was decided for it.
        """
        return None if self._verdict is None else self._verdict(asker)

    @property
    def sources(self) -> NodeCounts | None:
        """See the class."""
        return None if self._sources is None else self._sources()
