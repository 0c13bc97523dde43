"""Tables of the benchmark scripts, for the terminal and for Markdown files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table.

    >>> print(markdown_table(["task", "steps"], [["a|b", 3]]))
    | task | steps |
    |--|--|
    | a\\|b | 3 |
    """
    lines = [header, *rows]
    text = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "--|" * len(header), *text[1:]])


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Columns padded with spaces.

    >>> print(text_table(["task", "n"], [["cartpole", 3]]))
    task      n
    cartpole  3
    """
    lines = [[str(cell) for cell in line] for line in [header, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def machine_line(machine: dict[str, Any]) -> str:
    """The machine of a result in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{versions}; {machine['utc']}"
    )
