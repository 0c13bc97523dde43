"""The methods' bench: every language algorithm on one tiny task, with equal tokens.

    python benchmarks/methods.py --list                       # cells and the state of their records
    python benchmarks/methods.py --only grpo,riskpo --seeds 0 # some of them
    python benchmarks/methods.py                              # all: about 40 processor seconds each, three seeds

Records go to results/methods/, the table to results/methods.md. A run whose record is current is not made again, and
one that was interrupted goes on. Exit code 1: a run failed.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common import FOLDER
from jobs import Job
from method_cells import PLACES, TASK, TOKENS, MethodCell, chosen_cells, method_cells
from method_effects import EFFECTS, NOISE, judged
from method_measures import ANSWERS, measured, traces
from records import read_record
from runner import command_line, resumable, run_missing
from tables import machine_line, markdown_table, text_table

from distrl.base.files import write_atomic

#: Columns of the table: heading -> (where the number is, digits).
COLUMNS = {
    "success": ("success", 3),
    "pass@8": ("pass_8", 3),
    "entropy": ("entropy", 2),
    "distinct of 8": ("distinct_8", 2),
}
HEADER = ["algorithm", "entry", *COLUMNS, "zero advantages", "seeds", "claim", "direction"]


class MethodJob(Job):
    """A run whose policy is measured before its folder goes."""

    def result(self, summary: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        record = super().result(summary, facts)
        return record | {"measured": measured(self.run_folder), "traces": traces(self.run_folder / "metrics.jsonl")}


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Make missing records and write the table; returns the exit code."""
    args = command_line(__doc__, "algorithms or variants, with commas", "seeds", "jobs", "list").parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a cell is one core's work
    pairs = [(cell, seed) for cell in chosen_cells(args.only) for seed in args.seeds]
    if args.list:
        rows = [[cell.name, str(seed), read_record(PLACES, cell, seed)[0]] for cell, seed in pairs]
        print(text_table(["cell", "seed", "record"], rows))
        return 0
    failed = run_missing(PLACES, pairs, MethodJob, args.jobs)
    write_atomic(PLACES.table, page())
    print(f"table: {PLACES.table.relative_to(FOLDER.parent)}")
    return int(bool(failed))


def current_records() -> dict[str, list[dict[str, Any]]]:
    """Records of every cell that hold for the present code."""
    found = {cell.name: [read_record(PLACES, cell, seed) for seed in cell.seeds] for cell in method_cells()}
    return {name: [r for state, r in each if state == "current" and r is not None] for name, each in found.items()}


def table_rows(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """One row for each cell that has records, means over the seeds."""
    return [row_of(cell, records[cell.name], records) for cell in method_cells() if records[cell.name]]


def row_of(
    cell: MethodCell, mine: Sequence[Mapping[str, Any]], records: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    shown = [f"{statistics.fmean(r['measured'][name] for r in mine):.{digits}f}" for name, digits in COLUMNS.values()]
    zero = [statistics.fmean(r["traces"]["zero_advantage"]) for r in mine if "zero_advantage" in r["traces"]]
    known = [entry for entry in cell.entries if entry in EFFECTS]
    claims = "; ".join(EFFECTS[entry].claim for entry in known)
    verdicts = ", ".join(judged(entry, records) for entry in cell.entries)
    share = f"{statistics.fmean(zero):.2f}" if zero else ""
    return [cell.name, ", ".join(map(str, cell.entries)), *shown, share, str(len(mine)), claims, verdicts]


def page() -> str:
    """The Markdown page, from the records that hold."""
    records = current_records()
    machines = sorted({machine_line(r["machine"]).rsplit(";", 1)[0] for each in records.values() for r in each})
    return (
        "# Language-model algorithms side by side\n\n"
        f"Written by `make methods` from `results/methods/*.json`. {TASK}, 0.4 M parameters, {TOKENS:,} tokens of"
        " answers each after the same supervised start; means over the seeds. Measured on"
        f" {ANSWERS} answers of the last weights to every question: success, at least one right of 8, entropy of a"
        " token's distribution in nats, different right answers among 8; over the whole run the share of answers with"
        " advantage 0."
        "\n\n*Direction* compares means of these cells as the claim says, and is computed from the records"
        f" (`benchmarks/method_effects.py`; success within {NOISE:g} counts as equal). *Not tried*: this bed cannot"
        " show it. One tiny task says nothing of large models.\n\n"
        + markdown_table(HEADER, table_rows(records))
        + "\n\n"
        + "".join(f"- {line}\n" for line in machines)
    )


if __name__ == "__main__":
    sys.exit(main())
