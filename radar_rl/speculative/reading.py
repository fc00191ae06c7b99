"""What policies look at in a round, brought from the device only when one looks, all of it in one read."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import ModelOutputError
from radar_rl.speculative.features import FEATURES
from radar_rl.speculative.history import History
from radar_rl.speculative.state import Confidences, FeatureValues, Look

ROOT = "target"
"""The one feature of a round's start that is computed on the device."""


class _Noted(NamedTuple):
    """Numbers that were on the device: of a draft call or, as call 0, of where the rounds start."""

    call: int
    rows: list[int] | None  # None: of all
    parts: tuple[Tensor, ...]


class RoundReading:
    """Confidences and features of texts decoded side by side: of one round after the other, in the same memory.

    Args:
        texts: how many they are at most.
        max_depth, top_k: most draft calls in the round; beam width.
        features: names of those that there are, in the order of ``FEATURES``.
        feature_dim: of those that are projected.

    Attributes:
        confidences: [texts, max_depth, top_k] float32, rounded to float16; of calls not read yet in this round they
            mean nothing.
        features: by name, [texts, …], likewise.
        number: of the round, from 1.
    """

    def __init__(
        self, texts: int, max_depth: int, top_k: int, features: Sequence[str] = (), feature_dim: int = 0
    ) -> None:
        shapes = {
            name: FEATURES[name].shape(max_depth=max_depth, top_k=top_k, feature_dim=feature_dim) for name in features
        }
        self._called = tuple(name for name in features if FEATURES[name].per_call)
        widths = [top_k, *(prod(shapes[name][1:]) for name in self._called)]
        self._ends = np.cumsum(widths).tolist()
        # What a call tells lies together, as it comes from the device, before call 1 what is told of the root: tensors,
        # and the same memory as arrays.
        dim = feature_dim if ROOT in features else 0
        together = torch.zeros(max(1, max_depth), texts, dim + self._ends[-1])
        self._first, self._root, self._calls = together[0], together[0, :, :dim], together[:max_depth, :, dim:]
        # Where confidences are all that is told, they are rounded in memory that is there: as tensor and as array.
        self._alone = together.shape[2] == top_k
        self._rounded: Tensor | None = None
        numbers = self._calls.numpy().swapaxes(0, 1)
        self.confidences: NDArray[np.float32] = numbers[:, :, :top_k]
        self.features: dict[str, NDArray[Any]] = {
            name: np.zeros((texts, *shape), FEATURES[name].dtype) for name, shape in shapes.items()
        }
        for name, start, stop in zip(self._called, self._ends, self._ends[1:], strict=False):
            values = numbers[:, :, start:stop]
            self.features[name] = values if len(shapes[name]) == 2 else values[:, :, 0]
        if ROOT in self.features:
            self.features[ROOT] = self._root.numpy()
        self._views = [
            (self.confidences[row], {name: values[row, ...] for name, values in self.features.items()})
            for row in range(texts)
        ]
        self.number, self._texts = 0, 0

    def begin(self, texts: int) -> None:
        """A round begins, of so many texts; nothing of it has been told."""
        self.number += 1
        if texts != self._texts:
            self._texts = texts
            self._into = [self._root[:texts], *(call[:texts] for call in self._calls)]
            if self._alone:
                self._rounded = torch.zeros(texts, self._ends[0], dtype=torch.float16)
                self._narrow, self._wide = self._rounded.numpy(), [into.numpy() for into in self._into]
        self._unread: list[_Noted] = []
        self._unchecked: list[_Noted] = []
        self._looks: list[Look] = [(confidences, features) for confidences, features in self._views[:texts]]

    def note_root(self, features: dict[str, Tensor]) -> None:
        """Features of where the texts' rounds start: by name, [texts, …]."""
        if features:
            self._unread.append(_Noted(0, None, (features[ROOT],)))

    def note_matches(self, lengths: Sequence[int]) -> None:
        """The feature ``ngram`` of each text, which the host knows."""
        self.features["ngram"][: self._texts] = lengths

    def note_history(self, history: Sequence[History]) -> None:
        """The feature ``history`` of each text, which the host knows: [ROUNDS] each."""
        self.features["history"][: self._texts] = history

    def note_call(self, call: int, rows: Sequence[int], scores: Tensor, features: dict[str, Tensor]) -> None:
        """What a draft call told of some texts.

        Args:
            call: its number, from 1.
            rows: [R], which texts.
            scores: [R, top_k], the newest beam's.
            features: by name, [R, …], of all that have numbers for every call.
        """
        self._note(call, rows, (scores, *(features[name] for name in self._called)))

    def note_packed(self, call: int, rows: Sequence[int], numbers: Tensor) -> None:
        """As ``note_call``, of numbers that are ``packed`` already: [R, numbers]."""
        self._note(call, rows, (numbers,))

    def _note(self, call: int, rows: Sequence[int], parts: tuple[Tensor, ...]) -> None:
        which = None if len(rows) == self._texts else list(rows)
        self._unread.append(_Noted(call, which, parts))

    def look(self, row: int, number: int, check: bool = True) -> Look:
        """Confidences and features of one text, not copied: of calls above those made they mean nothing.

        Numbers are wide, float32, as it is decided from them, but rounded to float16 as a trace stores them. They
        change with the next call that is read. In a round it is the same object whenever one looks, and in no other.

        Args:
            row: which text.
            number: of the round that is meant.
            check: whether to refuse NaN; else that is left to who looks.

        Raises:
            RuntimeError: that round is over.
            ModelOutputError: a model returned NaN; says which and when.
        """
        if number != self.number:
            raise RuntimeError("a state's confidences or features were first looked at after its round was over")
        if self._unread:
            self.read()
        if check and self._unchecked:
            self._check()
        return self._looks[row]

    def confidences_of(self, row: int, number: int, depth: int) -> Confidences:
        """[max_depth, top_k] of one text after ``depth`` calls, −∞ in those not made. Raises as ``look`` does."""
        confidences: Confidences = self.look(row, number)[0].astype(np.float16)
        confidences[depth:] = -np.inf
        return confidences

    def features_of(self, row: int, number: int, depth: int) -> FeatureValues:
        """By name, of one text after ``depth`` calls. Raises as ``look`` does."""
        looked = self.look(row, number)[1]
        return features_after(depth, {name: values.astype(FEATURES[name].dtype) for name, values in looked.items()})

    def read(self, *more: Tensor) -> list[Tensor]:
        """The one device → host read: what was not read yet, and what else is asked for, each [B] → [B] float32."""
        unread, self._unread = self._unread, []
        self._unchecked += unread
        if len(unread) == 1 and not more and unread[0].rows is None:
            call, _, told = unread[0]
            if self._rounded is None:
                self._into[call].copy_(packed(told))
            else:
                self._rounded.copy_(told[0])
                self._wide[call][:] = self._narrow
            return []
        if not more and [noted[:2] for noted in unread] == [(0, None), (1, None)]:  # a round's first look
            self._first[: self._texts].copy_(packed([*unread[0].parts, *unread[1].parts]))
            return []
        parts = [*(packed(noted.parts) for noted in unread), *more]
        together = torch.cat([part.flatten().float() for part in parts]).cpu()
        read = together.split([part.numel() for part in parts])
        for noted, part, values in zip(unread, parts, read, strict=False):
            into = self._into[noted.call]
            into[slice(None) if noted.rows is None else noted.rows] = values.view(part.shape)
        return list(read[len(unread) :])

    def _check(self) -> None:
        """Refuse NaN in what was read since the last time.

        Raises:
            ModelOutputError: says where it came from.
        """
        unchecked, self._unchecked = self._unchecked, []
        for call, rows, _ in unchecked:
            values = self._into[call].numpy()
            missing = np.isnan(values if rows is None else values[rows])
            if missing.any():
                self._unchecked = unchecked  # who looks again is told again
                if call == 0:
                    raise ModelOutputError("the target's features hold NaN where a round starts")
                part = int(np.searchsorted(self._ends, missing.any(axis=0).argmax(), side="right"))
                if part == 0:
                    raise ModelOutputError(f"the draft head's lm_head returned NaN in draft call {call}")
                raise ModelOutputError(f"the draft head's {self._called[part - 1]} is NaN in draft call {call}")


def as_numbers(values: Tensor) -> "memoryview[float]":
    """The memory of a contiguous float32 tensor on the CPU, flat."""
    numbers: memoryview[float] = values.numpy().data.cast("B").cast("f")
    return numbers


def packed(parts: Sequence[Tensor]) -> Tensor:
    """Scores and features of some texts side by side: [R] or [R, n] each → [R, numbers] float16."""
    if len(parts) == 1:
        return parts[0].half()
    return torch.cat([(part if part.ndim == 2 else part.unsqueeze(1)).half() for part in parts], dim=1)


def features_after(depth: int, values: FeatureValues) -> FeatureValues:
    """Copies of one round's features in which those of calls after the first ``depth`` are zero: nobody sees ahead."""
    copies = {name: value.copy() for name, value in values.items()}
    for name, value in copies.items():
        if FEATURES[name].per_call:
            value[depth:] = 0
    return copies
