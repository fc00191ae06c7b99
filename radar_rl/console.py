"""Where tables are printed: a terminal, or a log or a pipe, which has no width of its own."""

from rich.console import Console


def wide_console(width: int = 100, *, stderr: bool = False) -> Console:
    """A console that colours only what it is told to, for tables as wide as they need.

    Args:
        width: characters in a line where it is no terminal.
        stderr: print beside standard output, not to it.
    """
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = width
    return console
