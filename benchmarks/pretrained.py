"""Small language models that get better within minutes on two cores: every example as it stands, three seeds.

    python benchmarks/pretrained.py                     # all, one after the other: about two hours, on a quiet machine
    python benchmarks/pretrained.py --only smollm2-copy --seeds 0

Records go to results/pretrained/, the curves into docs/results.md. A run whose record is current is not made again, and
an interrupted one goes on. Exit code 1: a run failed, or its gate was not met in time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import SEEDS
from jobs import Job
from learning import numbers, patience, run_all
from pretrained_cells import CELLS, PLACES, PretrainedCell, chosen, records_of
from records import read_record
from results_page import write_results

from distrl.base.errors import UserError

#: What a point of the curves holds, and where a run's metrics have it.
TAGS = {
    "env_steps": "env_steps",
    "seconds": "wall_s",
    "sampled": "eval/success_sampled",
    "greedy": "eval/success_greedy",
}


class TimedJob(Job):
    """A run that is judged by the clock, and keeps its curve."""

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
    """Success of held-out answers over time, and that of the first batch, which the untrained model made."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    curve = [{name: row[tag] for name, tag in TAGS.items()} for row in rows if TAGS["sampled"] in row]
    first = next((row["text/success"] for row in rows if "text/success" in row), None)
    return {"curve": curve, "first_batch": first}


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page again; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"cells, with commas: {', '.join(cell.name for cell in CELLS)}")
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS), help="seeds, with commas (default: 0,1,2)")
    args = parser.parse_args(words)
    try:
        pairs = [(cell, seed) for cell in chosen(args.only) for seed in args.seeds]
        todo = [(cell, seed) for cell, seed in pairs if read_record(PLACES, cell, seed)[0] != "current"]
        print(f"{len(pairs) - len(todo)} of {len(pairs)} runs are current, {len(todo)} to do.", flush=True)
        failed = run_all([TimedJob(cell, seed, PLACES, patience(cell)) for cell, seed in todo], width=1)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    write_results(PLACES.table)
    late = [record for cell in chosen(args.only) for record in records_of(PLACES, cell) if not record["passed"]]
    for record in late:
        print(f"not met in time: {record['cell']} seed {record['seed']}")
    return int(bool(failed or late))


if __name__ == "__main__":
    sys.exit(main())
