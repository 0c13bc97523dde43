"""Runner of all benchmarks with records: makes the missing ones and reports."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from cells import SEEDS, Cell
from common import FOLDER
from jobs import Job
from records import Places, read_record

from distrl.base.errors import UserError

POLL_SECONDS = 0.2
#: A run counts as hung after this many times its usual processor time, and never before an hour.
PATIENCE = 5.0
LEAST_TIMEOUT = 3600.0
#: Exit code of a command that was interrupted.
INTERRUPTED = 130

C = TypeVar("C", bound=Cell)


def resumable(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """Wrap a command: interrupts and user errors end it with a message and an exit code."""

    @functools.wraps(main)
    def guarded(words: Sequence[str] | None = None) -> int:
        try:
            return main(words)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoints.", file=sys.stderr)
            return INTERRUPTED

    return guarded


def command_line(
    doc: str | None,
    only: str,
    *options: Literal["seeds", "jobs", "list"],
    trial: str = "",
    seeds: Sequence[int] = SEEDS,
) -> argparse.ArgumentParser:
    """A parser with the options that benchmarks share.

    Args:
        doc: The script's own explanation.
        only: What `--only` chooses from.
        options: Which of the others it has.
        trial: What `--trial` counts; empty: there is none.
        seeds: Those that are run when none are named.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=only)
    if "seeds" in options:
        parser.add_argument(
            "--seeds", type=numbers, default=list(seeds), help=f"with commas; default {','.join(map(str, seeds))}"
        )
    if "jobs" in options:
        parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="runs at a time")
    if "list" in options:
        parser.add_argument("--list", action="store_true", help="show the state of every run and stop")
    if trial:
        parser.add_argument("--trial", type=int, metavar=trial, help=f"cut budgets to {trial}; keeps no result")
    return parser


def numbers(text: str) -> list[int]:
    """`0,1,2` as a list."""
    return [int(word) for word in text.split(",")]


def trial_places(name: str, steps: int) -> Places:
    """Records of a trial stay out of the results."""
    folder = FOLDER / ".cache" / f"{name}-trial-{steps}"
    return Places(folder / "records", folder / "runs", folder / f"{name}.md")


def shortened(cell: C, steps: int) -> C:
    """The cell of a trial."""
    return replace(cell, budget=min(steps, cell.budget))


def patience(cell: Cell) -> float:
    """Seconds after which a run of a cell counts as hung."""
    return max(LEAST_TIMEOUT, PATIENCE * 60 * cell.minutes)


def longest_first(pairs: Sequence[tuple[C, int]]) -> list[tuple[C, int]]:
    """The same runs in an order that leaves no long one for the end."""
    return sorted(pairs, key=lambda pair: -pair[0].minutes)


def run_missing(
    places: Places,
    pairs: Sequence[tuple[Cell, int]],
    job: type[Job],
    width: int = 1,
    timeout: float | None = None,
    force: bool = False,
) -> list[Job]:
    """Make the record of every run that has no current one; returns the jobs that failed.

    Args:
        pairs: Cells and seeds, in the order in which they are to be run.
        job: How they are run.
        width: How many at a time.
        timeout: Seconds that one may take; default: by the cell.
        force: Make current records again, from the start.

    Raises:
        KeyboardInterrupt: Interrupted; every run has saved a checkpoint, if it had learned anything.
        UserError: A cell's example is missing or wrong.
    """
    todo = [(cell, seed) for cell, seed in pairs if force or read_record(places, cell, seed)[0] != "current"]
    print(f"{len(pairs) - len(todo)} of {len(pairs)} runs are current, {len(todo)} to do.", flush=True)
    return run_all([job(cell, seed, places, timeout or patience(cell), force) for cell, seed in todo], width)


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
