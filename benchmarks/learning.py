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
from collections.abc import Sequence

from cell_table import CELLS, choose
from cells import SEEDS, Cell
from common import FOLDER
from jobs import Job
from records import Places, header, meets, outcome, own_seeds, read_record, result_rows, write_table
from runner import command_line, longest_first, resumable, run_missing, shortened, trial_places
from tables import text_table

from distrl.base.errors import UserError


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Make missing records; returns the exit code."""
    args = parse(words)
    cells, places = choose(args.only), Places()
    if args.trial:
        cells = [shortened(cell, args.trial) for cell in cells]
        places = trial_places("learning", args.trial)
    if args.list:
        print(listing(places, cells, args.seeds))
        return 0
    pairs = longest_first([(cell, seed) for cell in cells for seed in own_seeds(cell, args.seeds)])
    failed = run_missing(places, pairs, Job, args.jobs, args.timeout, args.force)
    print(text_table(header(args.seeds), result_rows(places, cells, args.seeds)))
    write_table(places, CELLS if not args.trial else cells, SEEDS if not args.trial else args.seeds)
    print(f"table: {places.table.relative_to(FOLDER.parent)}")
    return int(bool(failed) or not all(meets(places, cell, own_seeds(cell, args.seeds)) for cell in cells))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = ", ".join(cell.name for cell in CELLS)
    parser = command_line(__doc__, f"cells, with commas: {names}", "seeds", "jobs", "list", trial="STEPS")
    parser.add_argument("--force", action="store_true", help="make current records again, from the start")
    parser.add_argument(
        "--timeout", type=float, help="seconds that one run may take; default: by the cell, an hour or more"
    )
    return parser.parse_args(words)


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


if __name__ == "__main__":
    sys.exit(main())
