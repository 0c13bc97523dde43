"""The methods' bench: every language-model algorithm on one tiny task, with equally many sampled tokens.

    python benchmarks/methods.py --list                       # cells and the state of their records
    python benchmarks/methods.py --only grpo,riskpo --seeds 0 # some of them
    python benchmarks/methods.py                              # all: about 40 processor seconds each, three seeds

Records go to results/methods/, the table to results/methods.md. A run whose record is current is not made again, and
one that was interrupted goes on. Exit code 1: a run failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cells import SEEDS
from common import FOLDER
from jobs import Job
from learning import numbers, patience, run_all
from method_cells import PLACES, TASK, TOKENS, MethodCell, chosen_cells, method_cells
from method_effects import EFFECTS, NOISE, judged
from method_measures import ANSWERS, measured, traces
from records import read_record
from tables import machine_line, markdown_table, text_table

from distrl.base.errors import UserError
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


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table again; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="algorithms or variants, with commas")
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS), help="with commas; default 0,1,2")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="runs at a time")
    parser.add_argument("--list", action="store_true", help="show the state of every run and stop")
    args = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a cell is one core's work
    try:
        pairs = [(cell, seed) for cell in chosen_cells(args.only) for seed in args.seeds]
        states = {pair: read_record(PLACES, *pair)[0] for pair in pairs}
        if args.list:
            print(text_table(["cell", "seed", "record"], [[c.name, str(s), states[c, s]] for c, s in pairs]))
            return 0
        todo = [pair for pair in pairs if states[pair] != "current"]
        print(f"{len(pairs) - len(todo)} of {len(pairs)} runs are current, {len(todo)} to do.", flush=True)
        failed = run_all([MethodJob(cell, seed, PLACES, patience(cell)) for cell, seed in todo], args.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
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
        " token's law in nats, different right answers among 8; and over the whole run the share of answers with"
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
