"""Learning benchmark: does each algorithm reach its gate within its budget, on three seeds?

    python benchmarks/learning.py --list                        # cells and the state of their records
    python benchmarks/learning.py --only ppo-cartpole           # one cell
    python benchmarks/learning.py --jobs 2                      # all of them, two at a time

A run whose record is current is not made again; one that was interrupted goes on from its newest checkpoint. Exit
code 1: a gate was missed, or a run failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from cell_table import CELLS, choose
from cells import SEEDS, Cell
from common import FOLDER
from jobs import Job
from records import Places, header, meets, outcome, own_seeds, read_record, result_rows, write_table
from tables import text_table

from distrl.base.errors import UserError

POLL_SECONDS = 0.2
#: A run counts as hung after this many times its usual processor time, and never before an hour.
PATIENCE = 5.0
LEAST_TIMEOUT = 3600.0


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    args = parse(words)
    try:
        cells, places = choose(args.only), Places()
        if args.trial:
            cells = [replace(cell, budget=min(args.trial, cell.budget)) for cell in cells]
            places = trial_places(args.trial)
        if args.list:
            print(listing(places, cells, args.seeds))
            return 0
        wanted = [(cell, seed) for cell in cells for seed in own_seeds(cell, args.seeds)]
        todo = [(cell, seed) for cell, seed in wanted if args.force or read_record(places, cell, seed)[0] != "current"]
        print(f"{len(wanted) - len(todo)} of {len(wanted)} runs are current, {len(todo)} to do.", flush=True)
        todo.sort(key=lambda pair: -pair[0].minutes)  # so that no long one is left for the end
        jobs = [Job(cell, seed, places, args.timeout or patience(cell), args.force) for cell, seed in todo]
        failed = run_all(jobs, args.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    print(text_table(header(args.seeds), result_rows(places, cells, args.seeds)))
    write_table(places, CELLS if not args.trial else cells, SEEDS if not args.trial else args.seeds)
    print(f"table: {places.table.relative_to(FOLDER.parent)}")
    return int(bool(failed) or not all(meets(places, cell, own_seeds(cell, args.seeds)) for cell in cells))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"cells, with commas: {', '.join(cell.name for cell in CELLS)}")
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS), help="with commas; default 0,1,2")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="runs at a time")
    parser.add_argument("--list", action="store_true", help="show the state of every run and stop")
    parser.add_argument("--force", action="store_true", help="make current records again, from the start")
    parser.add_argument(
        "--timeout", type=float, help="seconds that one run may take; default: by the cell, an hour or more"
    )
    parser.add_argument("--trial", type=int, metavar="STEPS", help="cut budgets to STEPS; keeps no result")
    return parser.parse_args(words)


def patience(cell: Cell) -> float:
    """Seconds after which a run of a cell counts as hung."""
    return max(LEAST_TIMEOUT, PATIENCE * 60 * cell.minutes)


def numbers(text: str) -> list[int]:
    """`0,1,2` as a list."""
    return [int(word) for word in text.split(",")]


def trial_places(steps: int) -> Places:
    """Records of a trial stay out of the results."""
    folder = FOLDER / ".cache" / f"learning-trial-{steps}"
    return Places(folder / "records", folder / "runs", folder / "learning.md")


def listing(places: Places, cells: Sequence[Cell], seeds: Sequence[int]) -> str:
    """Every run with the state of its record."""
    rows = []
    for cell in cells:
        for seed in own_seeds(cell, seeds):
            try:
                state, record = read_record(places, cell, seed)
            except UserError as error:
                rows.append([cell.name, str(seed), "broken", str(error)])
                continue
            rows.append([cell.name, str(seed), state, outcome(cell, state, record)])
    return text_table(["cell", "seed", "record", "steps to the gate"], rows)


def run_all(jobs: Sequence[Job], width: int) -> list[Job]:
    """Run all jobs, `width` at a time; returns those that failed.

    Raises:
        KeyboardInterrupt: Interrupted; every run has saved a checkpoint, if it had learned anything.
    """
    waiting, running, failed = deque(jobs), list[Job](), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < width:
                job = waiting.popleft()
                job.start()
                running.append(job)
                print(f"{job.name}: {'resumed' if job.resumed else 'started'}", flush=True)
            time.sleep(POLL_SECONDS)
            for job in [job for job in running if job.ended()]:
                running.remove(job)
                if job.again:
                    waiting.appendleft(job)
                elif job.problem:
                    failed.append(job)
                print(f"{job.name}: {job.report}", flush=True)
    finally:
        for job in running:
            job.interrupt()
        for job in running:
            job.wait_or_kill()
    return failed


if __name__ == "__main__":
    sys.exit(main())
