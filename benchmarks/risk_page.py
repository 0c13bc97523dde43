"""The page of the studies of risk: numbers as tables, plots as SVG files beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from risk_studies import Study
from tables import markdown_table

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "distrl"  # the same numbers give the same file

#: Label -> records of its seeds.
Found = Mapping[str, Sequence[Mapping[str, Any]]]
SIZE = (7.0, 3.6)


def section(study: Study, found: Found) -> str:
    """Title, text, picture, table and verdict of one study."""
    names = list(figures_of(study, next(iter(found.values())))[0])
    rows = [[label, *(spread(study, records, name) for name in names)] for label, records in found.items()]
    seeds = sorted({record["seed"] for records in found.values() for record in records})
    verdict = "yes" if holds(study, found) else "no"
    return (
        f"## {study.title}\n\n{study.text}\n\n![{study.title}](plots/{study.name}.svg)\n\n"
        + markdown_table(["", *names], rows)
        + f"\n\nSeeds {', '.join(map(str, seeds))}; {study.middle.__name__}s over them. Claim: {study.claim}. "
        f"Holds: **{verdict}**."
    )


def figures_of(study: Study, records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [study.figures(record) for record in records]


def holds(study: Study, found: Found) -> bool:
    """True if the study's claim holds over all seeds."""
    seeds = {label: [row[study.compared] for row in figures_of(study, records)] for label, records in found.items()}
    return study.holds({label: float(study.middle(values)) for label, values in seeds.items()})


def spread(study: Study, records: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean or median over seeds with lowest and highest."""
    values = [row[name] for row in figures_of(study, records)]
    return f"{readable(float(study.middle(values)))} ({readable(min(values))} to {readable(max(values))})"


def readable(value: float) -> str:
    """A figure as people read it."""
    if not np.isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.2f}"


# ---- plots ------------------------------------------------------------------------------------------------------


def draw(study: Study, found: Found) -> Figure:
    """Distributions of returns, or curves over the run."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for label, records in found.items():
        if study.picture == "distribution":
            draw_distribution(axes, label, [record["measured"]["returns"] for record in records])
        elif study.picture == "bias":
            points = [[(p["env_steps"], p["bias"]) for p in record["measured"]["curve"]] for record in records]
            draw_curve(axes, label, points, "predicted - real return")
        else:
            draw_curve(axes, label, [record["evaluations"] for record in records], "mean return of an evaluation")
    if study.picture == "bias":
        axes.axhline(0.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_title(study.title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_distribution(axes: Any, label: str, seeds: Sequence[Sequence[float]]) -> None:
    """Share of episodes at or below each return, all seeds together."""
    returns = np.sort(np.concatenate(seeds))
    axes.step(returns, np.arange(1, len(returns) + 1) / len(returns), where="post", label=label)
    axes.set_xlabel("return of an episode")
    axes.set_ylabel("share of episodes at or below")
    axes.set_ylim(0.0, 1.02)


def draw_curve(axes: Any, label: str, seeds: Sequence[Sequence[Sequence[float]]], meaning: str) -> None:
    """Mean over seeds of (env_steps, value) points, with a band from the lowest to the highest."""
    length = min(len(points) for points in seeds)
    steps = [point[0] for point in seeds[0][:length]]
    values = np.array([[point[1] for point in points[:length]] for points in seeds])
    (line,) = axes.plot(steps, values.mean(0), label=label)
    axes.fill_between(steps, values.min(0), values.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(meaning)


def save(figure: Figure, path: Path) -> None:
    """Write the picture whole or not at all, without the date that SVG files usually carry."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    os.replace(partial, path)
