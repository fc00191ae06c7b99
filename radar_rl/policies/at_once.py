"""A decision from the newest beams as they were drafted, wherever rounding them to float16 cannot change it.

After a draft call, of all code that could evaluate a network only the interpreter's is still in the processor's
caches: the first call into NumPy or PyTorch takes longer than all the arithmetic of a small network in Python. So a
network of few weights is written out as a Python function, in which every weight is a constant, and reads the beams
where the draft call left them.

An observation holds confidences rounded to float16, as traces do. How far that can move the output is bounded by the
weights' absolute values, since ReLU never spreads two numbers. An output beyond that bound has the sign that it has
over the rounded numbers; within, the network over the whole observation decides.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.observation import DEFAULT_FEATURES, ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.policies.stepwise import difference
from radar_rl.speculative.state import Beams

Layer = tuple[NDArray[np.floating], NDArray[np.floating]]
Decision = Callable[[Beams, int], int | None]
"""From the beams and the number of draft calls made: STOP, CONTINUE, or None, to look at the whole observation."""

FEW = 512
"""Multiplications in all functions; of more than that NumPy is faster."""

HALF = 2.0**-11
"""Relative error of a number rounded to float16; where that has fewer digits, the error is ``SMALLEST``."""
SMALLEST = 2.0**-25
LOWEST = -65504.0
"""Of a number in float16."""

SINGLE = 2.0**-23
"""Relative error of an operation in float32, and as much again; ``TINIEST`` where float32 has no more digits."""
TINIEST = 2.0**-100


def written_out(spec: ObservationSpec, layers: Sequence[Layer], asks_from: int = 1) -> list[Decision]:
    """A network as Python functions: [ℓ] decides after ℓ draft calls.

    Args:
        spec: the observation.
        layers: (weight [in, out], bias [out]) float32 of each layer of a network with ReLU between them, the last with
            2 outputs [stop, continue].
        asks_from: the first draft call after which it decides.

    Returns:
        Empty if the network is not small, or sees anything else than the newest calls' confidences, and depth.
    """
    seen, newest = set(spec.features), spec.newest or 0
    layers = [*layers[:-1], difference(*layers[-1])]
    read = spec.top_k * sum(range(1, newest + 1))
    weights = read * max(1, len(layers[0][1])) + newest * sum(weight.size for weight, _ in layers[1:])
    if not newest or weights > FEW or "confidences" not in seen or not seen <= set(DEFAULT_FEATURES):
        return []
    exact = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
    reach, rest = _reach(spec, exact)
    if not rest < np.inf:
        return []
    scope: dict[str, Any] = {}
    for calls in range(1, newest + 1):
        exec(_source(spec, exact, calls, reach, rest), scope)
    # One function for all decisions that see as many calls: it is cold the first time.
    asked = [scope[f"seeing_{min(depth, newest)}"] for depth in range(asks_from, spec.max_depth + 1)]
    return [_goes_on] * asks_from + asked


def _goes_on(beams: Beams, depth: int) -> int:
    return CONTINUE


def _source(spec: ObservationSpec, layers: Sequence[Layer], calls: int, reach: NDArray[np.float64], rest: float) -> str:
    """The decision that sees so many calls, further ones not having been made; for the last two see ``_reach``."""
    k, start = spec.top_k, {part.name: part.start for part in spec.parts}
    shown = slice(start["confidences"], start["confidences"] + calls * k)
    blank = slice(shown.stop, start["confidences"] + spec.calls * k)
    weight, known = layers[0][0], layers[0][1] + spec.floor * layers[0][0][blank].sum(axis=0)
    read = {f"x{row}": f"numbers[first + {row % k - row // k * k}]" for row in range(calls * k)}

    lines = [
        f"def seeing_{calls}(beams, depth):",
        " numbers = beams.numbers",
        f" if numbers is None or beams.shape != ({spec.max_depth}, {k}): return None",
        f" first, share = depth * {k} - {k}, depth / {spec.max_depth}",
        *(f" {name} = {value}" for name, value in read.items()),
        *(line for first in range(0, len(read), k) for line in _cut(spec, range(first, first + k))),
    ]
    below: list[str] = []
    for number, (_, bias) in enumerate(layers):
        above = [f"h{number}_{unit}" for unit in range(len(bias))]
        if number == 0:
            for unit, name in enumerate(above):
                terms = dict(zip(read, weight[shown, unit], strict=True))
                if "depth" in start:
                    terms["share"] = weight[start["depth"], unit]
                lines.append(f" {name} = {_sum(known[unit], terms)}")
        else:
            lines += [f" {name} = {float(constant)!r}" for name, constant in zip(above, bias, strict=True)]
            for name, row in zip(below, layers[number][0], strict=True):
                adds = "; ".join(f"{into} += {name} * {float(by)!r}" for into, by in zip(above, row, strict=True))
                lines.append(f" if {name} > 0.0: {adds}")
        below = above
    [margin] = below
    # The bound at most; nearer to it, the bound at these numbers.
    lines += [
        *_decided(margin, repr(float(rest - spec.floor * HALF * reach[shown].sum()))),
        f" off = {_sum(rest, dict(zip(read, -HALF * reach[shown], strict=True)))}",
        *_decided(margin, "off"),
    ]
    return "\n".join(lines)


def _cut(spec: ObservationSpec, call: range) -> list[str]:
    """A call's beam, descending, is raised to the floor as an observation is; NaN, which sorts first, gives None.

    Rounding can take a number over the floor no further than it takes the floor itself, which the bound allows for.
    Where float16 has no such floor, numbers that it has not give None as well.
    """
    worst = f"x{call[-1]}"
    lines = [f" if not x{call[0]} <= 0.0: return None"]
    if spec.floor < LOWEST:
        return [*lines, f" if {worst} < {LOWEST!r}: return None"]
    raised = (f"  if x{i} < {float(spec.floor)!r}: x{i} = {float(spec.floor)!r}" for i in call)
    return [*lines, f" if not {worst} >= {float(spec.floor)!r}:", f"  if {worst} != {worst}: return None", *raised]


def _decided(margin: str, off: str) -> list[str]:
    return [f" if {margin} > {off}: return {CONTINUE}", f" if {margin} < -{off}: return {STOP}"]


def _sum(constant: float, terms: Mapping[str, float]) -> str:
    return " + ".join([repr(float(constant)), *(f"{name} * {float(by)!r}" for name, by in terms.items())])


def _reach(spec: ObservationSpec, layers: Sequence[Layer]) -> tuple[NDArray[np.float64], float]:
    """How far the margin moves at most: for each input that does by 1, [size]; and by what float32 and float16 lack.

    The latter is infinite where numbers are too large for float32.
    """
    reach, largest, overflows = np.abs(layers[-1][0][:, 0]), np.full(spec.size, max(1.0, -spec.floor)), False
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, _ in layers[-2::-1]:
            reach = np.abs(weight) @ reach
        for weight, bias in layers:
            overflows |= not (largest < np.finfo(np.float32).max).all()
            largest = largest @ np.abs(weight) + np.abs(bias)
        overflows |= not (largest < np.finfo(np.float32).max).all()
        operations = sum(len(weight) + 1 for weight, _ in layers)
        rest = largest[0] * operations * SINGLE + reach.sum() * SMALLEST + TINIEST
    return reach, np.inf if overflows else float(rest)
