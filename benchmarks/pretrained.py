"""Small language models trained for minutes on two cores: each example, three seeds.

    python benchmarks/pretrained.py                     # all, one after the other: about two hours, on a quiet machine
    python benchmarks/pretrained.py --only smollm2-copy --seeds 0

Records go to results/pretrained/, the curves into docs/results.md. A run whose record is current is not made again, and
an interrupted one goes on. Exit code 1: a run failed, or its gate was not met in time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import Job
from pretrained_cells import CELLS, PLACES, PretrainedCell, chosen, records_of
from results_page import write_results
from runner import command_line, resumable, run_missing

#: What a point of the curves holds, and where a run's metrics have it.
TAGS = {
    "env_steps": "env_steps",
    "seconds": "wall_s",
    "sampled": "eval/success_sampled",
    "greedy": "eval/success_greedy",
}


class TimedJob(Job):
    """A run with a time limit, which keeps its curve."""

    begun = 0.0

    def start(self) -> None:
        self.begun = time.monotonic()
        super().start()

    def result(self, summary: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        seconds = time.monotonic() - self.begun
        if self.resumed:
            seconds = max(seconds, summary["wall_s"])
        record = super().result(summary, facts)
        measured = curve_of(self.run_folder / "metrics.jsonl")
        assert isinstance(self.cell, PretrainedCell)
        in_time = record["reached_at"] is not None and seconds <= self.cell.limit
        return record | measured | {"seconds": round(seconds, 1), "limit": self.cell.limit, "passed": in_time}


def curve_of(metrics: Path) -> dict[str, Any]:
    """Read success on held-out answers over time, and of the untrained model's first batch."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    curve = [{name: row[tag] for name, tag in TAGS.items()} for row in rows if TAGS["sampled"] in row]
    first = next((row["text/success"] for row in rows if "text/success" in row), None)
    return {"curve": curve, "first_batch": first}


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Make missing records and write the page; returns the exit code."""
    names = ", ".join(cell.name for cell in CELLS)
    args = command_line(__doc__, f"cells, with commas: {names}", "seeds").parse_args(words)
    cells = chosen(args.only)
    failed = run_missing(PLACES, [(cell, seed) for cell in cells for seed in args.seeds], TimedJob)
    write_results(PLACES.table)
    late = [record for cell in cells for record in records_of(PLACES, cell) if not record["passed"]]
    for record in late:
        print(f"not met in time: {record['cell']} seed {record['seed']}")
    return int(bool(failed or late))


if __name__ == "__main__":
    sys.exit(main())
