"""Tables and lines that the commands print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Width of a table that goes to a file or a pipe: nothing is wrapped to the width of a terminal that is not there.
FILE_WIDTH = 160


def say(text: str) -> None:
    """Print a message to stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def print_sections(sections: Mapping[str, Mapping[str, object]]) -> None:
    """Print names and values under titles."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for title, values in sections.items():
        table.add_row(Text(title, style="bold"))
        for name, value in values.items():
            table.add_row(Text(f"  {name}"), Text(str(value)))
    console().print(table)


def console() -> Console:
    """Return a console on stdout, at the terminal's width if there is one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH)
