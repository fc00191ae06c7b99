"""The verb ``decode``: text from a prompt, streamed, with the figures of its rounds and of autoregressive decoding."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from radar_rl.errors import InputError
from radar_rl.policies import Policy, StaticDepth
from radar_rl.runtime.artifact import check_pair, read_config
from radar_rl.runtime.decoder import SpeculativeDecoder, autoregressive
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import place_of, policy_from_string
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import DraftSource, Options, Round

DEFAULTS = {"max_depth": 8, "top_k": 10, "tree_size": 60}


@dataclass(frozen=True)
class Measured:
    """One way of decoding one prompt; seconds exclude the prompt's prefill and the first token that it yields."""

    name: str
    token_ids: list[int]
    seconds: float
    rounds: list[Round]

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens over seconds, NaN for a text of one token."""
        return (len(self.token_ids) - 1) / self.seconds if len(self.token_ids) > 1 else float("nan")


def decode(
    *,
    policy: str,
    model: Mapping[str, Any],
    max_new_tokens: int,
    temperature: float,
    sample_top_k: int,
    sample_top_p: float,
    seed: int,
    draft_source: DraftSource,
    allow_other_pair: bool,
    prompts: list[str],
    compare: bool,
    explain: bool,
) -> None:
    """Stream each prompt's text; print τ, draft calls and tokens/s beside autoregressive decoding of the same prompt.

    Args:
        policy: a rule (``static:DEPTH``, ``threshold:P``, …; ``radar_rl.runtime.kinds``), a folder, or a file of
            RADAR's weights.
        draft_source: who drafts, see ``SpeculativeBatch``.
        compare: also decode with the head and the best static depth that the policy's training found (otherwise the
            default depth).
        explain: print the rounds, accepted tokens coloured.

    Raises:
        InputError: no prompt.
        ArtifactError: the policy was trained with another pair and ``allow_other_pair`` is not set.
    """
    if not prompts:
        raise InputError('no prompt; give one with --prompt "…"')
    chosen = policy_from_string(policy, seed)
    folder = place_of(policy)
    about = read_config(folder) if folder.is_dir() else {}
    pair = pair_from_config(model)
    check_pair(about, pair.target_identity, pair.draft_identity, allow_other_pair)
    shape = {key: int(about.get(key) or value) for key, value in DEFAULTS.items()}
    tuned = StaticDepth(int(about.get("best_static_depth") or shape["max_depth"]))
    rivals: list[tuple[Policy, DraftSource]] = [(chosen, draft_source)]
    if compare and (tuned.name, "head") != (chosen.name, draft_source):
        rivals.append((tuned, "head"))
    options: Options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "sample_top_k": sample_top_k,
        "sample_top_p": sample_top_p,
        "seed": seed,
    }
    decoders = [
        SpeculativeDecoder(
            pair,
            rival,
            max_depth=shape["max_depth"],
            top_k=shape["top_k"],
            tree_size=shape["tree_size"],
            draft_source=source,
        )
        for rival, source in rivals
    ]
    console = Console(highlight=False)
    for prompt in prompts:
        prompt_ids = pair.encode_prompt(prompt)
        pair.check_prompt(prompt_ids, max_new_tokens)
        _warm_up(decoders[-1], prompt_ids, min(8, max_new_tokens))
        measured = [_speculative(decoder, prompt_ids, options, shown=i == 0) for i, decoder in enumerate(decoders)]
        if explain:
            for ended in measured[0].rounds:
                console.print(_explained(ended, pair))
        measured.append(_alone(pair, prompt_ids, options))
        console.print(_table(measured, pair))


def _warm_up(decoder: SpeculativeDecoder, prompt_ids: Sequence[int], tokens: int) -> None:
    """One short text each way, so that no rival pays for first-time allocations."""
    decoder.generate(prompt_ids, max_new_tokens=tokens)
    for _ in autoregressive(decoder.pair, prompt_ids, max_new_tokens=tokens):
        pass


def _speculative(decoder: SpeculativeDecoder, prompt_ids: Sequence[int], options: Options, *, shown: bool) -> Measured:
    session = decoder.start(prompt_ids, **options)
    printed = _Printer(decoder.pair) if shown else None
    if printed:
        printed.show(session.token_ids)
    rounds, seconds = [], 0.0
    stream = decoder.rounds(session)
    while True:
        start = time.perf_counter()
        ended = next(stream, None)
        seconds += time.perf_counter() - start
        if ended is None:
            break
        rounds.append(ended)
        if printed:
            printed.show(session.token_ids)
    if printed:
        print()
    name = {"head": decoder.policy.name, "ngram": "n-gram", "hybrid": f"hybrid, {decoder.policy.name}"}
    return Measured(name[decoder.draft_source], session.token_ids, seconds, rounds)


def _alone(pair: Pair, prompt_ids: Sequence[int], options: Options) -> Measured:
    stream = autoregressive(pair, prompt_ids, **options)
    tokens = [next(stream)]
    start = time.perf_counter()
    tokens.extend(stream)
    return Measured("autoregressive", tokens, time.perf_counter() - start, [])


class _Printer:
    """Prints a growing text, new characters only: a token may end in the middle of a character."""

    def __init__(self, pair: Pair) -> None:
        self.tokenizer, self.printed = pair.tokenizer, ""

    def show(self, token_ids: Sequence[int]) -> None:
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        if not text.endswith("\ufffd") and text.startswith(self.printed):
            sys.stdout.write(text[len(self.printed) :])
            sys.stdout.flush()
            self.printed = text


def _explained(ended: Round, pair: Pair) -> Text:
    line = Text(f"{ended.position:5d}  {ended.draft_calls} calls  {ended.accepted} accepted  ")
    pieces = [pair.tokenizer.decode([token]) for token in ended.emitted]
    for i, piece in enumerate(pieces):
        line.append(repr(piece)[1:-1], style="green" if i < ended.accepted else "yellow")
        line.append("·", style="dim")
    return line


def _table(measured: Sequence[Measured], pair: Pair) -> Table:
    base = measured[-1]
    same = all(row.token_ids == base.token_ids for row in measured)
    told = "the text is the same for every row" if same else "a near-tie of two logits was decided differently by a row"
    table = Table(title=f"{pair.label}: {len(measured[0].token_ids)} tokens; {told}")
    for name, right in (("decoding", False), ("tokens/s", True), ("speedup", True), ("τ", True), ("draft calls", True)):
        table.add_column(name, justify="right" if right else "left")
    for row in measured:
        rounds = len(row.rounds)
        table.add_row(
            row.name,
            f"{row.tokens_per_second:.1f}" if len(row.token_ids) > 1 else "–",
            f"{row.tokens_per_second / base.tokens_per_second:.2f}×" if len(row.token_ids) > 1 else "–",
            f"{sum(len(r.emitted) for r in row.rounds) / rounds:.2f}" if rounds else "–",
            f"{sum(r.draft_calls for r in row.rounds) / rounds:.2f}" if rounds else "–",
        )
    return table
