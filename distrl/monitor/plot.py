"""Plots of learning curves: one line per method, a band over its seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from distrl.base.errors import UserError
from distrl.monitor.lines import read_lines

Run = str | os.PathLike[str]
# Points of the common x axis that the seeds of one line are put on.
GRID = 400


def read_curve(run: Run, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Read env_steps and values, each (N,), of a tag from a run folder or a metrics.jsonl."""
    path = Path(run) / "metrics.jsonl" if Path(run).is_dir() else Path(run)
    lines = read_lines(path)
    points = sorted((line["env_steps"], line[tag]) for line in lines if line.get(tag) is not None)
    if not points:
        tags = sorted({name for line in lines for name in line if "/" in name})
        raise UserError(
            f"{path} has no points of {tag!r}.",
            f"Tags it has: {', '.join(tags)}." if tags else "Give a run folder, or the metrics.jsonl inside it.",
        )
    steps, values = np.array(points, dtype=np.float64).T
    return steps, values


def band(curves: Iterable[tuple[np.ndarray, np.ndarray]], window: float) -> tuple[np.ndarray, ...]:
    """Interpolate seeds to one x axis, up to the end of the shortest.

    `window` is the width of the running mean, as a share of the x axis; 0 leaves the points alone. Returns env_steps,
    mean, lowest and highest seed, each (G,).
    """
    curves = list(curves)
    begin, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.linspace(begin, max(end, begin), GRID)
    rows = np.stack([np.interp(grid, steps, _smooth(steps, values, window * end)) for steps, values in curves])
    return grid, rows.mean(0), rows.min(0), rows.max(0)


def learning_curve(
    runs: Mapping[str, Iterable[Run]] | Iterable[Run],
    out: Run,
    *,
    tag: str = "return/mean",
    title: str = "",
    threshold: float | None = None,
    window: float = 0.03,
) -> Path:
    """Draw return against environment steps; return the path of the image.

    Args:
        runs: Run folders or metrics.jsonl files of the seeds of one method; or a mapping from a method's name to those.
        out: The image file; its suffix selects the format (`.svg`, `.png`, `.pdf`).
        threshold: A dashed line, such as the return at which the task counts as solved.
        window: See `band`.
    """
    figure, axes = _new_figure()
    groups = runs if isinstance(runs, Mapping) else {"": runs}
    for label, seeds in groups.items():
        curves = [read_curve(run, tag) for run in seeds]
        if not curves:
            raise UserError(f"no runs to draw{f' for {label!r}' if label else ''}.", "Give at least one run folder.")
        steps, mean, low, high = band(curves, window)
        name = f"{label} ({len(curves)} seeds)" if label and len(curves) > 1 else label
        (line,) = axes.plot(steps, mean, linewidth=1.8, label=name or None)
        if len(curves) > 1:
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if threshold is not None:
        axes.axhline(threshold, linestyle="--", linewidth=1, color="gray")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(tag)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if any(groups):
        axes.legend(frameon=False)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, bbox_inches="tight", dpi=150, metadata=undated)
    return path


def _new_figure() -> tuple:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib.", "Type: pip install 'distrl[dev]'") from error
    # The same data gives the same file, so that a plot in a repository changes only with its numbers.
    matplotlib.rcParams["svg.hashsalt"] = "distrl"
    figure = Figure(figsize=(6.4, 3.8))  # no pyplot: no display, no global state
    return figure, figure.add_subplot()


def _smooth(steps: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Average the points at most `width` environment steps back, so no point sees the future."""
    first = np.searchsorted(steps, steps - width, side="left")
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    return (total[last] - total[first]) / (last - first)
