"""The terminal: a live display, plain lines, or silence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distrl.monitor.view import View, clock

Look = Callable[[], View]
# Refreshes per second of the live display, which shares the interpreter with the learner.
REFRESH_PER_SECOND = 2
# Seconds between two plain lines.
PLAIN_SECONDS = 5.0


class Console:
    """Display of a run; this one prints nothing."""

    seconds = float("inf")

    def __init__(self, look: Look):
        self._look = look

    def tick(self) -> None:
        """Redraw; called about every `seconds` by the training loop."""

    def line(self, text: str) -> None:
        """Print a line at once."""

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Print names and values in two columns."""

    def close(self) -> None:
        """Restore the terminal; a second call does nothing."""


def make_console(kind: str, look: Look) -> Console:
    """Make the console of a kind: `auto` is live in a terminal, else plain."""
    if kind == "auto":
        # Continuous integration and a dumb terminal may have a tty, but nobody to watch a bar move.
        live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "CI" not in os.environ
        kind = "rich" if live else "plain"
    return {"rich": LiveConsole, "plain": PlainConsole, "quiet": Console}[kind](look)


class PlainConsole(Console):
    """One line every few seconds, for pipes and logs."""

    seconds = PLAIN_SECONDS

    def tick(self) -> None:
        """Print the present state."""
        self.line(self._look().one_line())

    def line(self, text: str) -> None:
        """Print a line and flush."""
        print(text, flush=True)

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Print names and values in two columns."""
        width = max((len(name) for name, _ in rows), default=0)
        self.line("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)]))


class LiveConsole(Console):
    """A progress bar with a few lines under it, redrawn in place; other prints scroll above it."""

    def __init__(self, look: Look, console: RichConsole | None = None):
        super().__init__(look)
        self._console = console or RichConsole()
        self._live = Live(
            _LiveView(look), console=self._console, refresh_per_second=REFRESH_PER_SECOND, vertical_overflow="crop"
        )
        self._live.start()

    def line(self, text: str) -> None:
        """Print above the display."""
        self._console.print(Text(text))

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Print names and values."""
        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in rows:
            table.add_row(name, Text(value))
        self._console.print(table)

    def close(self) -> None:
        """Draw once more and restore the cursor."""
        self._live.stop()


class _LiveView:
    """Live view of the run, renewed at every refresh."""

    def __init__(self, look: Look):
        self._look = look

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        view = self._look()
        yield _bar(view, options.max_width)
        for row in view.rows():
            yield Text(row, no_wrap=True, overflow="ellipsis")


def _bar(view: View, width: int) -> Table | Text:
    progress, eta = view.progress(), view.eta()
    elapsed = clock(view.wall_s) + (f" < {clock(eta)}" if eta is not None else "")
    if progress is None:
        return Text(f"{view.env_steps:,} steps  {elapsed}", no_wrap=True, overflow="ellipsis")
    fraction, words = progress
    right = f"{fraction:4.0%}  {words}  {elapsed}"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(total=1.0, completed=fraction, width=max(width - cell_len(right) - 2, 8)),
        Text(right, no_wrap=True, overflow="ellipsis"),
    )
    return grid
