"""Records of learning runs: one JSON file a (cell, seed), current as long as code and config are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cells import Cell
from common import FOLDER, RESULTS
from tables import machine_line, markdown_table

from distrl.base.files import read_json, to_json, write_atomic

State = Literal["current", "stale", "missing"]


@dataclass(frozen=True)
class Places:
    """Where records are kept, where runs are made until they have ended, and where the table goes."""

    records: Path = RESULTS / "learning"
    runs: Path = FOLDER / ".cache" / "learning"
    table: Path = RESULTS / "learning.md"

    def record(self, cell: Cell, seed: int) -> Path:
        return self.records / f"{cell.name}-seed{seed}.json"


def read_record(places: Places, cell: Cell, seed: int) -> tuple[State, dict[str, Any] | None]:
    """The record of a run, and whether it still holds."""
    path = places.record(cell, seed)
    if not path.is_file():
        return "missing", None
    record = read_json(path)
    hashes = cell.hashes(seed)
    return ("current" if all(record[key] == value for key, value in hashes.items()) else "stale"), record


def make_record(
    cell: Cell, seed: int, hashes: dict[str, str], summary: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """What is kept of a finished run.

    Args:
        hashes: Of the code and config that it ran with.
        summary: The run's `summary.json`.
        facts: Command, attempts, machine.
    """
    reached = summary["stopped"].startswith("return_mean")
    return {
        "cell": cell.name,
        "seed": seed,
        "passed": cell.passed(reached, summary["env_steps"]),
        "reached": reached,
        "env_steps": summary["env_steps"],
        "wall_s": round(summary["wall_s"], 2),
        "return_mean": summary["return_mean_last_20"],
        "stopped": summary["stopped"],
        "gate": cell.gate,
        "ceiling": cell.ceiling,
        "budget": cell.budget,
        "updates": summary["updates"],
        "parameter_hash": summary["parameter_hash"],
        **hashes,
        **facts,
    }


def write_record(places: Places, cell: Cell, seed: int, record: dict[str, Any]) -> None:
    write_atomic(places.record(cell, seed), to_json(record, indent=1) + "\n")


def outcome(cell: Cell, state: State, record: dict[str, Any] | None) -> str:
    """One run in a table cell: steps to the gate, or what happened instead."""
    if record is None:
        return "-"
    mean = "no episodes" if record["return_mean"] is None else f"{record['return_mean']:.1f}"
    steps = f"{record['env_steps']:,}"
    if cell.ceiling:
        text = f"above at {steps}" if record["reached"] else f"stays below (ends at {mean})"
    else:
        text = steps if record["reached"] else f"not reached ({mean} at {steps})"
    return f"{text} (stale)" if state == "stale" else text


def result_rows(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> list[list[str]]:
    """Rows of the final table."""
    rows = []
    for cell in cells:
        found = [read_record(places, cell, seed) for seed in seeds]
        passed = sum(record is not None and record["passed"] for _, record in found)
        shown = [outcome(cell, state, record) for state, record in found]
        rows.append([cell.task, cell.method, f"{cell.budget:,}", cell.wanted, *shown, f"{passed}/{len(seeds)}"])
    return rows


def header(seeds: Sequence[int]) -> list[str]:
    return ["task", "algorithm", "budget", "gate", *(f"steps, seed {seed}" for seed in seeds), "passed"]


def write_table(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
    """The Markdown page, from whatever records there are."""
    records = [record for cell in cells for seed in seeds if (record := read_record(places, cell, seed)[1])]
    machines = sorted({machine_line(record["machine"]).rsplit(";", 1)[0] for record in records})
    text = (
        "# Learning\n\nWritten by `make bench` from `results/learning/*.json`. Steps: environment steps when the mean "
        "return of the last 20 training episodes\nfirst met the gate; a gate that says *stays below* holds for the "
        "whole budget.\n\n"
        + markdown_table(header(seeds), result_rows(places, cells, seeds))
        + "\n\n"
        + "".join(f"- {line}\n" for line in machines)
    )
    write_atomic(places.table, text)
