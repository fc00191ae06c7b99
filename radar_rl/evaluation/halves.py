"""The two halves of a comparison: texts that rules are tuned on, and texts that every policy is compared on."""

from collections.abc import Sequence
from dataclasses import dataclass

from radar_rl.errors import TraceError
from radar_rl.offline.tuning import RULE_FEATURES
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.reading import Keep
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.trace import Sequences, Trace, TraceSettings
from radar_rl.speculative.features import FEATURES


def rule_columns(*made: TraceSettings) -> list[str]:
    """The columns that rules look at, as far as all of some traces have them; a rule that lacks one cannot be tuned."""
    looked_at = {column for columns in RULE_FEATURES.values() for column in columns}
    return [name for name in FEATURES if name in looked_at and all(name in settings.features for settings in made)]


@dataclass(frozen=True)
class Halves:
    """Where the two halves come from.

    Attributes:
        traces: what policies are compared on: its held-out prompts, or all of them …
        tune_traces: … where rules are tuned on another trace's training prompts.
        held_out: share of prompts that is kept from training.
        tree_size: nodes verified.
        rule_columns: names of the feature columns that rules look at, read with either half.
    """

    traces: str
    tune_traces: str | None
    held_out: float
    tree_size: int
    rule_columns: Sequence[str] = ()

    def tuning(self) -> Trace:
        """The training prompts.

        Raises:
            TraceError: there is none.
        """
        trace = self._read(
            self.tune_traces or self.traces, lambda texts: ~is_held_out(texts.prompt_id, self.held_out), ()
        )
        if not len(trace):
            raise TraceError(
                f"{self.tune_traces or self.traces}: at held_out={self.held_out} none of its texts is left to tune "
                "rules on; collect more prompts"
            )
        return trace

    def compared(self, tuned_on: Sequences, features: Sequence[str] = ()) -> Trace:
        """The texts that nobody was trained or tuned on.

        Args:
            tuned_on: the texts of the other half.
            features: names of the columns that trained policies look at.

        Raises:
            TraceError: there is none, or prompts are in both halves.
        """
        keep = None if self.tune_traces else lambda texts: is_held_out(texts.prompt_id, self.held_out)
        trace = self._read(self.traces, keep, features)
        if not len(trace):
            share = "it has no rows" if self.tune_traces else f"at held_out={self.held_out} none of its texts is left"
            raise TraceError(f"{self.traces}: {share} to evaluate on; collect more prompts")
        both = _prompts(trace.sequences) & _prompts(tuned_on)
        if both:
            example = "/".join(min(both))
            raise TraceError(
                f"{self.traces}: {len(both)} of its prompts ({example}, …) are among the training prompts of "
                f"{self.tune_traces}: all prompts of traces= are compared on, so none may have been trained on; leave "
                "out tune_traces= to use held-out prompts, or collect other tasks"
            )
        return trace

    def _read(self, place: str, keep: Keep | None, features: Sequence[str]) -> Trace:
        columns = [name for name in FEATURES if name in (*self.rule_columns, *features)]
        return load_trace(place, tree_size=self.tree_size, keep=keep, features=columns)


def _prompts(texts: Sequences) -> set[tuple[str, str]]:
    """Tasks number their prompts independently: a prompt is (task, id)."""
    return set(zip(texts.task, texts.prompt_id, strict=True))
