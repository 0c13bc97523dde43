"""Training throughput against peers, measured in turns on one machine, start-up excluded.

    python benchmarks/throughput.py                    # everything, about half an hour on two quiet cores
    python benchmarks/throughput.py --only a,c         # some comparisons
    python benchmarks/throughput.py --quick            # a short trial whose figures mean little

Sides take turns (A B A B A B), never two at once, and medians are compared. A peer without an environment is set up
first (peers/setup.sh), or left out with --skip-missing. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import FOLDER, PEERS, RESULTS, have_peer, machine_facts, run_peer
from comparisons import GROUPS, Group, Line, Row
from tables import machine_line, markdown_table, text_table

from distrl.base.errors import UserError, unknown
from distrl.base.files import read_json, to_json, write_atomic

HEADER = ["", "comparison", "ours", "peer", "unit", "ratio", "target", "met"]
QUICK_SCALE = 0.2
QUICK_FOLDER = FOLDER / ".cache" / "throughput-quick"


@dataclass
class Measured:
    """Result lines of a group by side, in run order; `missing`: sides without a program."""

    lines: dict[str, list[Line]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    args = parse(words)
    folder = QUICK_FOLDER if args.quick else RESULTS
    try:
        names = args.only.split(",") if args.only else list(GROUPS)
        for name in names:
            if name not in GROUPS:
                raise UserError(unknown("comparison", name, GROUPS))
        absent = provide_peers([GROUPS[name] for name in names], args.skip_missing)
        warn_if_busy()
        found: list[dict[str, Any]] = []
        for name in names:
            measured = measure(name, GROUPS[name], args, absent)
            rows = [result_of(name, row, GROUPS[name], measured) for row in GROUPS[name].rows if usable(row, measured)]
            found += rows
            if rows:
                keep(folder, rows)  # after every group: an interrupted benchmark keeps what it has
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the comparisons that had ended are kept.", file=sys.stderr)
        return 130
    print(text_table(HEADER, [table_row(row) for row in found]))
    return 0 if args.quick else int(not all(row["met"] for row in found))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"comparisons, with commas: {', '.join(GROUPS)}")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; f always takes 5 seeds")
    parser.add_argument("--quick", action="store_true", help="one short run of each side; keeps no result")
    parser.add_argument("--skip-missing", action="store_true", help="leave out peers that are not set up")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one run may take")
    return parser.parse_args(words)


def provide_peers(groups: Sequence[Group], skip: bool) -> set[str]:
    """Set up missing peers; returns those that stay missing.

    Raises:
        UserError: An environment could not be made.
    """
    absent = {side.program for group in groups for side in group.sides.values() if not have_peer(side.program)}
    if skip:
        for program in sorted(absent):
            print(f"skipped: {program} is not set up (benchmarks/peers/setup.sh {PEERS[program].venv}).", flush=True)
        return absent
    for program in sorted(absent):
        command = [str(FOLDER / "peers" / "setup.sh"), str(PEERS[program].venv)]
        if subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}).returncode:
            raise UserError(f"{program} could not be set up.", "Mend it, or leave it out with --skip-missing.")
    return set()


def warn_if_busy() -> None:
    """Timings beside other work are worth nothing."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: this machine has been busy (load {load:.1f} over the last minute).", file=sys.stderr)


def measure(name: str, group: Group, args: argparse.Namespace, absent: set[str]) -> Measured:
    """Run all sides of a group in turns; the seed is the number of the turn, from 1."""
    measured = Measured(missing={side for side, what in group.sides.items() if what.program in absent})
    repeats = 1 if args.quick else group.repeats or args.repeats
    scale = QUICK_SCALE if args.quick and group.repeats is None else 1.0
    for turn in range(1, repeats + 1):
        for side, what in group.sides.items():
            if side in measured.missing:
                continue
            line = run_peer(what.program, *what.command(turn, scale), timeout=args.timeout)
            measured.lines.setdefault(side, []).append(line)
            speed, updates = line["steps_per_second"], line.get("gradient_steps_per_second")
            shown = "too short to measure" if speed is None else f"{speed:,.0f} steps/s"
            shown += f", {updates:,.0f} updates/s" if updates else ""
            print(f"{name} {side} {turn}/{repeats}: {shown}, {line['train_seconds']:.1f} s", flush=True)
    return measured


def usable(row: Row, measured: Measured) -> bool:
    """True if both sides of a row were run."""
    return not measured.missing & {row.ours, row.peer}


def result_of(name: str, row: Row, group: Group, measured: Measured) -> dict[str, Any]:
    """One row of the results, with everything it follows from."""
    sides = [side for side in (row.ours, row.peer) if side is not None]
    values = {side: [row.metric(line) for line in measured.lines[side]] for side in sides}
    medians = {side: statistics.median(values[side]) for side in sides}
    figure = medians[row.ours] if row.peer is None else medians[row.ours] / medians[row.peer]
    return {
        "key": name,
        "label": row.label,
        "unit": row.unit,
        "ours": finite(medians[row.ours]),
        "peer": None if row.peer is None else finite(medians[row.peer]),
        "peer_name": None if row.peer is None else group.sides[row.peer].program,
        "ratio": None if row.peer is None else finite(figure),
        "target": row.target,
        "goal": row.goal,
        "at_most": row.at_most,
        "met": row.met(figure),
        "values": {side: [finite(value) for value in values[side]] for side in sides},
        "commands": {side: shown_command(group, side) for side in sides},
        "versions": {side: measured.lines[side][0]["versions"] for side in sides},
        "machine": machine_facts(),
    }


def finite(value: float) -> float | None:
    """Replace infinity and NaN, which JSON lacks, by None."""
    return value if math.isfinite(value) else None


def shown_command(group: Group, side: str) -> str:
    """The script and its arguments, paths relative to the repository."""
    what = group.sides[side]
    words = [word.removeprefix(f"{FOLDER.parent}/") for word in what.command(1)]
    return " ".join([f"benchmarks/peers/{PEERS[what.program].script}", *words])


def keep(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Merge rows into throughput.json by key, and write the table."""
    path = folder / "throughput.json"
    known = {(row["key"], row["label"]): row for row in (read_json(path)["rows"] if path.is_file() else [])}
    known |= {(row["key"], row["label"]): row for row in rows}
    ordered = [known[key] for key in sorted(known)]
    write_atomic(path, to_json({"rows": ordered}, indent=1) + "\n")
    write_atomic(folder / "throughput.md", page(ordered))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    machines = sorted({machine_line(row["machine"]).rsplit(";", 1)[0] for row in rows})
    return (
        "# Throughput\n\nWritten by `make throughput` from `results/throughput.json`: CartPole-v1 unless a row names "
        "another, medians, both sides in turns on the\nsame machine. The clock runs from the end of the first update "
        "to the end of the last.\n\n"
        + markdown_table(HEADER, [table_row(row) for row in rows])
        + "\n\n"
        + "".join(f"- {line}\n" for line in machines)
    )


def table_row(row: dict[str, Any]) -> list[str]:
    """A result as table cells."""
    sign = "<=" if row["at_most"] else ">="
    share = row["peer_name"] is None
    target = f"{sign} {row['target']:.0%}" if share else f"{sign} {row['target']:g}x"
    if row["goal"] is not None:
        target += f" (goal {row['goal']:g}x)"
    ratio = "" if share else "-" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    peer = "" if share else f"{number(row['peer'], row['unit'])} ({row['peer_name']})"
    met = "yes" if row["met"] else "no"
    return [row["key"], row["label"], number(row["ours"], row["unit"]), peer, row["unit"], ratio, target, met]


def number(value: float | None, unit: str) -> str:
    """A figure as people read it."""
    if value is None:
        return "never"
    return f"{value:,.0f}" if unit.endswith("/s") else f"{value:.1f}" if unit == "s" else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
