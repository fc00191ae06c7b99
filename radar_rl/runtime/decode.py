"""The verb ``decode``: texts of prompts, streamed, and the figures of how they were decoded."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from radar_rl.console import wide_console
from radar_rl.errors import InputError, check_whole
from radar_rl.policies import Policy, StaticDepth
from radar_rl.runtime.artifact import load_artifact
from radar_rl.runtime.decoder import SHAPE, SpeculativeDecoder
from radar_rl.runtime.models import pair_from_config
from radar_rl.runtime.named import place_of, policy_from_string
from radar_rl.runtime.prompts import Conversation, read_prompts
from radar_rl.runtime.show import Format, Screen, figures
from radar_rl.runtime.ways import Way, Ways, alone, speculative
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import DraftSource, Options

About = Mapping[str, Any]
"""An artifact's config; empty for a rule."""


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
    batch: int,
    format: Format,
    allow_other_pair: bool,
    strict: bool,
    prompts: list[str],
    files: list[str],
    compare: bool,
    explain: bool,
) -> None:
    """Print each prompt's text to standard output, as its rounds end or as JSON; figures go to standard error.

    Interrupted, it ends with the figures so far; where the reader of its output leaves, it ends.

    Args:
        policy: a rule (``static:DEPTH``, ``threshold:P``, …; ``radar_rl.runtime.kinds``), a folder, or a file of
            RADAR's weights.
        draft_source: who drafts, see ``SpeculativeBatch``.
        batch: prompts decoded side by side.
        format: of standard output, see ``Screen``.
        allow_other_pair, strict: see ``SpeculativeDecoder``.
        prompts, files: see ``read_prompts``.
        compare: also decode with the target alone, and with the head and the best static depth that the policy's
            training found (otherwise the default depth), taking turns.
        explain: print the rounds, accepted tokens coloured.

    Raises:
        InputError: no prompt, or one that is none; a prompt that cannot be decoded, once the others are.
        ArtifactError: ``strict``, and the policy cannot decide, such as that of another pair without
            ``allow_other_pair``.
    """
    check_whole("batch", batch, 1)
    given = read_prompts(prompts, files)
    chosen = policy_from_string(policy, seed)
    folder = place_of(policy)
    about = load_artifact(folder).about if folder.is_dir() else {}
    pair = pair_from_config(model)
    if pair.tokenizer is None:
        raise InputError("the target's folder has no tokenizer: there is no text to show")
    options: Options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "sample_top_k": sample_top_k,
        "sample_top_p": sample_top_p,
        "seed": seed,
    }
    several = batch > 1
    decoder = _decoder(
        pair, chosen, about, draft_source, made_for=about, allow_other_pair=allow_other_pair, strict=strict
    )
    first = speculative(_called(decoder), decoder, options, side_by_side=several)
    rivals, static = _rivals(pair, first, about, options, several) if compare else ([], None)
    ways = Ways([first, *rivals])
    console = wide_console(stderr=True)  # standard output is for texts
    asked = [Conversation(prompt) for prompt in given]
    ready = _ready(asked, pair, max_new_tokens, console)
    if compare:
        ways.warm_up(ready[0].ids(pair, max_new_tokens))
    screen = Screen(
        pair,
        console,
        format=format,
        headed=len(asked) > 1 or bool(given[0].later_turns),
        decided_by=decoder.policy.name if explain else None,
        max_depth=decoder.max_depth,
    )
    try:
        for start in range(0, len(ready), batch):
            _converse(ready[start : start + batch], pair, ways, screen, max_new_tokens)
    except BrokenPipeError:  # who read the texts has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except KeyboardInterrupt:
        screen.end(interrupted=True)
        console.print(figures(ways, pair, side_by_side=several, static=static))
        raise
    console.print(figures(ways, pair, side_by_side=several, static=static))
    _say_refused(ready, console)
    if refused := sum(text.refused is not None for text in asked):
        raise InputError(f"{refused} of {len(asked)} prompts were skipped, see above")


def _ready(asked: Sequence[Conversation], pair: Pair, max_new_tokens: int, console: Console) -> list[Conversation]:
    """Those that can be decoded; the others are named.

    Raises:
        InputError: none can.
    """
    ready = [text for text in asked if text.ids(pair, max_new_tokens)]
    if len(asked) == 1 and not ready:
        raise InputError(asked[0].refused)
    _say_refused(asked, console)
    if not ready:
        raise InputError("no prompt can be decoded, see above")
    return ready


def _say_refused(conversations: Sequence[Conversation], console: Console) -> None:
    for text in conversations:
        if text.refused is not None:
            console.print(f"skipped: {text.refused}", markup=False, soft_wrap=True)


def _decoder(
    pair: Pair, policy: Policy, about: About, draft_source: DraftSource, **guarding: Any
) -> SpeculativeDecoder:
    """A decoder of the shape that an artifact was trained for, or of the default one."""
    shape = {key: int(about.get(key) or value) for key, value in SHAPE.items()}
    return SpeculativeDecoder(
        pair,
        policy,
        draft_source=draft_source,
        **shape,  # type: ignore[arg-type]
        **guarding,
    )


def _called(decoder: SpeculativeDecoder) -> str:
    """How tables call it."""
    named = {"head": decoder.policy.name, "ngram": "n-gram", "hybrid": f"hybrid, {decoder.policy.name}"}
    return named[decoder.draft_source]


def _rivals(pair: Pair, first: Way, about: About, options: Options, several: bool) -> tuple[list[Way], str | None]:
    """What ``--compare`` decodes with beside the first way, and how the static depth is called; it may be that way.

    Args:
        several: whether prompts are decoded side by side.
    """
    best = about.get("best_static_depth")
    decoder = _decoder(pair, StaticDepth(int(best or about.get("max_depth") or SHAPE["max_depth"])), about, "head")
    by_itself = alone(pair, options, side_by_side=several)
    if decoder.policy.name == first.name:
        return [by_itself], None
    name = f"{decoder.policy.name} ({'tuned' if best else 'default'})"
    return [speculative(name, decoder, options, side_by_side=several), by_itself], name


def _converse(
    conversations: Sequence[Conversation], pair: Pair, ways: Ways, screen: Screen, max_new_tokens: int
) -> None:
    """Decode prompts side by side, and then the next turns of those that have some, after the target's answers."""
    while asked := [(text, ids) for text in conversations if not text.over and (ids := text.ids(pair, max_new_tokens))]:
        screen.begin([text for text, _ in asked])
        decoded = ways.decode([ids for _, ids in asked], screen.show)
        screen.end()
        for (text, _), token_ids in zip(asked, decoded, strict=True):
            text.answers.append(pair.tokenizer.decode(token_ids, skip_special_tokens=True))
