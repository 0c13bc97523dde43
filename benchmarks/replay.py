"""The replay against other replays, in turns on one machine.

Batches of 256, observations of 17 numbers, insertion in blocks of 16.

Two shards in processes of their own, on Ray, are measured against a Reverb server: Reverb takes transitions one by one
(its `writer`) and gives batches through its dataset; a shard takes fragments of 16 steps of 16 environments, as
samplers make them, eight an update, and gives a batch a request, as to a learner that owes one gradient step, or 16
batches a request, as to one that owes more. Reverb's dataset asks ahead, so its batches a second are compared with the
latter; one batch a request is a latency, shown without a target.

    benchmarks/peers/setup_replay.sh all
    python benchmarks/replay.py

Writes results/replay.json and results/replay.md. Exit code 1: a target was missed. Peers that are not set up are left
out and named.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import PEERS, RESULTS, Peer, have_peer, machine_facts, run_peer
from tables import machine_line, markdown_table, text_table

from distrl.base.files import to_json, write_atomic

SIDES = {
    "ours": Peer("replay_ours.py"),
    "shards": Peer("replay_shards.py"),
    **{name: Peer(f"replay_{name}.py", f"replay-{name}") for name in ("sb3", "tianshou", "torchrl", "cpprb", "reverb")},
}
OURS = ("ours", "shards")
HEADER = ["task", "ours", "best peer", "ratio", "target", "met", "all peers"]


@dataclass(frozen=True)
class Task:
    """One comparison: seconds of our calls against the least seconds of a peer's; `side` is the script of ours."""

    label: str
    ours: tuple[str, ...]
    peers: tuple[str, ...]
    target: float | None
    side: str = "ours"


TASKS = (
    Task("insert 16 transitions", ("insert",), ("insert",), 1.0),
    Task("sample", ("sample",), ("sample",), 1.0),
    Task(
        "prioritized sample + update, numpy",
        ("prioritized_sample", "prioritized_update"),
        ("prioritized_sample", "prioritized_update"),
        0.6,
    ),
    Task(
        "prioritized sample + update, compiled",
        ("compiled_sample", "compiled_update"),
        ("prioritized_sample", "prioritized_update"),
        1.0,
    ),
    Task("2 processes: insert a transition", ("insert_one",), ("insert_one",), 10.0, "shards"),
    Task("2 processes: sample, one batch a request", ("remote_sample",), ("remote_sample",), None, "shards"),
    Task("2 processes: sample, 16 batches a request", ("remote_together",), ("remote_sample",), 10.0, "shards"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; medians are compared")
    args = parser.parse_args(words)
    PEERS.update({f"replay-{name}": peer for name, peer in SIDES.items()})
    present = [name for name in SIDES if have_peer(f"replay-{name}")]
    for name in sorted(set(SIDES) - set(present)):
        print(f"skipped: {name} is not set up (benchmarks/peers/setup_replay.sh {name}).", flush=True)
    lines: dict[str, list[dict[str, Any]]] = {name: [] for name in present}
    for turn in range(args.repeats):
        for name in present:
            lines[name].append(run_peer(f"replay-{name}"))
            print(f"{name} {turn + 1}/{args.repeats}", flush=True)
    rows = [row for task in TASKS if (row := compare(task, lines)) is not None]
    versions = {name: found[0]["versions"] for name, found in lines.items()}
    machine = machine_facts()
    write_atomic(RESULTS / "replay.json", to_json({"machine": machine, "versions": versions, "rows": rows}, indent=1))
    table = [table_row(row) for row in rows]
    page = "# Replay\n\nWritten by `python benchmarks/replay.py`: microseconds of one call, medians, sides in turns on "
    page += f"one machine. Batch 256, observation 17.\n\n{markdown_table(HEADER, table)}\n\n- {machine_line(machine)}\n"
    write_atomic(RESULTS / "replay.md", page)
    print(text_table(HEADER, table))
    return int(not all(row["met"] for row in rows))


def compare(task: Task, lines: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """A row of the results; None where a side of the task is missing."""
    ours = median(lines[task.side], task.ours)
    found = {name: median(lines[name], task.peers) for name in lines if name not in OURS}
    peers = {name: value for name, value in found.items() if value is not None}
    if ours is None or not peers:
        return None
    best = min(peers, key=peers.__getitem__)
    ratio = peers[best] / ours
    return {
        "task": task.label,
        "ours": ours,
        "peers": peers,
        "best": best,
        "ratio": ratio,
        "target": task.target,
        "met": task.target is None or ratio >= task.target,
    }


def median(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> float | None:
    """The median over runs of the summed seconds of some calls."""
    if any(name not in line["seconds"] for line in lines for name in names):
        return None
    return statistics.median(sum(line["seconds"][name] for name in names) for line in lines)


def table_row(row: dict[str, Any]) -> list[str]:
    """A row as people read it, in microseconds."""
    peers = ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in row["peers"].items())
    return [
        row["task"],
        f"{row['ours'] * 1e6:.1f}",
        f"{row['peers'][row['best']] * 1e6:.1f} ({row['best']})",
        f"{row['ratio']:.2f}x",
        "-" if row["target"] is None else f">= {row['target']:g}x",
        "-" if row["target"] is None else "yes" if row["met"] else "no",
        peers,
    ]


if __name__ == "__main__":
    sys.exit(main())
