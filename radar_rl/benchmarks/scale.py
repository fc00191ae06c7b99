"""``radar-rl bench scale``: how much memory a large trace takes to scan, describe, learn from and evaluate against."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from radar_rl import configs
from radar_rl.benchmarks.generated import generate
from radar_rl.console import wide_console
from radar_rl.errors import LimitError, check_whole
from radar_rl.rollouts import held_out, load_trace, read_traces
from radar_rl.rollouts.describe import describe
from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.hardware import HardwareProfile

HELD_OUT = 0.3
MEBIBYTE = 2**20

# The machine that seconds are priced for; any would do.
PROFILE = "pocket_cpu"


def bench_scale(
    *, out: str, rows: int, part_size: int, limit_gb: float, updates: int, batch_size: int, seed: int
) -> pl.DataFrame:
    """The verb ``bench scale``: generate a trace, use it in every way, each in a process of its own; print peaks.

    Args:
        out: folder for the trace (``traces/``; kept, and used again if it is there) and what is made of it.
        rows: root tokens of the trace.
        part_size: texts per file.
        limit_gb: GiB of memory that no step may exceed.
        updates: gradient steps of each training.
        batch_size: transitions per update.
        seed: where randomness starts.

    Returns:
        A row per step: ``step``, ``seconds``, ``peak_mib`` (MiB resident at most, libraries and mapped files included).

    Raises:
        InputError: a number is out of range.
        LimitError: a step took more than ``limit_gb``, or was killed.
        TraceError: ``out`` holds a trace of another size.
    """
    for name, value in {"rows": rows, "part_size": part_size, "updates": updates, "batch_size": batch_size}.items():
        check_whole(name, value, 1)
    traces = str(Path(out) / "traces")
    learning = {"traces": traces, "updates": updates, "batch_size": batch_size, "seed": seed}
    steps: list[tuple[str, Callable[..., None], dict[str, Any]]] = [
        ("generate", generate, {"out": traces, "rows": rows, "part_size": part_size, "seed": seed}),
        ("scan", _scan, {"traces": traces}),
        ("describe", _describe, {"traces": traces}),
        ("train: every decision", _train, learning | {"behaviour": "full", "out": str(Path(out) / "policy")}),
        ("train: uniform", _train, learning | {"behaviour": "uniform", "out": None}),
        ("train: oracle", _train, learning | {"behaviour": "oracle", "out": None}),
        ("evaluate", _evaluate, {"traces": traces, "run": str(Path(out) / "policy"), "out": out, "seed": seed}),
    ]
    measured = pl.DataFrame([_apart(name, step, arguments) for name, step, arguments in steps])
    wide_console().print(_table(measured, rows, limit_gb))
    over = measured.filter(pl.col("peak_mib") > limit_gb * 1024)
    if over.height:
        worst = ", ".join(f"{name} {peak / 1024:.2f} GiB" for name, peak in over.select("step", "peak_mib").rows())
        raise LimitError(f"memory: expected at most limit_gb={limit_gb:g} at rows={rows}, measured {worst}")
    return measured


def _apart(name: str, step: Callable[..., None], arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a step in a fresh process, and measure it there."""
    print(f"bench scale: {name}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            seconds, peak = pool.submit(_measured, step, arguments).result()
        except BrokenProcessPool as error:
            raise LimitError(f"{name}: its process was killed, as the system does when memory runs out") from error
    return {"step": name, "seconds": seconds, "peak_mib": peak / MEBIBYTE}


def _measured(step: Callable[..., None], arguments: dict[str, Any]) -> tuple[float, int]:
    """Seconds of a step, and the most bytes that this process had in memory by its end."""
    start = time.perf_counter()
    step(**arguments)
    return time.perf_counter() - start, peak_bytes()


def peak_bytes() -> int:
    """The most bytes of memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux lets ru_maxrss of a child begin with what its parent had; this figure is the process's own.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _scan(traces: str) -> None:
    """Lazily, with polars: rows and mean acceptance by task."""
    frame = read_traces(traces)
    counted = frame.group_by("task").agg(pl.len()).sort("task").collect(engine="streaming")
    deepest = pl.col("accepted").list.last()
    means = frame.group_by("task").agg(deepest.mean()).sort("task").collect(engine="streaming")
    print(counted.join(means, on="task"))


def _describe(traces: str) -> None:
    describe(traces=traces, tree_size=None)


def _train(traces: str, behaviour: Any, updates: int, batch_size: int, seed: int, out: str | None) -> None:
    """What ``train`` does, but fewer updates: load, tune rules, decide, price, sample, update, replay the policy."""
    from radar_rl.offline.algorithms import settings_of
    from radar_rl.offline.behaviour import decide
    from radar_rl.offline.buffer import TransitionBuffer
    from radar_rl.offline.data import TraceData, sample_observations
    from radar_rl.offline.encoder import encoder_factory
    from radar_rl.offline.qlearning import learned_policy, make_algorithm
    from radar_rl.offline.run import write_run
    from radar_rl.offline.walk import Outcomes
    from radar_rl.policies.observation import DEFAULT_NEWEST
    from radar_rl.runtime.artifact import save_policy

    hardware = HardwareProfile.from_mapping(configs.load("hardware", PROFILE), PROFILE)
    trace = load_trace(traces, keep=lambda texts: ~held_out(texts.prompt_id, HELD_OUT))
    outcomes = Outcomes.of(trace, hardware)
    data = TraceData.of(outcomes, decide(behaviour, outcomes, seed), Reward(), "sequence", newest=DEFAULT_NEWEST)
    start = time.perf_counter()
    buffer = TransitionBuffer(data.source, data.transitions(data.first_rate), seed)
    settings = settings_of({"name": "bc" if behaviour == "oracle" else "cql"})
    encoder = encoder_factory(sample_observations(data, buffer.transitions, seed), settings["hidden"])
    algorithm = make_algorithm(settings, encoder, batch_size, updates)
    algorithm.build_with_dataset(buffer)
    for _ in range(updates):
        algorithm.update(buffer.sample_transition_batch(batch_size))
    seconds = time.perf_counter() - start
    policy = learned_policy(algorithm, data.spec, behaviour)
    run = data.replay(policy)
    print(f"{behaviour}: {len(buffer.transitions):,} transitions, {run.tokens_per_second:.1f} tokens/s after {updates}")
    if out is not None:
        about = {
            "name": settings["name"],
            "algorithm": settings,
            "split": {"held_out": HELD_OUT},
            "trace": asdict(trace.settings),
            "tree_size": trace.settings.tree_size,
            "hardware": asdict(hardware),
            "training_seconds": seconds,
        }
        save_policy(Path(out), policy, {key: about["trace"][key] for key in ("target", "draft")})
        write_run(Path(out), about, [{"step": float(updates), "tokens_per_second": run.tokens_per_second}])


def _evaluate(traces: str, run: str, out: str, seed: int) -> None:
    from radar_rl.evaluation.evaluate import evaluate

    evaluate(
        out=out,
        traces=traces,
        runs=[run],
        hardware=PROFILE,
        model={},
        allow_other_pair=False,
        held_out=HELD_OUT,
        seed=seed,
        tree_size=None,
        resamples=200,
    )


def _table(measured: pl.DataFrame, rows: int, limit_gb: float) -> Table:
    table = Table(title=f"{rows:,} rows, each step in a process of its own", title_justify="left")
    for column in ("step", "seconds", "peak memory, MiB", "limit, MiB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step, seconds, peak in measured.iter_rows():
        over = peak > limit_gb * 1024
        table.add_row(step, f"{seconds:.0f}", f"{peak:,.0f}", f"{limit_gb * 1024:,.0f}", style="red" if over else "")
    return table
