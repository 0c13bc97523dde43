"""Studies of return distributions and risk: numbers and plots of docs/results.md.

    python benchmarks/risk_results.py                      # all studies, about half an hour on one core
    python benchmarks/risk_results.py --only risky-path    # one study; the page shows those that have their records
    python benchmarks/risk_results.py --jobs 2             # two runs at a time

A run whose record is current is not made again, and an interrupted one goes on from its newest checkpoint. Exit code 1:
a run failed, or a claim does not hold.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from code_hash import REPOSITORY
from common import named
from jobs import Job
from results_page import RISK as PLACES
from results_page import complete_studies, write_results
from risk_page import holds
from risk_studies import STUDIES, Study
from runner import command_line, longest_first, resumable, run_missing

from distrl.base.files import read_json


class MeasuredJob(Job):
    """A run with a file of measurements."""

    def result(self, summary: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        file = self.run_folder / "measured.json"
        return super().result(summary, facts) | {"measured": read_json(file) if file.is_file() else None}


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Make missing records and write the page; returns the exit code."""
    names = ", ".join(study.name for study in STUDIES)
    args = command_line(__doc__, f"studies, with commas: {names}", "jobs").parse_args(words)
    studies = chosen(args.only)
    pairs = [(cell, seed) for study in studies for cell in study.cells.values() for seed in cell.seeds]
    if run_missing(PLACES, longest_first(pairs), MeasuredJob, args.jobs):
        return 1
    write_results(PLACES.table, PLACES)
    print(f"page: {PLACES.table.relative_to(REPOSITORY)}")
    complete = complete_studies(PLACES)
    wrong = [study.claim for study, found in complete if study in studies and not holds(study, found)]
    for claim in wrong:
        print(f"does not hold: {claim}")
    return int(bool(wrong))


def chosen(names: str | None) -> list[Study]:
    """The studies that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    return named("study", names, {study.name: study for study in STUDIES})


if __name__ == "__main__":
    sys.exit(main())
