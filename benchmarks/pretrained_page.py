"""The language models' part of docs/results.md: success over minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from pretrained_cells import PretrainedCell
from tables import markdown_table

HEADER = ["seed", "first batch", "held out, sampled", "held out, greedy", "minutes", "gate met in time"]
SIZE = (7.0, 3.6)


def section(cell: PretrainedCell, records: Sequence[Mapping[str, Any]]) -> str:
    """Title, picture and table of one example.

    Args:
        records: Of its seeds, at least one.
    """
    rows = [
        [
            record["seed"],
            "-" if record["first_batch"] is None else f"{record['first_batch']:.2f}",
            *(f"{record['curve'][-1][way]:.2f}" if record["curve"] else "-" for way in ("sampled", "greedy")),
            f"{record['seconds'] / 60:.1f}",
            "yes" if record["passed"] else "no",
        ]
        for record in records
    ]
    return (
        f"## {cell.task} ({cell.method})\n\n`examples/{cell.example}.yaml`: GRPO's family on two cores, to a held-out "
        f"success of {cell.gate:g} within {cell.limit / 60:g} minutes, loading\nincluded. First batch: success of the "
        f"answers that the untrained policy gave.\n\n![{cell.task}](plots/{cell.name}.svg)\n\n"
        + markdown_table(HEADER, rows)
    )


def draw(cell: PretrainedCell, records: Sequence[Mapping[str, Any]]) -> Figure:
    """A line for every seed: sampled, and dashed greedy."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for record in records:
        minutes = [point["seconds"] / 60 for point in record["curve"]]
        sampled, greedy = ([point[way] for point in record["curve"]] for way in ("sampled", "greedy"))
        (line,) = axes.plot(minutes, sampled, marker=".", label=f"seed {record['seed']}")
        axes.plot(minutes, greedy, linestyle="--", color=line.get_color(), linewidth=0.9)
    if cell.gate is not None:
        axes.axhline(cell.gate, color="black", linewidth=0.8, linestyle=":")
    axes.set_title(f"{cell.task}: temperature 1, dashed greedy")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("success on held-out items")
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
