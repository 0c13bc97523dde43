"""The page of the studies of risk: numbers as tables, pictures as SVG files beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from risk_studies import Study
from tables import machine_line, markdown_table

from distrl.base.files import write_atomic

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "distrl"  # the same numbers give the same file

#: Label -> records of its seeds.
Found = Mapping[str, Sequence[Mapping[str, Any]]]
SIZE = (7.0, 3.6)


def write_page(path: Path, studies: Sequence[tuple[Study, Found]]) -> None:
    """Page and pictures; studies come without records that are missing.

    Args:
        path: The page; pictures go into `pictures/` beside it.
    """
    pictures = path.parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for study, found in studies:
        save(draw(study, found), pictures / f"{study.name}.svg")
    machines = sorted(
        {machine_line(r["machine"]).rsplit(";", 1)[0] for _, f in studies for rs in f.values() for r in rs}
    )
    text = (
        "# Results\n\nMade by `python benchmarks/risk_results.py`; every run is a record in "
        "`benchmarks/results/risk/`. Ranges are the lowest and highest\nseed.\n\n"
        + "\n\n".join(section(study, found) for study, found in studies)
        + "\n\n"
        + "".join(f"- {line}\n" for line in machines)
    )
    write_atomic(path, text)


def section(study: Study, found: Found) -> str:
    """Title, text, picture, table and verdict of one study."""
    names = list(figures_of(study, next(iter(found.values())))[0])
    rows = [[label, *(spread(study, records, name) for name in names)] for label, records in found.items()]
    seeds = sorted({record["seed"] for records in found.values() for record in records})
    verdict = "yes" if holds(study, found) else "no"
    return (
        f"## {study.title}\n\n{study.text}\n\n![{study.title}](pictures/{study.name}.svg)\n\n"
        + markdown_table(["", *names], rows)
        + f"\n\nSeeds {', '.join(map(str, seeds))}. Claim: {study.claim}. Holds: **{verdict}**."
    )


def figures_of(study: Study, records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [study.figures(record["measured"]) for record in records]


def holds(study: Study, found: Found) -> bool:
    """Whether the study's claim holds for means over seeds."""
    means = {label: [row[study.compared] for row in figures_of(study, records)] for label, records in found.items()}
    return study.holds({label: float(np.mean(values)) for label, values in means.items()})


def spread(study: Study, records: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean over seeds with lowest and highest."""
    values = [row[name] for row in figures_of(study, records)]
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw(study: Study, found: Found) -> Figure:
    """Distributions of returns, or curves of a bias, by what the runs measured."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for label, records in found.items():
        measured = [record["measured"] for record in records]
        if "returns" in measured[0]:
            draw_distribution(axes, label, measured)
        else:
            draw_curve(axes, label, measured)
    axes.set_title(study.title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_distribution(axes: Any, label: str, measured: Sequence[Mapping[str, Any]]) -> None:
    """Share of episodes at or below each return, all seeds together."""
    returns = np.sort(np.concatenate([found["returns"] for found in measured]))
    axes.step(returns, np.arange(1, len(returns) + 1) / len(returns), where="post", label=label)
    axes.set_xlabel("return of an episode")
    axes.set_ylabel("share of episodes at or below")
    axes.set_ylim(0.0, 1.02)


def draw_curve(axes: Any, label: str, measured: Sequence[Mapping[str, Any]]) -> None:
    """Mean over seeds against environment steps, with a band from the lowest to the highest."""
    length = min(len(found["curve"]) for found in measured)
    steps = [point["env_steps"] for point in measured[0]["curve"][:length]]
    bias = np.array([[point["bias"] for point in found["curve"][:length]] for found in measured])
    (line,) = axes.plot(steps, bias.mean(0), label=label)
    axes.fill_between(steps, bias.min(0), bias.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
    axes.axhline(0.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("predicted - real return")


def save(figure: Figure, path: Path) -> None:
    """Write the picture whole or not at all, without the date that SVG files usually carry."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    os.replace(partial, path)
