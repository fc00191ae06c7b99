"""What policies look at in a round, brought from the device only when one looks, all of it in one read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import ModelOutputError
from radar_rl.speculative.features import FEATURES, Features
from radar_rl.speculative.history import History
from radar_rl.speculative.state import Confidences, FeatureValues


class _Unread(NamedTuple):
    """Numbers still on the device: where they go, of which rows, and what they are in words."""

    into: NDArray[Any]
    rows: list[int]
    values: Tensor
    what: str


class RoundReading:
    """Confidences and features of the texts of one round.

    Args:
        texts: how many they are.
        max_depth, top_k: most draft calls in the round; beam width.
        features: which features there are.

    Attributes:
        confidences: [texts, max_depth, top_k] float16, −∞ where nothing was read.
        features: by name, [texts, …]; 0 where nothing was read.
    """

    def __init__(self, texts: int, max_depth: int, top_k: int, features: Features) -> None:
        self.confidences: Confidences = np.full((texts, max_depth, top_k), -np.inf, dtype=np.float16)
        self.features = features.empty(texts, max_depth, top_k)
        self._unread: list[_Unread] = []

    def note_root(self, features: dict[str, Tensor]) -> None:
        """Features of where the texts' rounds start: by name, [texts, …]."""
        rows = list(range(len(self.confidences)))
        what = "the target's features hold NaN where a round starts"
        self._unread.extend(_Unread(self.features[name], rows, values, what) for name, values in features.items())

    def note_matches(self, lengths: Sequence[int]) -> None:
        """The feature ``ngram`` of each text, which the host knows."""
        self.features["ngram"][:] = lengths

    def note_history(self, history: Sequence[History]) -> None:
        """The feature ``history`` of each text, which the host knows: [ROUNDS] each."""
        self.features["history"][:] = history

    def note_call(self, call: int, rows: Sequence[int], scores: Tensor, features: dict[str, Tensor]) -> None:
        """What a draft call told of some texts.

        Args:
            call: its number, from 1.
            rows: [R], which texts.
            scores: [R, top_k], the newest beam's.
            features: by name, [R, …].
        """
        members, what = list(rows), f"the draft head's lm_head returned NaN in draft call {call}"
        self._unread.append(_Unread(self.confidences[:, call - 1], members, scores, what))
        for name, values in features.items():
            what = f"the draft head's {name} is NaN in draft call {call}"
            self._unread.append(_Unread(self.features[name][:, call - 1], members, values, what))

    def confidences_of(self, row: int, depth: int) -> Confidences:
        """[max_depth, top_k] of one text after ``depth`` calls."""
        if self._unread:
            self.read()
        confidences: Confidences = self.confidences[row].copy()
        confidences[depth:] = -np.inf
        return confidences

    def features_of(self, row: int, depth: int) -> FeatureValues:
        """By name, of one text after ``depth`` calls."""
        if self._unread:
            self.read()
        return features_after(depth, {name: column[row] for name, column in self.features.items()})

    def read(self, *more: Tensor) -> list[NDArray[np.float32]]:
        """The one device → host read: what was not read yet, and what else is asked for, each [B].

        Raises:
            ModelOutputError: a model returned NaN; says which and when.
        """
        parts = [*(unread.values for unread in self._unread), *more]
        together = torch.cat([part.flatten().float() for part in parts]).cpu().numpy()
        read = np.split(together, np.cumsum([part.numel() for part in parts])[:-1])
        for unread, values in zip(self._unread, read, strict=False):
            if np.isnan(values).any():
                raise ModelOutputError(unread.what)
            unread.into[unread.rows] = values.reshape(unread.values.shape)
        read = read[len(self._unread) :]
        self._unread = []
        return read


def features_after(depth: int, values: FeatureValues) -> FeatureValues:
    """Copies of one round's features in which those of calls after the first ``depth`` are zero: nobody sees ahead."""
    copies = {name: value.copy() for name, value in values.items()}
    for name, value in copies.items():
        if FEATURES[name].per_call:
            value[depth:] = 0
    return copies
