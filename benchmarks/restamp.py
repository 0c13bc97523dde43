"""Carry learning records over a change of code that computes the same numbers.

    python benchmarks/restamp.py --before before.json --after after.json --before-tree ../before --dry-run
    python benchmarks/restamp.py --before before.json --after after.json --before-tree ../before

`before.json` and `after.json` are fingerprints (`fingerprints.py --out`) of the two versions, and `--before-tree`
is a checkout of the older one. A record gets the present hashes of code and config if it was current in that checkout
and its cell has the same fingerprint in both files. All others are listed. Exit code 1: some record stays stale.

A fingerprint covers names of parameters and of what is published with them. `--accept CELL` is for a cell whose
fingerprint differs by a new name alone: put the old name back, and compare, before you use it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cell_table
import method_cells
import pretrained_cells
import results_page
import risk_studies
import staleness
from cells import Cell
from code_hash import REPOSITORY
from records import Places, read_record, write_record

from distrl.base.files import read_json

#: Lists the state of every record of a checkout, with its own code: {record file: state}.
LISTING = """
import json, sys
sys.path.insert(0, "benchmarks")
import cell_table, method_cells, pretrained_cells, results_page, risk_studies, staleness
from records import Places, read_record
benches = [
    (Places(), cell_table.CELLS),
    (method_cells.PLACES, method_cells.method_cells()),
    (pretrained_cells.PLACES, pretrained_cells.CELLS),
    (results_page.RISK, [cell for study in risk_studies.STUDIES for cell in study.cells.values()]),
    (staleness.PLACES, list(staleness.CELLS.values())),
]
runs = [(places, cell, seed) for places, cells in benches for cell in cells for seed in cell.seeds]
print(json.dumps({"/".join(p.record(c, s).parts[-2:]): read_record(p, c, s)[0] for p, c, s in runs}))
"""


@dataclass(frozen=True)
class Run:
    """A cell with a seed, and its bench."""

    bench: str
    places: Places
    cell: Cell
    seed: int

    @property
    def file(self) -> str:
        """Folder and name of the record."""
        return "/".join(self.places.record(self.cell, self.seed).parts[-2:])

    @property
    def setting(self) -> str:
        """Name of the fingerprint of its cell."""
        return f"cell/{self.bench}/{self.cell.name}"


def main(words: Sequence[str] | None = None) -> int:
    """Restamp what may be restamped; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="fingerprints of the older version")
    parser.add_argument("--after", type=Path, required=True, help="fingerprints of this version")
    parser.add_argument("--before-tree", type=Path, required=True, help="checkout of the older version")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="a cell with another name")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="CELL",
        help="a cell whose fingerprint may differ: only names do",
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args(words)
    old_names = {new: old for old, _, new in (word.partition("=") for word in args.renamed)}
    states = states_of(args.before_tree.resolve())
    before, after = read_json(args.before), read_json(args.after)
    after |= {name: before[name] for name in before if name.split("/")[-1] in args.accept}
    found = restamp(runs(), states, before, after, old_names, args.dry_run)
    for result in sorted(set(found.values())):
        files = sorted(file for file, one in found.items() if one == result)
        print(f"{len(files)} records: {result}")
        print("".join(f"  {file}\n" for file in files if result not in GOOD), end="")
    return int(any(result not in GOOD for result in found.values()))


def runs() -> list[Run]:
    """All runs of benches that keep records."""
    benches: dict[str, tuple[Places, Sequence[Cell]]] = {
        "learning": (Places(), cell_table.CELLS),
        "methods": (method_cells.PLACES, method_cells.method_cells()),
        "pretrained": (pretrained_cells.PLACES, pretrained_cells.CELLS),
        "risk": (results_page.RISK, [cell for study in risk_studies.STUDIES for cell in study.cells.values()]),
        "staleness": (staleness.PLACES, list(staleness.CELLS.values())),
    }
    return [
        Run(bench, places, cell, seed)
        for bench, (places, cells) in benches.items()
        for cell in cells
        for seed in cell.seeds
    ]


def states_of(tree: Path) -> dict[str, str]:
    """State of every record of a checkout, by its own hashes: {record file: state}."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", LISTING], cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


CURRENT, STAMPED = "current already", "restamped"
GOOD = (CURRENT, STAMPED)


def restamp(
    todo: Sequence[Run],
    states: Mapping[str, str],
    before: Mapping[str, str],
    after: Mapping[str, str],
    old_names: Mapping[str, str],
    dry_run: bool = False,
) -> dict[str, str]:
    """Restamp records: {record file: result}.

    Args:
        todo: Runs of the present version.
        states: Result of `states_of`.
        before, after: Fingerprints.
        old_names: Present name of a cell -> its name in the older version, where they differ.
    """
    found = {}
    for run in todo:
        old = old_names.get(run.cell.name, run.cell.name)
        old_path = run.places.records / f"{old}-seed{run.seed}.json"
        setting = f"cell/{run.bench}/{old}"
        hashes = before.get(setting), after.get(run.setting, after.get(setting))
        state = read_record(run.places, run.cell, run.seed)[0]
        if state == "current":
            result = CURRENT
        elif not old_path.is_file():
            result = "no record"
        elif states.get("/".join(old_path.parts[-2:])) != "current":
            result = "stale in the older version"
        elif None in hashes:
            result = "no fingerprint"
        elif hashes[0] != hashes[1] or not str(hashes[0]).isalnum():
            result = "other numbers"
        else:
            result = STAMPED
            if not dry_run:
                record = read_json(old_path) | {"cell": run.cell.name, **run.cell.hashes(run.seed)}
                write_record(run.places, run.cell, run.seed, record)
                if old_path != run.places.record(run.cell, run.seed):
                    old_path.unlink()
        found[run.file] = result
    return found


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main())
