"""The page: headline, table and pictures in one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from radar_rl.evaluation.report.canvas import NARROW, ROLES, WIDE, Picture

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Tile:
    """A figure in large type.

    Attributes:
        value: the figure.
        about: what it is of.
    """

    value: str
    about: str


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: what it holds.
        head: names of the columns; the first holds names, the others figures.
        body: rows of cells.
        bold: numbers of the rows that stand out.
    """

    caption: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]
    bold: Sequence[int] = ()


@dataclass(frozen=True)
class Page:
    """What the page says.

    Attributes:
        pair: how to call target and draft head.
        headline: one sentence: who is how much faster.
        summary: how sure that is, how far from the best possible, and on what.
        tiles: the headline's figures.
        tables: the figures in small.
        pictures: the story.
        origin: what the page was made from, by name.
    """

    pair: str
    headline: str
    summary: Sequence[str]
    tiles: Sequence[Tile]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    origin: Mapping[str, str]

    def html(self) -> str:
        """The page as one HTML file."""
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        template = environment.from_string(resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            "page": self,
            "light": {role: colours[0] for role, colours in ROLES.items()},
            "dark": {role: colours[1] for role, colours in ROLES.items()},
            "drawn": [[Markup(each.svg(width)) for width in (WIDE, NARROW)] for each in self.pictures],
        }
        return template.render(values)
