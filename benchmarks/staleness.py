"""Does the decoupled objective make up for old data? Synchronous runs against runs whose data are four versions old.

    python benchmarks/staleness.py                     # all cells, three seeds each; makes results/staleness.md
    python benchmarks/staleness.py --only plain --seeds 0
    python benchmarks/staleness.py --trial 24000       # short forms of all cells with seed 0; keeps no result

A tiny model sorts six digits (`examples/tiny_sort_grpo.yaml`), four optimizer steps a batch. Runs are deterministic, so
every token of an asynchronous run is exactly `AGE` versions old. A run whose record is current is not made again, and
an interrupted one goes on from its newest checkpoint.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cells import SCORED, SEEDS, Cell
from code_hash import REPOSITORY
from common import FOLDER, RESULTS, named
from jobs import Job
from records import Places, read_record
from runner import command_line, resumable, run_missing, shortened, trial_places
from tables import machine_line, markdown_table

from distrl.base.files import write_atomic

PLACES = Places(RESULTS / "staleness", FOLDER / ".cache" / "staleness", RESULTS / "staleness.md")
AGE = 4
#: Tokens that are learned from, about a hundred updates.
BUDGET = 360_000
EVERY = 20_000
#: Larger than the example's: data must differ from the policy for their age to matter.
LEARNING_RATE = 3e-4
#: Differences of mean success below this are no difference, whatever the seeds say.
LEAST = 0.02
Records = Mapping[str, Sequence[Mapping[str, Any]]]


def cell(name: str, method: str, age: int, *words: str) -> Cell:
    """Runs with data of an age, evaluated on held-out prompts with drawn tokens."""
    overrides = (
        *("backend=serial", "deterministic=true", f"store.max_staleness={age}"),
        *(f"algorithm.learning_rate={LEARNING_RATE}", "algorithm.minibatches=4"),
        f"eval={{every: {EVERY}, episodes: 128, deterministic: false, seed: 0}}",
        *words,
    )
    return Cell(f"staleness-{name}", "sort six digits", method, "tiny_sort_grpo", None, BUDGET, overrides, minutes=3.0)


CELLS: dict[str, Cell] = {
    "synchronous": cell("synchronous", "PPO's clip, fresh data", 0),
    "plain": cell("plain", f"PPO's clip on behavior log-probabilities, age {AGE}", AGE),
    "decoupled": cell("decoupled", f"decoupled, age {AGE}", AGE, "algorithm.name=decoupled_ppo"),
    "versions": cell(
        "versions",
        f"decoupled, proximal policy from versions, age {AGE}",
        AGE,
        "algorithm.name=decoupled_ppo",
        "algorithm.old=versions",
    ),
}


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing and make the page; returns the exit code."""
    only = f"cells, with commas: {', '.join(CELLS)}"
    args = command_line(__doc__, only, "seeds", "jobs", trial="TOKENS").parse_args(words)
    cells, seeds, places = chosen(args.only), args.seeds, PLACES
    if args.trial:
        cells = {name: shortened(one, args.trial) for name, one in cells.items()}
        seeds, places = seeds[:1], trial_places("staleness", args.trial)
    failed = run_missing(places, [(one, seed) for one in cells.values() for seed in seeds], Job, args.jobs)
    found = {name: current(places, one) for name, one in (cells if args.trial else CELLS).items()}
    found = {name: records for name, records in found.items() if records}
    if found:
        write_atomic(places.table, page(found))
        print(f"page: {places.table.relative_to(REPOSITORY)}")
    return int(bool(failed))


def current(places: Places, one: Cell) -> list[dict[str, Any]]:
    """Records of a cell that still hold."""
    read = [read_record(places, one, seed) for seed in SEEDS]
    return [record for state, record in read if state == "current" and record is not None]


def page(found: Records) -> str:
    """The numbers of all runs as Markdown."""
    rows = [
        [
            CELLS[name].method,
            *_success([record["score"] for record in records]),
            _tokens([tokens_to(record["evaluations"], 0.9) for record in records]),
        ]
        for name, records in found.items()
    ]
    curves = {name: mean_curve(records) for name, records in found.items()}
    places = sorted({tokens for curve in curves.values() for tokens in curve})
    steps = [[f"{place:,}", *(_number(curve.get(place)) for curve in curves.values())] for place in places]
    header = ["", f"mean success of the last {SCORED} evaluations", "each seed", "tokens to 0.9, each seed"]
    verdicts = [f"- {claim}: {'reached' if holds else 'not reached'}." for claim, holds in claims(found)]
    newest = max(
        (record for records in found.values() for record in records), key=lambda record: record["machine"]["utc"]
    )
    return "\n".join(
        [
            "# Old data",
            "",
            f"Six digits to sort, 0.6 M parameters, four optimizer steps a batch, learning rate "
            f"{LEARNING_RATE:g}. Every "
            f"token of the asynchronous runs is {AGE} weight versions old. Success on 128 held-out "
            "prompts, drawn tokens.",
            "",
            markdown_table(header, rows),
            "",
            *(verdicts or ["- Not all cells have three seeds yet."]),
            "",
            f"Mean success over seeds at the first evaluation after so many tokens, every {EVERY:,}:",
            "",
            markdown_table(["tokens", *curves], steps),
            "",
            f"Made by `python benchmarks/staleness.py`. {machine_line(newest['machine'])}",
            "",
        ]
    )


def claims(found: Records) -> list[tuple[str, bool]]:
    """What the published result says, and whether it holds here; nothing before all seeds have run."""
    names = ("synchronous", "plain", "decoupled")
    if any(len(found.get(name, ())) < len(SEEDS) for name in names):
        return []
    scores = {name: [record["score"] for record in found[name]] for name in names}
    return [
        ("the decoupled objective on old data stays within noise of synchronous runs",
         not behind(scores["decoupled"], scores["synchronous"])),
        ("PPO's clip on behavior log-probabilities falls behind the decoupled objective",
         behind(scores["plain"], scores["decoupled"])),
    ]  # fmt: skip


def behind(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the mean of one is lower than the other's by two standard errors of their difference, and by `LEAST`."""
    error = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
    return statistics.fmean(other) - statistics.fmean(one) > max(2.0 * error, LEAST)


def mean_curve(records: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Multiple of `EVERY` -> mean success over the seeds that were evaluated there."""
    values: dict[int, list[float]] = {}
    for record in records:
        for tokens, success in record["evaluations"]:
            values.setdefault(int(tokens) // EVERY * EVERY, []).append(success)
    return {tokens: statistics.fmean(values[tokens]) for tokens in sorted(values)}


def tokens_to(evaluations: Sequence[Sequence[float]], success: float) -> int | None:
    """Tokens at the first evaluation with this success, or None."""
    return next((int(tokens) for tokens, mean in evaluations if mean >= success), None)


def _success(scores: Sequence[float | None]) -> tuple[str, str]:
    known = [score for score in scores if score is not None]
    return _number(statistics.fmean(known) if known else None), ", ".join(map(_number, scores))


def _tokens(places: Sequence[int | None]) -> str:
    return ", ".join("never" if place is None else f"{place:,}" for place in places)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def chosen(names: str | None) -> dict[str, Cell]:
    """The cells that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    return dict(named("cell", names, {name: (name, one) for name, one in CELLS.items()}))


if __name__ == "__main__":
    sys.exit(main())
