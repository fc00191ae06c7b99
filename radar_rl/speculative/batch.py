"""The heart: texts being decoded side by side, round by round. Everything that runs rounds runs them through here.

A round of B texts: every text makes draft call 1; those whose policy continues make further calls together; then one
forward pass of the target verifies all trees. A text that ends leaves the batch.
"""

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.errors import ConfigError, InputError, ModelOutputError, check_whole
from radar_rl.speculative.attention import NEGATIVE_INFINITY
from radar_rl.speculative.draft_call import LiveSlots
from radar_rl.speculative.features import Features, match_length
from radar_rl.speculative.graphs import rounded
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.history import after_round
from radar_rl.speculative.judging import Judge, Judging, root_numbers
from radar_rl.speculative.ngram import MAX_DEPTH, merge, proposals
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.reading import RoundReading, as_numbers
from radar_rl.speculative.sampling import PositionNoise, Processor, Sampling, choose
from radar_rl.speculative.state import Beams, DraftState, NodeCounts
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.text import DRAFT_SOURCES, DraftSource, Round, Text, read_back
from radar_rl.speculative.tree import Candidates, DraftTree, Nodes, Source, TreeGrowth, beams_memory, select


class SpeculativeBatch:
    """Decodes texts side by side: ``begin()`` a round, ``draft()`` more levels, ``verify()``, until none is active.

    Construction prefills the prompts, one after the other in chunks, and emits each text's first token, the first
    round's root. A text is the same whatever stands beside it, up to ties of two logits within floating-point error.

    Args:
        pair: target and draft head.
        prompts: each text's prompt, token ids, not empty.
        seeds: names of each text's noise; None: ``seed`` for all.
        seed: names the noise of all, where ``seeds`` is None.
        max_new_tokens, temperature, sample_top_k, sample_top_p, prefill_chunk, processor: see ``Options``.
        max_depth, top_k, tree_size, widen_first_level, draft_source, features, feature_dim, feature_seed, skip_nan,
            judge: see ``DraftOptions``.

    Attributes:
        max_depth: most draft calls in a round; 0 where n-grams draft alone.
        texts: all of them, in the order of ``prompts``.
        active: indices of those that have not ended, ascending.
        draft_cache: the head's memory of the active texts.

    Raises:
        InputError: a prompt is empty, holds ids outside the vocabulary, or does not fit the context.
        ConfigError: a feature is unknown, or is the head's where n-grams draft alone.
        ModelOutputError: a model returned NaN or infinite logits.
    """

    def __init__(
        self,
        pair: Pair,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int] | None = None,
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
        processor: Processor | None = None,
        draft_source: DraftSource = "head",
        features: Sequence[str] = (),
        feature_dim: int = 0,
        feature_seed: int = 0,
        skip_nan: bool = False,
        judge: Judge | None = None,
    ) -> None:
        seeds = [seed] * len(prompts) if seeds is None else seeds
        if not len(prompts) or len(seeds) != len(prompts):
            raise InputError(f"expected prompts and as many seeds, got {len(prompts)} prompts and {len(seeds)} seeds")
        for prompt_ids in prompts:
            pair.check_prompt(prompt_ids, max_new_tokens)
        for one in seeds:
            check_whole("seed", one, None)
        check_whole("prefill_chunk", prefill_chunk, 1)
        pair.check_shape(max_depth, top_k, tree_size, widen_first_level)
        if draft_source not in DRAFT_SOURCES:
            raise InputError(f"draft_source: expected one of {', '.join(DRAFT_SOURCES)}, got {draft_source!r}")
        self._asked = Features(
            pair.head, features, tree_size=tree_size, feature_dim=feature_dim, feature_seed=feature_seed
        )
        self._head_drafts, self._ngrams_draft = draft_source != "ngram", draft_source != "head"
        self._indexed = self._ngrams_draft or "ngram" in self._asked.names
        if self._asked.per_call and not self._head_drafts:
            raise ConfigError(f"features {', '.join(self._asked.names)} are of draft calls: n-grams alone make none")
        self.pair, self.top_k, self.tree_size = pair, top_k, tree_size
        self.max_depth = max_depth if self._head_drafts else 0
        self.widen_first_level, self.prefill_chunk = widen_first_level, prefill_chunk
        self._first_width = tree_size - 1 if widen_first_level else None
        self._skip_nan, self._nan_seen = skip_nan, False
        self.sampling = Sampling(temperature, sample_top_k, sample_top_p, processor)
        device = pair.target.device
        self.texts = [
            Text(len(ids), max_new_tokens, pair.eos_token_ids, PositionNoise(seed, pair.target.vocab_size, device))
            for ids, seed in zip(prompts, seeds, strict=True)
        ]
        deepest = max(max_depth, MAX_DEPTH)  # of a tree
        self._new_slots = deepest + 1 if pair.arena.capture else 0  # that the head reads of a round, padding included
        longest = rounded(max(len(ids) for ids in prompts) + max_new_tokens + deepest, pair.arena.bucket)
        slots = longest + max((max_depth - 1) * top_k, pair.arena.bucket) if self._head_drafts else 0
        batch, positions = len(prompts), longest + tree_size
        caches, self._give_back = pair.arena.lend(
            (batch, positions, slots),
            lambda replays: (
                TargetCache(pair.target.model, positions, batch, replays()),
                DraftCache(pair.head, slots, batch, replays()),
            ),
        )
        self._target_cache, self.draft_cache = caches[0].fresh(), caches[1].fresh()
        self._judge = judge
        if judge is not None and self.draft_cache.replays:
            # Captured passes know a judge's weights by address: the cache has its own, renewed in place.
            judges = self.draft_cache.judges
            if judge.key not in judges:
                judges[judge.key] = copy.deepcopy(judge)
            self._judge = judges[judge.key].renewed(judge)
        self._reading = RoundReading(len(prompts), self.max_depth, top_k, self._asked.names, feature_dim)
        self._beam_memory: Tensor | None = None
        self._round_beams: Beams | None = None
        if batch == 1 and self._head_drafts and device.type == "cpu" and judge is None and not pair.arena.capture:
            self._beam_memory = torch.zeros(
                beams_memory(self.max_depth, top_k, self._first_width), dtype=torch.float32, device="cpu"
            )
        self._in_round = False
        with torch.inference_mode():
            last = [self._prefill(i, torch.tensor(list(ids), device=device)) for i, ids in enumerate(prompts)]
            # [B, m, F] of tokens that the head has not read yet
            self._features = F.pad(torch.stack(last), (0, 0, 0, max(0, self._new_slots - 1)))
        roots = torch.tensor([[text.token_ids[-1]] for text in self.texts], device=device)
        self._following = F.pad(roots, (0, max(0, self._new_slots - 1)))  # [B, m] the tokens that follow them
        self._target_cache.settle([len(ids) for ids in prompts])
        self._counts = [1] * len(prompts)  # how many of the m each text has
        self.active = list(range(len(prompts)))
        self._leave()

    def _prefill(self, index: int, prompt: Tensor) -> Tensor:
        """Let both models read a prompt and emit the first token: the features at its last token, [1, F]."""
        pair, text, length = self.pair, self.texts[index], len(prompt)
        if self._indexed:
            text.index.extend(prompt.tolist())
        target_cache, draft_cache = self._target_cache.row(index), self.draft_cache.row(index)
        for first in range(0, length, self.prefill_chunk):
            chunk = prompt[first : first + self.prefill_chunk]
            hidden, features = pair.target.extend(chunk, target_cache)
            following = prompt[first + 1 : first + 1 + len(chunk)]  # the last token's is not known yet
            if len(following) and self._head_drafts:
                draft_cache.extend(pair.head, features[None, : len(following)], following[None], [len(following)])
        self.draft_cache.lengths[index] = length - 1
        logits = pair.target.logits(hidden[None, -1:])
        if not bool(logits.isfinite().all()):
            raise ModelOutputError(
                "the target's lm_head returned NaN or infinite logits after the prompt; no token can be chosen"
            )
        zero = torch.zeros(1, 1, dtype=torch.int64, device=logits.device)
        self._emit(text, [int(choose(logits, [length], zero, self.sampling, [text.noise], gained=[0]))])
        return features[-1:]

    def _emit(self, text: Text, tokens: list[int]) -> list[int]:
        """``Text.emit``, and what the text gained goes into its index."""
        emitted = text.emit(tokens)
        if self._indexed:
            text.index.extend(emitted)
        return emitted

    def begin(self) -> list[DraftState]:
        """Start a round: let the head read the texts emitted since the last one, and make draft call 1.

        Where n-grams draft alone, no call is made.

        Returns:
            The state of each active text.

        Raises:
            RuntimeError: a round is in progress, or all texts have ended.
        """
        if self._in_round or not self.active:
            raise RuntimeError("begin() needs texts that are between two rounds")
        active, device = len(self.active), self.pair.target.device
        self._positions = torch.tensor([self.texts[i].position for i in self.active], device=device)
        self._growth: TreeGrowth | None = None
        self._proposed: Candidates | None = None
        self._reading.begin(active)
        if self._beam_memory is not None:
            if self._round_beams is not None:
                self._round_beams.numbers = None
            self._round_beams = Beams(as_numbers(self._beam_memory), (self.max_depth, self.top_k))
        self._selected: Nodes | None = None
        self._node_counts: list[Tensor] | None = None
        self._judging: Judging | None = None
        self._flags: list[int] | None = None
        self._note_root()
        with torch.inference_mode():
            if self._head_drafts:
                if self._judge is not None:
                    self._judging = Judging(self._judge, self._asked, self._root, self.max_depth)
                hidden = self.draft_cache.extend(self.pair.head, self._features, self._following, self._counts)
                self._growth = TreeGrowth(
                    self.pair.head,
                    LiveSlots(self.draft_cache),
                    self._positions,
                    self._newest(hidden),
                    top_k=self.top_k,
                    max_depth=self.max_depth,
                    first_width=self._first_width,
                    keep_newest=self._asked.per_call and self._judging is None,
                    further=self._judging,
                    beams=self._beam_memory,
                )
                self._note_call(range(active))
            if self._ngrams_draft:
                # Beside a head, half of the tree at most: what an index proposes past that seldom outdoes the head.
                limit = self.tree_size // 2 if self._head_drafts else self.tree_size - 1
                self._proposed = proposals([self.texts[i].index for i in self.active], limit, device)
        self._in_round = True
        return self._states(range(active))

    def _note_root(self) -> None:
        """What is known of the round before its first draft call; on the device too, where it is decided there."""
        names, known = self._asked.names, dict[str, Tensor]()
        if "target" in names:
            with torch.inference_mode():
                known |= self._asked.of_root(self._newest(self._features))
            self._reading.note_root(known)
        if "ngram" in names:
            lengths = [match_length(self.texts[i].index) for i in self.active]
            self._reading.note_matches(lengths)
            known["ngram"] = torch.tensor(lengths)
        if "history" in names:
            history = [self.texts[i].history for i in self.active]
            self._reading.note_history(history)
            known["history"] = torch.from_numpy(np.stack(history))
        if self._judge is not None:
            self._root = root_numbers(names, known, len(self.active), self.pair.target.device)

    def draft(self, rows: Sequence[int] | None = None) -> list[DraftState]:
        """Make one more draft call: trees grow by a level.

        Args:
            rows: which of the active texts continue (indices into ``active``), all of which have continued so far;
                None: all of them.

        Returns:
            The states of those texts.

        Raises:
            RuntimeError: no round is in progress, ``max_depth`` calls were made, or a text stopped before.
        """
        growth = self._growth if self._in_round else None
        if growth is None or growth.depth >= self.max_depth:
            raise RuntimeError(f"draft() needs a round in progress with fewer than max_depth = {self.max_depth} calls")
        rows = range(len(self.active)) if rows is None else rows
        if not rows or any(growth.depths[row] != growth.depth for row in rows):
            raise RuntimeError("draft() needs texts that have continued so far; a text that stopped waits for verify()")
        with torch.inference_mode():
            growth.grow(None if len(rows) == len(self.active) else rows)
            self._note_call(rows)
        self._selected = self._node_counts = None
        return self._states(rows)

    def _note_call(self, rows: Sequence[int]) -> None:
        """What the newest draft call tells of the texts that made it, to be read when a policy looks."""
        growth = self._growth
        assert growth is not None
        self._flags = None
        if self._judging is not None:
            told = self._judging.told[:, -1]
            told = told if len(rows) == len(self.active) else told[list(rows)]
            self._reading.note_packed(growth.depth, rows, told)
            return
        scores = growth.beam_scores if len(rows) == len(self.active) else growth.beam_scores[list(rows)]
        self._reading.note_call(growth.depth, rows, scores, self._asked.of_call(growth))

    def tree(self, row: int = 0) -> DraftTree:
        """The tree of an active text (its index in ``active``) that ``verify()`` would see now.

        Raises:
            RuntimeError: no round is in progress.
        """
        if not self._in_round:
            raise RuntimeError("tree() needs a round in progress: call begin() first")
        with torch.inference_mode():
            nodes = self._select()
        return DraftTree.of(nodes.arrays()[row].cpu().numpy())

    def verify(self) -> list[Round]:
        """End the round: one target forward over the trees, accept paths, emit them and the bonus tokens.

        Returns:
            The round of each text that was active.

        Raises:
            RuntimeError: no round is in progress.
            ModelOutputError: a model returned NaN or infinite logits; nothing is emitted. With ``skip_nan`` the head
                may: such nodes are never accepted.
        """
        read, choices, features = self._verified()
        paths, rounds = [], []
        texts, calls = [self.texts[i] for i in self.active], self._calls()
        for text, count, (*arrays, choice, on_path, _) in zip(texts, calls, read, strict=True):
            start, path = text.position, np.flatnonzero(on_path)  # root first
            drafted = arrays[0][path[1:]].astype(np.int64).tolist()
            emitted = self._emit(text, [*drafted, int(choice[path[-1]])])
            accepted, real = min(len(drafted), len(emitted)), np.isfinite(arrays[3])
            damaged = bool(np.isnan(arrays[3]).any())
            rounds.append(Round(start, count, accepted, tuple(emitted), np.stack(arrays)[:, real], damaged))
            self._nan_seen |= damaged
            text.history = after_round(text.history, accepted)
            paths.append(path)
            text.noise.forget_before(text.position)
        self._commit(paths, choices, features)
        self._in_round = False
        self._leave()
        return rounds

    def end(self, texts: Sequence[int]) -> None:
        """Let texts end between two rounds, wherever they stand.

        Args:
            texts: indices into ``texts``.

        Raises:
            RuntimeError: a round is in progress.
        """
        if self._in_round:
            raise RuntimeError("end() needs texts that are between two rounds")
        for i in texts:
            self.texts[i].finished = True
        self._leave()

    def would_accept(self) -> list[int]:
        """What verifying now would accept, while the round goes on: one target forward that nothing comes of.

        Asked after every call, this is how RADAR (arXiv 2512.14069) collects; a trace needs none of these forwards.

        Returns:
            Draft tokens of each active text, cut where it ends.

        Raises:
            RuntimeError, ModelOutputError: see ``verify``.
        """
        read, _, _ = self._verified()
        accepted = []
        for i, (tokens, *_, on_path, _) in zip(self.active, read, strict=True):
            accepted.append(len(self.texts[i].cut(tokens[np.flatnonzero(on_path)[1:]].astype(np.int64).tolist())))
        return accepted

    def _verified(self) -> tuple[NDArray[np.float64], Tensor, Tensor]:
        """One target forward over the trees.

        Returns:
            What ``read_back`` gives; the target's choices [B, n] and features [B, n, F].
        """
        if not self._in_round:
            raise RuntimeError("verification needs a round in progress: call begin() first")
        target, texts = self.pair.target, [self.texts[i] for i in self.active]
        starts = [text.position for text in texts]
        with torch.inference_mode():
            nodes = self._select()
            positions = self._positions[:, None] + nodes.depths
            hidden, features = target.over_tree(nodes.tokens, positions, self._visible(nodes), self._target_cache)
            logits = target.logits(hidden)
            reach = [start + 1 for start in starts]
            noises, gained = [text.noise for text in texts], [len(text.token_ids) for text in texts]
            choices = choose(logits, reach, nodes.depths, self.sampling, noises, nodes.depth, gained)
            read = read_back(nodes, choices, logits)  # the verification's one device → host read
        self._check(read, self._calls(), starts)
        return read, choices, features

    def _calls(self) -> list[int]:
        """Draft calls made for each active text in this round."""
        return list(self._growth.depths) if self._growth else [0] * len(self.active)

    def _select(self) -> Nodes:
        """The nodes that would be verified now."""
        if self._selected is None:
            candidates = [self._growth.candidates(self.widen_first_level)] if self._growth else []
            if self._proposed is not None:
                candidates.append(self._proposed)
            merged = candidates[0] if len(candidates) == 1 else merge(*candidates)
            if self.pair.arena.capture:
                merged = merged.padded(self.tree_size - 1)
            self._selected = select(self._newest(self._following), merged, self.tree_size)
        return self._selected

    def _newest(self, new: Tensor) -> Tensor:
        """Each text's last entry of what the head reads anew: [B, m, …] → [B, …]."""
        if len(self._counts) == 1:
            return new[:, self._counts[0] - 1]
        ends = torch.tensor(self._counts, device=new.device) - 1
        return new[torch.arange(len(ends), device=new.device), ends]

    def _visible(self, nodes: Nodes) -> Tensor:
        """[B, n, start + n] bool: every node sees its text and its ancestors."""
        lengths, start = self._target_cache.lengths, self._target_cache.start
        batch, n, _ = nodes.ancestors.shape
        if min(lengths) == start:
            committed = nodes.ancestors.new_ones(batch, 1, start)
        else:
            ends = torch.tensor(lengths, device=nodes.tokens.device)[:, None, None]
            committed = torch.arange(start, device=nodes.tokens.device) < ends
        return torch.cat((committed.expand(-1, n, -1), nodes.ancestors), dim=2)

    def _check(self, read: NDArray[np.float64], calls: Sequence[int], starts: Sequence[int]) -> None:
        """No token is emitted from numbers that are none."""
        for row, start in enumerate(starts):
            if np.isnan(read[row, 3]).any() and not self._skip_nan:
                raise ModelOutputError(
                    f"the draft head's lm_head returned NaN in one of the round's {calls[row]} draft calls "
                    f"at position {start}"
                )
            if not read[row, 7].all():
                raise ModelOutputError(
                    f"the target's lm_head returned NaN or infinite logits over the draft tree at position {start}; "
                    "no token can be chosen"
                )

    def _commit(self, paths: list[NDArray[np.int64]], choices: Tensor, features: Tensor) -> None:
        """Keep what the accepted paths left in the target's cache, and what the head has to read of them."""
        self._counts = [len(path) for path in paths]
        longest = max(self._new_slots, *self._counts)
        padded = np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in paths])
        with torch.inference_mode():
            kept = torch.from_numpy(padded).to(choices.device)  # [B, longest], node indices, root first
            rows = torch.arange(len(paths), device=choices.device)[:, None]
            self._target_cache.commit(kept, self._counts)
            self._features = features[rows, kept]
            # What follows a path's node is its next one, and the target's choice behind the last: all target's choices.
            self._following = choices[rows, kept]

    def _leave(self) -> None:
        """Texts that have ended leave the batch."""
        staying = [row for row, i in enumerate(self.active) if not self.texts[i].finished]
        if len(staying) == len(self.active):
            return
        self.active = [self.active[row] for row in staying]
        if not staying:
            if not self._nan_seen:  # masked or not, NaN in a cache spreads to whatever reads past it
                self._give_back()
        else:
            self._target_cache.keep(staying)
            self.draft_cache.keep(staying)
            self._counts = [self._counts[row] for row in staying]
            longest = max(self._new_slots, *self._counts)
            self._features, self._following = self._features[staying, :longest], self._following[staying, :longest]

    def _states(self, rows: Sequence[int]) -> list[DraftState]:
        depth, reading = self._growth.depth if self._growth else 0, self._reading
        return [
            DraftState(
                self.texts[self.active[row]].position,
                depth,
                self.max_depth,
                partial(reading.confidences_of, row, reading.number, depth),
                partial(self._sources_of, reading.number, row, depth),
                partial(reading.features_of, row, reading.number, depth) if self._asked.names else None,
                partial(reading.look, row, reading.number),
                partial(self._verdict_of, reading.number, row, depth) if self._judge is not None else None,
                self._round_beams,
            )
            for row in rows
        ]

    def _verdict_of(self, number: int, row: int, depth: int, asker: object) -> int | None:
        """The flag of one text after its newest call, if it was decided for who asks; read once for all texts."""
        judging, growth = self._judging, self._growth
        if judging is None or growth is None or judging.judge.decides_for is not asker:
            return None
        if number != self._reading.number or depth != growth.depth or depth < judging.judge.asks_from:
            return None
        if self._flags is None:
            self._flags = judging.flags.cpu().tolist()
        return self._flags[row]

    def _sources_of(self, number: int, row: int, depth: int) -> NodeCounts:
        newest = (self._reading.number, self._calls()[row])
        if not self._in_round or (number, depth) != newest:
            raise RuntimeError("a state's sources were looked at after its tree had grown or been verified")
        if self._node_counts is None:
            with torch.inference_mode():
                nodes = self._select()
                sources = nodes.sources.masked_fill(nodes.log_probs == NEGATIVE_INFINITY, 0)
                self._node_counts = self._reading.read(*((sources == source).sum(dim=1).float() for source in Source))
            self._reading.look(row, number)  # counts of a tree of NaN mean nothing
        return NodeCounts(*(int(count[row]) for count in self._node_counts))
