"""One text being decoded: a batch of one, without the lists."""

from collections.abc import Sequence
from typing import Unpack

from radar_rl.speculative.batch import SpeculativeBatch
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.text import DraftOptions, Round
from radar_rl.speculative.tree import DraftTree


class SpeculativeSession:
    """Decodes one text: ``begin()`` a round, ``draft()`` more levels, ``verify()``, until ``finished``.

    Construction prefills the prompt and emits the first token, which is the first round's root.

    Args:
        pair: target and draft head.
        prompt_ids: the prompt's token ids, not empty.
        options: what the text is decoded and drafted with (``DraftOptions``).

    Attributes:
        batch: the batch of one.

    Raises:
        InputError: the prompt is empty, holds ids outside the vocabulary, or does not fit the context.
        ModelOutputError: a model returned NaN or infinite logits.
    """

    def __init__(self, pair: Pair, prompt_ids: Sequence[int], **options: Unpack[DraftOptions]) -> None:
        self.batch = SpeculativeBatch(pair, [prompt_ids], **options)

    @property
    def pair(self) -> Pair:
        """Target and draft head."""
        return self.batch.pair

    @property
    def max_depth(self) -> int:
        """Most draft calls in a round; 0 where n-grams draft alone."""
        return self.batch.max_depth

    @property
    def token_ids(self) -> list[int]:
        """The new tokens so far."""
        return self.batch.texts[0].token_ids

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""
        return self.batch.texts[0].finished

    @property
    def position(self) -> int:
        """Index of the root token, the last one emitted, in prompt + completion."""
        return self.batch.texts[0].position

    def begin(self) -> DraftState:
        """Start a round: let the head read the text emitted since the last one, and make draft call 1.

        Raises:
            RuntimeError: a round is in progress, or the text has ended.
        """
        return self.batch.begin()[0]

    def draft(self) -> DraftState:
        """Make one more draft call: the tree grows by a level.

        Raises:
            RuntimeError: no round is in progress, or ``max_depth`` calls were made.
        """
        return self.batch.draft()[0]

    def tree(self) -> DraftTree:
        """The tree that ``verify()`` would see now.

        Raises:
            RuntimeError: no round is in progress.
        """
        return self.batch.tree()

    def verify(self) -> Round:
        """End the round: one target forward over the tree, accept a path, emit it and the bonus token.

        Raises:
            RuntimeError: no round is in progress.
            ModelOutputError: a model returned NaN or infinite logits; nothing is emitted.
        """
        return self.batch.verify()[0]
