"""Costs and gains of elasticity: joining samplers, slow streams, heavy-tailed step times.

    python benchmarks/elastic.py

Environments sleep and networks are tiny, so that only the system is measured. Each run is made on a small Ray cluster
that the script starts and ends. Writes results/elastic.json and results/elastic.md. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, machine_facts, write_result
from elastic_runs import Bench, Run
from tables import machine_line, markdown_table, text_table

from distrl.base.files import write_atomic

HEADER = ["line", "figure", "target", "met", "how"]
SETTLE_SECONDS = 5.0  # after the last newcomer hosts streams: its first fragments begin with replayed actions
SLOW_STREAM = 5
STEP_SECONDS = 0.005


def environment(streams: int, **kwargs: Any) -> dict[str, Any]:
    """One sleeping environment a stream."""
    return {"id": "sleepers:SleepEnv", "num_envs": streams, "streams": streams, "kwargs": kwargs}


# ---- the lines -------------------------------------------------------------------------------------------------------


def scaling(bench: Bench, turn: int) -> dict[str, float]:
    """8 streams at 5 ms a step, 1 sampler and then 4 by command."""
    marks: list[float] = []

    def during(run: Run) -> None:
        time.sleep(bench.seconds(15))
        marks.append(time.monotonic())
        run.tell("scale", 4)
        run.wait_for(lambda times: times.lines[-1]["hosting"] == 4)
        marks.append(time.monotonic() + SETTLE_SECONDS)
        time.sleep(SETTLE_SECONDS + bench.seconds(15))

    times = bench.run(during, seed=1 + turn, env=environment(8, seconds=STEP_SECONDS), store={"max_staleness": 1})
    one, four = times.rate(0, marks[0]), times.rate(marks[1])
    before, around = times.longest_gap(0, marks[0]), times.longest_gap(marks[0], marks[1])
    return {"one": one, "four": four, "ratio": four / one, "wait_before_s": before, "wait_around_s": around}


def slow_stream(bench: Bench, turn: int) -> dict[str, float]:
    """Compare 16 streams at 5 ms per step with and without one at 1 s per step."""
    rates = []
    for slow in (-1, SLOW_STREAM):
        times = bench.run(
            lambda run: time.sleep(bench.seconds(45)),
            seed=1 + turn,
            env=environment(16, seconds=STEP_SECONDS, slow_stream=slow, run_seed=1 + turn),
            samplers={"count": 4},
            store={"max_staleness": 1},
        )
        span = times.lines[-1]["time"] - times.lines[0]["time"]
        # What the slow stream made, consumed or not, is at most what it has begun.
        own = 16 * times.lines[-1]["next_fragments"][SLOW_STREAM] / span
        rates.append(times.rate() - own if slow >= 0 else times.rate() * 15 / 16)
        named = [event["facts"]["stream"] for event in times.events if event["kind"] == "slow"]
    usual, beside = rates
    return {"usual": usual, "beside": beside, "ratio": beside / usual, "named": float(named == [SLOW_STREAM])}


def asynchronous(bench: Bench, turn: int, sigma: float, streams: int) -> dict[str, float]:
    """4 samplers with max_staleness 0, then 2."""
    rates = []
    for staleness in (0, 2):
        times = bench.run(
            lambda run: time.sleep(bench.seconds(25)),
            seed=1 + turn,
            env=environment(streams, seconds=STEP_SECONDS, sigma=sigma),
            samplers={"count": 4},
            store={"max_staleness": staleness},
        )
        rates.append(times.rate())
    return {"synchronous": rates[0], "asynchronous": rates[1], "ratio": rates[1] / rates[0]}


@dataclass(frozen=True)
class Line:
    """A line of the results: a figure of a measurement against a target."""

    label: str
    measure: str
    figure: Callable[[dict[str, float]], float]
    target: float
    how: Callable[[dict[str, float]], str]
    at_most: bool = False


MEASURES: dict[str, Callable[[Bench, int], dict[str, float]]] = {
    "scaling": scaling,
    "slow stream": slow_stream,
    "heavy tail": lambda bench, turn: asynchronous(bench, turn, 1.5, 4),
    "equal": lambda bench, turn: asynchronous(bench, turn, 0.0, 4),
}


def rates(*names: str) -> Callable[[dict[str, float]], str]:
    """Steps per second in words."""
    return lambda found: ", ".join(f"{name} {found[name]:,.0f} steps/s" for name in names)


LINES = (
    Line("1 -> 4 samplers, throughput", "scaling", lambda f: f["ratio"], 2.5, rates("one", "four")),
    Line(
        "1 -> 4 samplers, longest wait beyond that before, s",
        "scaling",
        lambda f: f["wait_around_s"] - f["wait_before_s"],
        2.0,
        lambda f: f"before {f['wait_before_s']:.2f} s, around {f['wait_around_s']:.2f} s",
        at_most=True,
    ),
    Line(
        "1 of 16 streams at 1 s a step, the others", "slow stream", lambda f: f["ratio"], 0.9, rates("usual", "beside")
    ),
    Line("and it is named", "slow stream", lambda f: f["named"], 1.0, lambda f: "event slow"),
    Line(
        "max_staleness 2 against 0, heavy tail",
        "heavy tail",
        lambda f: f["ratio"],
        1.8,
        rates("synchronous", "asynchronous"),
    ),
    Line(
        "max_staleness 2 against 0, equal times",
        "equal",
        lambda f: f["ratio"],
        0.95,
        rates("synchronous", "asynchronous"),
    ),
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; medians count")
    parser.add_argument("--only", help=f"some of {', '.join(MEASURES)}, by commas; writes no results")
    parser.add_argument(
        "--short", type=float, default=1.0, help="divides all seconds, to try it out; writes no results"
    )
    args = parser.parse_args(words)
    chosen = args.only.split(",") if args.only else list(MEASURES)
    found = measure(chosen, args.repeats, args.short)
    rows = [row(line, found[line.measure]) for line in LINES if line.measure in found]
    table = [[str(value) for value in shown(entry)] for entry in rows]
    print(text_table(HEADER, table))
    if not args.only and args.short == 1.0:
        write_result("elastic", {"repeats": args.repeats, "rows": rows, "measured": found})
        write_atomic(RESULTS / "elastic.md", page(table))
    return int(not all(entry["met"] for entry in rows))


def measure(chosen: Sequence[str], repeats: int, short: float) -> dict[str, list[dict[str, float]]]:
    """Figures of every repeat of every measurement."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="elastic-"))
    # The lent CPUs are more than there are: environments sleep.
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    try:
        bench = Bench(folder, ray.get_runtime_context().gcs_address, short)
        for turn in range(repeats):
            for name in chosen:
                found[name].append(MEASURES[name](bench, turn))
                print(f"{turn + 1}/{repeats} {name}: {found[name][-1]}", flush=True)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def row(line: Line, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The median figure, and the repeat that it was measured in."""
    middle = statistics.median_low(line.figure(figures) for figures in found)
    figures = next(figures for figures in found if line.figure(figures) == middle)
    met = middle <= line.target if line.at_most else middle >= line.target
    return {
        "line": line.label,
        "figure": middle,
        "target": line.target,
        "at_most": line.at_most,
        "met": met,
        "how": line.how(figures),
    }


def shown(entry: dict[str, Any]) -> list[str]:
    """A row as people read it."""
    sign = "<=" if entry["at_most"] else ">="
    yes = "yes" if entry["met"] else "no"
    return [entry["line"], f"{entry['figure']:.2f}", f"{sign} {entry['target']:g}", yes, entry["how"]]


def page(table: Sequence[Sequence[str]]) -> str:
    return (
        "# Elastic\n\nWritten by `python benchmarks/elastic.py`: consumed steps per second of runs whose environments "
        "sleep 5 ms a step, medians of repeats.\nHeavy tail: the step time is drawn per episode of 50 steps, "
        "log-normal with sigma 1.5 and mean 5 ms.\n\n"
        f"{markdown_table(HEADER, table)}\n\n- {machine_line(machine_facts())}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
