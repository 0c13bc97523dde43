"""Records of learning runs: one JSON file per cell and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cell_table import choose
from cells import EVAL_EPISODES, EVAL_EVERY, IN_A_ROW, SCORED, Cell, score_of
from common import FOLDER, RESULTS
from tables import machine_line, markdown_table

from distrl.base.files import read_json, to_json, write_atomic

State = Literal["current", "stale", "missing"]


@dataclass(frozen=True)
class Places:
    """Folders of records and of unfinished runs, and the file of the table."""

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
    """Make the record of a finished run.

    Args:
        hashes: Of the code and config that it ran with.
        summary: The run's `summary.json`.
        facts: Command, attempts, machine.
    """
    reached_at = cell.reached_at(summary)
    return {
        "cell": cell.name,
        "seed": seed,
        "passed": cell.passed(reached_at),
        "reached_at": reached_at,
        "score": score_of(summary["evaluations"]),
        "env_steps": summary["env_steps"],
        "wall_s": round(summary["wall_s"], 2),
        "return_mean": summary["return_mean_last_20"],
        "evaluations": [[steps, round(mean, 3)] for steps, mean in summary["evaluations"]],
        "stopped": summary["stopped"],
        "gate": cell.gate,
        "judged_by": cell.judged_by,
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
    """One run in a table cell: steps to the gate, or the result without one."""
    if record is None:
        return "-"
    text = ending(cell, record) if record["reached_at"] is None else f"{record['reached_at']:,}"
    if cell.ceiling and record["reached_at"] is not None:
        text = f"above at {text}"
    return f"{text} (stale)" if state == "stale" else text


def ending(cell: Cell, record: dict[str, Any]) -> str:
    """Result of a run that met no gate, for the table."""
    if cell.scored and cell.judged_by == "evaluation":
        return "no evaluations" if record["score"] is None else f"{record['score']:.1f}"
    if cell.scored:
        return f"measured over {record['env_steps']:,} steps"
    evaluated = cell.judged_by == "evaluation" and record["evaluations"]
    last = record["evaluations"][-1][1] if evaluated else record["return_mean"]
    mean = "no episodes" if last is None else f"{last:.1f}"
    return f"stays below (ends at {mean})" if cell.ceiling else f"not reached ({mean} at {record['env_steps']:,})"


def result_rows(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> list[list[str]]:
    """Rows of the final table."""
    rows = []
    for cell in cells:
        own = own_seeds(cell, seeds)
        found = {seed: read_record(places, cell, seed) for seed in own}
        passed = sum(record is not None and record["passed"] for _, record in found.values())
        shown = [outcome(cell, *found[seed]) if seed in found else "" for seed in seeds]
        verdict = "yes" if meets(places, cell, own) else "no"
        tally = f"{passed}/{len(own)}" + (f" ({verdict})" if cell.median else "")
        if cell.scored:
            tally = "" if cell.beats is None else verdict
        rows.append([cell.task, cell.method, f"{cell.budget:,}", cell.wanted, *shown, tally])
    return rows


def own_seeds(cell: Cell, seeds: Sequence[int]) -> list[int]:
    """Those of `seeds` that a cell is run with."""
    return [seed for seed in seeds if seed in cell.seeds]


def meets(places: Places, cell: Cell, seeds: Sequence[int]) -> bool:
    """True if a cell passes, by the records of these seeds."""
    records = [read_record(places, cell, seed)[1] for seed in seeds]
    if cell.beats is None:
        return cell.verdict(records)
    other = choose(cell.beats)[0]
    return cell.verdict(records, [read_record(places, other, seed)[1] for seed in own_seeds(other, seeds)])


def header(seeds: Sequence[int]) -> list[str]:
    return ["task", "algorithm", "budget", "gate", *(f"seed {seed}" for seed in seeds), "passed"]


def table_of(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> str:
    return markdown_table(header(seeds), result_rows(places, cells, seeds))


def write_table(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
    """Write the Markdown page from all existing records."""
    pairs = [(cell, seed) for cell in cells for seed in own_seeds(cell, seeds)]
    records = [record for cell, seed in pairs if (record := read_record(places, cell, seed)[1])]
    machines = sorted({machine_line(record["machine"]).rsplit(";", 1)[0] for record in records})
    text = (
        "# Learning\n\nWritten by `make bench` from `results/learning/*.json`. Under each seed: environment steps "
        "until the gate was met.\n\n## Judged by training episodes\n\nThe mean return of the last 20; a gate that says "
        "*stays below* holds for the whole budget.\n\n"
        + table_of(places, [cell for cell in cells if cell.judged_by == "training"], seeds)
        + "\n\n## Judged by greedy evaluations\n\n"
        + f"{EVAL_EPISODES} episodes every {EVAL_EVERY:,} steps; {IN_A_ROW} evaluations in a row meet the gate. "
        + "*Median*: more than half of the seeds meet it.\n*Score*: the mean of the last "
        + f"{SCORED} evaluations at the end of the budget.\n\n"
        + table_of(places, [cell for cell in cells if cell.judged_by == "evaluation"], seeds)
        + "\n\n"
        + "".join(f"- {line}\n" for line in machines)
    )
    write_atomic(places.table, text)
