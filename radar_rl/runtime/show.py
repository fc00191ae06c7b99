"""What the verb ``decode`` shows: texts on standard output, and nothing else there; rounds and figures beside it."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import TextStreamer

from radar_rl.runtime.prompts import Conversation
from radar_rl.runtime.ways import Step, Ways
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import Round
from radar_rl.speculative.tree import Source

Format = Literal["text", "jsonl"]

LEGEND = "accepted → the target's own"


class Screen:
    """Shows the texts of prompts that are decoded together, the first as it grows.

    Args:
        pair: whose tokenizer.
        console: for all but the texts.
        format: ``text``, as it grows, with an empty line between two; or ``jsonl``, an object a text once it is whole.
        headed: whether a line that names the prompt comes before each text, not an empty one; on a terminal only.
        decided_by: the policy's name, to explain rounds with it; None: rounds are not shown.
        max_depth: most draft calls in a round.
    """

    def __init__(
        self,
        pair: Pair,
        console: Console,
        *,
        format: Format,
        headed: bool,
        decided_by: str | None,
        max_depth: int,
    ) -> None:
        self.pair, self.console, self.decided_by, self.max_depth = pair, console, decided_by, max_depth
        self.whole = format == "jsonl"
        self.headed = headed and sys.stdout.isatty()
        self._open: int | None = None
        self._shown = 0

    def begin(self, asked: Sequence[Conversation]) -> None:
        """The next texts are of these prompts."""
        self._asked = asked
        self._rounds: list[list[Round]] = [[] for _ in asked]
        self._tokens: list[list[int]] = [[] for _ in asked]

    def show(self, step: Step) -> None:
        """Print what a step adds to its text."""
        if step.text != self._open:
            self.end()
            self._open = step.text
            if self.headed:
                self.console.print(Text(self._asked[step.text].label, style="dim"))
            elif self._shown and not self.whole:
                print(flush=True)
            self._shown += 1
            self._streamer = TextStreamer(self.pair.tokenizer, skip_special_tokens=True)
        self._rounds[step.text].extend(step.rounds)
        self._tokens[step.text].extend(step.token_ids)
        if not self.whole:
            self._streamer.put(torch.tensor(step.token_ids))

    def end(self, *, interrupted: bool = False) -> None:
        """End the text that was last shown, if any, and explain its rounds.

        Args:
            interrupted: it is not whole, and so is no object either.
        """
        if self._open is None:
            return
        if not self.whole:
            self._streamer.end()
        elif not interrupted:
            print(self._row(self._asked[self._open], self._tokens[self._open]), flush=True)
        rounds, self._open = self._rounds[self._open], None
        if self.decided_by is not None:
            for line in explained(rounds, self.pair, self.decided_by, self.max_depth):
                self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _row(self, asked: Conversation, token_ids: list[int]) -> str:
        """A text as a line of JSON."""
        prompt, turn = asked.prompt, len(asked.answers) + 1
        text = self.pair.tokenizer.decode(token_ids, skip_special_tokens=True)
        told = {"task": prompt.task, "prompt_id": prompt.prompt_id, "turn": turn, "text": text, "token_ids": token_ids}
        return json.dumps(told, ensure_ascii=False)


def explained(rounds: Sequence[Round], pair: Pair, decided_by: str, max_depth: int) -> list[Text]:
    """Rounds in words, a line each below a header; accepted tokens are green, the target's own yellow.

    Args:
        rounds: of one text.
        pair: whose tokenizer.
        decided_by: the policy's name.
        max_depth: where nobody is asked any more.
    """
    limit = f"limit of {max_depth}"
    width = max(len(decided_by), len(limit), len("stopped by"))
    header = f"{'at':>6} {'calls':>5}  {'stopped by':<{width}} {'drafted':>7} {'accepted':>8} {'rejected':>8}  {LEGEND}"
    lines = [Text(header, style="dim")]
    for ended in rounds:
        drafted = ended.nodes - 1
        by = "–" if ended.draft_calls == 0 else limit if ended.draft_calls >= max_depth else decided_by
        line = Text(
            f"{ended.position:6d} {ended.draft_calls:5d}  {by:<{width}} {drafted:7d} {ended.accepted:8d} "
            f"{drafted - ended.accepted:8d}  "
        )
        pieces = [repr(pair.tokenizer.decode([token]))[1:-1] for token in ended.emitted]
        for i, piece in enumerate(pieces[: ended.accepted]):
            line.append("·" if i else "", style="dim").append(piece, style="bold green")
        for piece in pieces[ended.accepted :]:  # none where the text ended within what was accepted
            line.append(" → " if ended.accepted else "→ ", style="dim").append(piece, style="yellow")
        if found := _by_ngrams(ended):
            line.append(f"  ({found} found by n-grams)", style="dim")
        lines.append(line)
    return lines


def _by_ngrams(ended: Round) -> int:
    """Accepted tokens that n-grams alone proposed."""
    path = ended.tree.path(ended.emitted[: ended.accepted])
    return int((ended.tree.source_array[path] == Source.NGRAM).sum())


def figures(ways: Ways, pair: Pair, *, side_by_side: bool, static: str | None) -> Table | Text:
    """What decoding came to: a line for one way, a table for several.

    Args:
        ways: that have decoded; of several, the last is what speedups are against.
        pair: that decoded.
        side_by_side: whether prompts were decoded in batches.
        static: the name of the way that speedups are given against besides; None: there is none.
    """
    names, first = [way.name for way in ways.ways], ways.tallies[0]
    texts = f"{first.texts} text{'s' if first.texts != 1 else ''}, {first.tokens} tokens"
    seconds = "prefill included" if side_by_side else "prefill and first tokens not counted"
    if len(names) == 1:
        return Text(
            f"{pair.label}, {names[0]}: {texts}, {_number(first.tokens_per_second, 1)} tokens/s ({seconds}), "
            f"τ {_number(first.acceptance_length)}, {_number(first.draft_calls_per_round)} draft calls a round"
        )
    told = "the text is the same for every row"
    if ways.different:
        told = f"in {ways.different} of them a near-tie of two logits was decided differently by a row"
    table = Table(title=f"{pair.label}: {texts}; {told}", caption=seconds, title_justify="left", caption_justify="left")
    rates = dict(zip(names, (tally.tokens_per_second for tally in ways.tallies), strict=True))
    against = {"speedup": names[-1]} | ({"× static": static} if static else {})
    table.add_column("decoding", no_wrap=True)
    for column in ("tokens/s", *against, "τ", "draft calls"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, tally in zip(names, ways.tallies, strict=True):
        table.add_row(
            name,
            _number(tally.tokens_per_second, 1),
            *(_number(rates[name] / rates[other], unit="×") for other in against.values()),
            _number(tally.acceptance_length),
            _number(tally.draft_calls_per_round),
        )
    return table


def _number(value: float, digits: int = 2, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}{unit}"
