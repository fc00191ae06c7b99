"""``radar-rl export format=SERVER``: what a server should be told, by replay, and a learned policy beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from radar_rl.errors import ConfigError, TraceError
from radar_rl.evaluation.server_report import print_server
from radar_rl.evaluation.servers import SERVERS, Server, adaptive_config, ranges
from radar_rl.evaluation.serving import Tuned, tune
from radar_rl.evaluation.trained import check_fits, seen_features
from radar_rl.offline.provenance import commit, versions
from radar_rl.offline.run import Run, load_run
from radar_rl.offline.walk import Outcomes, Walk, walk_policy
from radar_rl.rollouts import data_digest, load_trace, trace_settings
from radar_rl.rollouts.split import held_out as is_held_out
from radar_rl.rollouts.storage import Store
from radar_rl.rollouts.trace import Trace, TraceSettings
from radar_rl.runtime.profiler import named_hardware
from radar_rl.speculative.hardware import HardwareProfile
from radar_rl.speculative.pair import POCKET

RECORD_FILE = "server.json"
ADAPTIVE_FILE = "adaptive.json"

DRAFT_HEAD = "DRAFT_HEAD"
"""Stands for the head in the line to paste where it is the embedded one, which no server has."""


@dataclass(frozen=True)
class _Half:
    """The training or the held-out prompts of a trace, read for a tree size."""

    traces: str
    share: float
    held_out: bool
    columns: Sequence[str]

    def __call__(self, tree_size: int) -> Trace:
        """Read it.

        Raises:
            TraceError: it has no prompts.
        """
        trace = load_trace(
            self.traces,
            tree_size=tree_size,
            keep=lambda texts: is_held_out(texts.prompt_id, self.share) == self.held_out,
            features=self.columns,
        )
        if not len(trace):
            what = "predict on" if self.held_out else "tune settings on"
            raise TraceError(
                f"{self.traces}: at held_out={self.share} none of its texts is left to {what}; collect more prompts"
            )
        return trace


def export_server(
    name: str,
    *,
    out: str | None,
    run: str | None,
    traces: str | None,
    hardware: str | None,
    head: str,
    held_out: float,
    batches: Sequence[int],
    run_traces: str | None,
    run_hardware: str | None,
    allow_other_pair: bool,
) -> Tuned:
    """Print a server's best setting and write it to ``out``; arguments and errors as ``export``.

    Returns:
        What was tried and found.

    Raises:
        ConfigError: ``traces`` or ``hardware`` is not given, the server or head is unknown, or a number out of range.
        TraceError: the trace does not tell what the server's drafts would have had accepted.
    """
    server = _server(name, head)
    if traces is None or hardware is None:
        raise ConfigError(
            f"format={name}: give traces=FOLDER and hardware=PROFILE, measured where {server.label} runs: its settings "
            "are replayed on those texts at these seconds"
        )
    _check_numbers(held_out, batches)
    made = trace_settings(traces)
    _check_shape(server, name, made, traces)
    loaded = None if run is None else load_run(run)
    share = held_out if loaded is None else loaded.held_out
    machine = named_hardware(hardware)
    columns = server.features if set(server.features) <= set(made.features) else ()
    half = _Half(traces, share, True, columns)
    learned = None
    if loaded is not None:
        seconds = machine if run_hardware is None else named_hardware(run_hardware)
        learned = loaded.name, _learned(loaded, half, run_traces, seconds, allow_other_pair)
    tuned = tune(server, made, columns, machine, replace(half, held_out=False), half, batches)
    table = [(row.batch, row.calls) for row in tuned.table]
    called = made.draft.partition("@")[0]
    draft = DRAFT_HEAD if called in POCKET else called
    line = server.line(tuned.best.setting, table, draft, head)
    notes = [note.format(**asdict(made)) for note in server.notes]
    if "/" not in draft and draft in line:  # a Hub id says itself where the head is
        notes.insert(0, f"{draft} stands for where {server.label} has the draft head, {called} in the trace")
    notes += [
        *(server.table_notes if len(ranges(table)) > 1 else ()),
        *_more_notes(server, made, tuned, machine, columns),
    ]
    if ADAPTIVE_FILE in line:
        notes.insert(0, f"{ADAPTIVE_FILE} holds {json.dumps(adaptive_config(table))}")
    off = tuned.is_slower_than_none(machine)
    print_server(server, tuned, machine, learned, line, notes, off=off)
    if out is not None:
        store = Store.at(out)
        if ADAPTIVE_FILE in line:
            store.write_json(ADAPTIVE_FILE, adaptive_config(table))
        about = {"traces": traces, "data_hash": data_digest(traces), "trace": asdict(made), "held_out": share}
        record = {"server": name, "line": line, "leave_off": off, "notes": notes}
        record |= _figures(server, tuned, learned, machine)
        store.write_json(
            RECORD_FILE, record | about | {"hardware": asdict(machine), "versions": versions(), "commit": commit()}
        )
        print(f"export: written to {Path(out) / RECORD_FILE}")
    return tuned


def _server(name: str, head: str) -> Server:
    server = SERVERS.get(name)
    if server is None:
        raise ConfigError(f"format={name}: expected artifact, {', '.join(SERVERS)}")
    if head not in server.heads:
        raise ConfigError(f"head={head}: {server.label} drafts with {', '.join(server.heads)}, not with this kind")
    return server


def _check_numbers(held_out: float, batches: Sequence[int]) -> None:
    if not 0.0 < held_out < 1.0:
        raise ConfigError(f"held_out: expected a share between 0 and 1, got {held_out}")
    if list(batches) != sorted(set(batches)) or list(batches)[:1] != [1]:
        raise ConfigError(f"batches: expected numbers of texts, increasing from 1, got {list(batches)}")


def _check_shape(server: Server, name: str, made: TraceSettings, traces: str) -> None:
    """Refuse a trace that does not say what a chain would have had accepted.

    Raises:
        TraceError: saying how to trace the very same texts as chains.
    """
    if not server.chains or (made.top_k == 1 and made.tree_size > made.max_depth):
        return
    again = f"radar-rl collect texts_of={traces} top_k=1 tree_size={made.max_depth + 1} max_depth={made.max_depth}"
    columns = f" features=[{','.join(server.features)}]" if server.features else ""
    raise TraceError(
        f"format={name}: {server.label} drafts chains; {traces} was collected with top_k={made.top_k} and "
        f"tree_size={made.tree_size}, which does not tell which accepted tokens lie on one. Trace the very same texts "
        f"again, with the same model=; nothing is decoded: {again}{columns} out=FOLDER"
    )


def _learned(run: Run, half: _Half, run_traces: str | None, hardware: HardwareProfile, allow_other_pair: bool) -> Walk:
    """A run's walk over the held-out texts.

    Raises:
        TraceError: the trace is not of the run's shape or pair, or lacks some of the texts.
    """
    place = run_traces or half.traces
    made, trained = trace_settings(place), run.about["trace"]
    if run_traces is None and any(trained[key] != getattr(made, key) for key in ("max_depth", "top_k")):
        raise TraceError(
            f"{run.folder}: its policy reads traces of max_depth={trained['max_depth']} and top_k={trained['top_k']}, "
            f"not {place}; give a trace of that shape over the same texts: run_traces=FOLDER"
        )
    check_fits(run, made, allow_other_pair)
    trace = replace(half, traces=place, columns=seen_features([run]))(int(run.about["tree_size"]))
    if run_traces is not None:
        texts = _lengths(half(trace_settings(half.traces).tree_size))
        here = _lengths(trace)
        if any(here.get(name) != length for name, length in texts.items()):
            raise TraceError(
                f"run_traces: {place} lacks texts of {half.traces}; collect texts_of= traces the same ones"
            )
        trace = trace.select(np.array([name in texts for name in trace.sequences.sequence_id]))
    return walk_policy(Outcomes.of(trace, hardware), run.policy)


def _lengths(trace: Trace) -> dict[str, int]:
    """Tokens of each text, by its name."""
    return dict(zip(trace.sequences.sequence_id, trace.sequences.length.tolist(), strict=True))


def _more_notes(
    server: Server, made: TraceSettings, tuned: Tuned, hardware: HardwareProfile, columns: Sequence[str]
) -> list[str]:
    """What this export in particular leaves open."""
    notes = []
    if server.features and not columns:
        notes.append(
            f"probabilities were not tried: the trace has no {', '.join(server.features)}; collect with "
            f"features=[{','.join(server.features)}]"
        )
    if tuned.best.setting.depth == made.max_depth:
        notes.append(
            f"the best is as deep as the trace: more may be better, collect with max_depth above {made.max_depth}"
        )
    if tuned.left_out:
        notes.append(
            f"nothing is told of {', '.join(map(str, tuned.left_out))} texts at once: verification was measured up to "
            f"{hardware.verify_nodes[-1]} nodes; a profile with more verify_nodes says it"
        )
    if len(tuned.table) > 1:
        notes.append(
            "several texts at once: a draft call's seconds are taken to grow with the tokens that it reads as a "
            "verification's do with its nodes"
        )
        if made.top_k > 1:
            notes.append("no option takes this table where topk is more than 1: set what your load needs most")
        elif len(parts := ranges([(row.batch, row.calls) for row in tuned.table])) == 1 and parts[0][2]:
            notes.append("the same number of draft calls is best at all of these sizes, so no table is needed")
    return notes


def _figures(
    server: Server, tuned: Tuned, learned: tuple[str, Walk] | None, hardware: HardwareProfile
) -> dict[str, Any]:
    """What ``server.json`` says of the figures: tokens per second all."""
    best, alone = tuned.best, hardware.autoregressive_seconds
    assert best.held_out is not None
    return {
        "setting": dict(best.setting.values),
        "training_tokens_per_second": best.training.tokens_per_second,
        "tokens_per_second": best.held_out.tokens_per_second,
        "acceptance_length": best.held_out.acceptance_length,
        "draft_calls": best.held_out.draft_calls_per_round,
        "autoregressive_tokens_per_second": 1 / alone if alone else None,
        "learned": _told(learned),
        "by_depth": [
            {"setting": dict(one.setting.values), "tokens_per_second": one.held_out.tokens_per_second}
            for one in tuned.by_depth
            if one.held_out is not None
        ],
        "batches": [
            {
                "texts": row.batch,
                "setting": None if row.setting is None else dict(row.setting.values),
                "tokens_per_second": row.tokens_per_second,
                "target_alone_tokens_per_second": row.alone,
                "most_nodes": row.most_nodes,
            }
            for row in tuned.table
        ],
        "sources": {flag.name: {"meaning": flag.meaning, "source": flag.source} for flag in server.flags},
    }


def _told(learned: tuple[str, Walk] | None) -> Mapping[str, Any] | None:
    if learned is None:
        return None
    name, walk = learned
    return {
        "policy": name,
        "tokens_per_second": walk.tokens_per_second,
        "acceptance_length": walk.acceptance_length,
        "draft_calls": walk.draft_calls_per_round,
    }
