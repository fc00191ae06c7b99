"""Charts for a page: drawn once in a few colours of known roles, which the page then sets for light and for dark."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from radar_rl.evaluation.report.wording import folded, signed_percent

# Colours by role, [on light, on dark]; the light ones are what charts are drawn in, so each must be another colour.
ROLES = {
    "surface": ("#ffffff", "#12161c"),
    "ink": ("#1b2129", "#e8ebef"),
    "muted": ("#5c6673", "#a0a9b5"),
    "grid": ("#e4e7eb", "#29303a"),
    "line": ("#b9c0c9", "#4a5461"),
    "static": ("#8b949f", "#7f8995"),
    "learned": ("#1f6fb4", "#5fb0f5"),
    "soft": ("#a9cbe8", "#2b5a85"),
    "rule": ("#b06f10", "#e3a64b"),
    "oracle": ("#3b424c", "#cdd3da"),
}
INK, MUTED, GRID, LINE, SURFACE = (ROLES[name][0] for name in ("ink", "muted", "grid", "line", "surface"))
COLOURS = {kind: ROLES[kind][0] for kind in ("static", "learned", "rule", "oracle")}
SOFT = ROLES["soft"][0]

WIDE, NARROW = 7.2, 3.5  # inches: of a screen's column, of a phone's
DPI = 160

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "radar-rl",
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
}

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: of its file and its place on the page.
        title: what is seen.
        reading: how to read it, a sentence or two.
        alt: what it shows, for who cannot see it.
        draw: draws it for a width in inches, ``WIDE`` or ``NARROW``; called within ``STYLE``.
    """

    name: str
    title: str
    reading: str
    alt: str
    draw: Callable[[float], Figure]

    def save(self, folder: Path) -> Path:
        """Write it as a PNG, its title above it."""
        with matplotlib.rc_context(STYLE):
            figure = self.draw(WIDE)
            figure.suptitle(folded(self.title, 88, 3), fontsize=11, fontweight="bold", x=0.012, ha="left")
            path = folder / f"{self.name}.png"
            figure.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
        return path

    def svg(self, width: float) -> str:
        """It as an ``<svg>`` element for a page, without its title: text as text, colours as the page's variables."""
        with matplotlib.rc_context(STYLE):
            written = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.draw(width).savefig(written, format="svg", transparent=True, metadata=nothing)
        kind = "wide" if width == WIDE else "narrow"
        return _inlined(written.getvalue(), f"{self.name}-{kind}", kind, self.alt)


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
    return figure, figure.subplots()


def percents(axis: Axis) -> None:
    """Write gains on an axis as signed per cents, whole ones."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: signed_percent(value, 0)))


def patch() -> dict[str, Any]:
    """What keeps a label readable that lies on lines."""
    return {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.2}


def apart(values: Sequence[float], least: float) -> list[float]:
    """Where to write the labels of some values, so that they keep a distance: near the values, in their order."""
    order = np.argsort(values, kind="stable")
    groups: list[list[float]] = []  # [middle, labels] of labels that touch, from low to high
    for value in np.asarray(values, dtype=float)[order]:
        groups.append([value, 1.0])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < least * (groups[-1][1] + groups[-2][1]) / 2:
            (upper, above), (lower, below) = groups.pop(), groups.pop()
            groups.append([(upper * above + lower * below) / (above + below), above + below])
    places = [middle + least * (i - (count - 1) / 2) for middle, count in groups for i in range(int(count))]
    found = np.empty(len(places))
    found[order] = places
    return found.tolist()


def _inlined(text: str, name: str, kind: str, alt: str) -> str:
    """An SVG document as an element of a page."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(text)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    used = {reference for item in root.iter() for reference in re.findall(r"#([\w-]+)", _references(item))}
    for item in root.iter():
        own = item.attrib.pop("id", None)
        if own in used:
            item.set("id", f"{name}-{own}")
        if HREF in item.attrib:
            item.set("href", f"#{name}-{item.attrib.pop(HREF)[1:]}")
        if "clip-path" in item.attrib:
            item.set("clip-path", re.sub(r"#([\w-]+)", rf"#{name}-\1", item.attrib["clip-path"]))
        if "style" in item.attrib:
            item.set("style", _recoloured(item.attrib["style"]))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": kind, "role": "img", "aria-label": alt}
    element = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)


def _references(item: ElementTree.Element) -> str:
    return " ".join((item.get(HREF, ""), item.get("clip-path", "")))


def _recoloured(style: str) -> str:
    """A style whose colours are the page's variables, and whose font is the page's."""
    for role, (light, _) in ROLES.items():
        style = style.replace(light, f"var(--{role})")
    return re.sub(r"(font: [^;]*?px) [^;]*", r"\1 var(--font)", style)
