"""One text being decoded: a batch of one, without the lists."""

from collections.abc import Sequence

from radar_rl.speculative.batch import DraftSource, SpeculativeBatch
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.text import Round


class SpeculativeSession:
    """Decodes one text: ``begin()`` a round, ``draft()`` more levels, ``verify()``, until ``finished``.

    Construction prefills the prompt and emits the first token, which is the first round's root.

    Args:
        pair: target and draft head.
        prompt_ids: the prompt's token ids, not empty.
        max_new_tokens: length at which the text is cut, in tokens.
        max_depth: most draft calls in a round.
        top_k: beam width; 1 drafts chains.
        tree_size: nodes verified, root included.
        temperature, sample_top_k, sample_top_p, seed: see ``Sampling``.
        widen_first_level: verify ``tree_size - 1`` children of the root when a round stops after call 1 (RADAR).
        prefill_chunk: prompt tokens that pass through the models at once; bounds the memory of long prompts.
        draft_source: ``head``, ``ngram`` or ``hybrid``, see ``SpeculativeBatch``.

    Attributes:
        batch: the batch of one.

    Raises:
        InputError: the prompt is empty, holds ids outside the vocabulary, or does not fit the context.
        ModelOutputError: a model returned NaN or infinite logits.
    """

    def __init__(
        self,
        pair: Pair,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int = 96,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        temperature: float = 0.0,
        sample_top_k: int = 0,
        sample_top_p: float = 1.0,
        seed: int = 0,
        widen_first_level: bool = False,
        prefill_chunk: int = 512,
        draft_source: DraftSource = "head",
    ) -> None:
        self.batch = SpeculativeBatch(
            pair,
            [prompt_ids],
            max_new_tokens=max_new_tokens,
            max_depth=max_depth,
            top_k=top_k,
            tree_size=tree_size,
            temperature=temperature,
            sample_top_k=sample_top_k,
            sample_top_p=sample_top_p,
            seed=seed,
            widen_first_level=widen_first_level,
            prefill_chunk=prefill_chunk,
            draft_source=draft_source,
        )

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

    def verify(self) -> Round:
        """End the round: one target forward over the tree, accept a path, emit it and the bonus token.

        Raises:
            RuntimeError: no round is in progress.
            ModelOutputError: a model returned NaN or infinite logits; nothing is emitted.
        """
        return self.batch.verify()[0]
