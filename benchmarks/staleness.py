"""The decoupled objective on old data: synchronous runs against data four versions old.

    python benchmarks/staleness.py                     # all cells, six seeds each; makes results/staleness.md
    python benchmarks/staleness.py --only plain --seeds 0
    python benchmarks/staleness.py --trial 24000       # short forms of all cells with seed 0; keeps no result

A tiny model finds two digits with a given sum (`examples/tiny_pairs_grpo.yaml`), eight optimizer steps a batch. Runs
are deterministic, so every token of an asynchronous run is exactly `AGE` versions old. A seed gives the same pretrained
model to every cell, so cells are compared seed by seed. A run whose record is current is not made again, and an
interrupted one goes on from its newest checkpoint.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cells import Cell
from code_hash import REPOSITORY
from common import FOLDER, RESULTS, named
from jobs import Job
from records import Places, read_record
from runner import command_line, resumable, run_missing, shortened, trial_places
from tables import machine_line, markdown_table

from distrl.base.files import write_atomic

PLACES = Places(RESULTS / "staleness", FOLDER / ".cache" / "staleness", RESULTS / "staleness.md")
SEEDS = (0, 1, 2, 3, 4, 5)
AGE = 4
#: Tokens that are learned from, about 85 updates, and between evaluations.
BUDGET, EVERY = 60_000, 5_000
#: Many small steps inside a narrow clip: a batch moves the policy as far as the clip lets it, so that it matters what
#: the clip is around. With the clip at 0.2 the order of the methods was the same and their distance smaller. At
#: a learning rate of 3e-4 (four steps a batch) the decoupled objective was unsteady on data of this age and ended below
#: PPO's clip; at 5e-4 every objective was.
LEARNING_RATE, MINIBATCHES, CLIP = 1e-4, 8, 0.05
#: Differences of mean success below this are no difference, whatever the seeds say.
LEAST = 0.02
Records = Mapping[str, Sequence[Mapping[str, Any]]]


def cell(name: str, method: str, age: int, objective: str, *words: str) -> Cell:
    """Runs with data of an age, evaluated on held-out prompts with drawn tokens."""
    overrides = (
        *("backend=serial", "deterministic=true", f"store.max_staleness={age}"),
        *(f"algorithm.learning_rate={LEARNING_RATE}", f"algorithm.minibatches={MINIBATCHES}"),
        f"algorithm.objective={{name: {objective}, clip_low: {CLIP}, clip_high: {CLIP}}}",
        f"eval={{every_tokens: {EVERY}, episodes: 128, deterministic: false, seed: 0}}",
        *words,
    )
    name = f"staleness-{name}"
    return Cell(name, "two digits", method, "tiny_pairs_grpo", None, BUDGET, overrides, seeds=SEEDS, minutes=0.5)


CELLS: dict[str, Cell] = {
    "synchronous": cell("synchronous", "PPO's clip, fresh data", 0, "token_ppo"),
    "plain": cell("plain", f"PPO's clip on behavior log-probabilities, age {AGE}", AGE, "token_ppo"),
    "decoupled": cell("decoupled", f"decoupled, age {AGE}", AGE, "decoupled_ppo", "algorithm.name=decoupled_ppo"),
    "versions": cell(
        "versions",
        f"decoupled, proximal policy from versions, age {AGE}",
        AGE,
        "decoupled_ppo",
        "algorithm.name=decoupled_ppo",
        "algorithm.old_logp=versions",
    ),
}


@resumable
def main(words: Sequence[str] | None = None) -> int:
    """Make missing records and write the page; returns the exit code."""
    only = f"cells, with commas: {', '.join(CELLS)}"
    args = command_line(__doc__, only, "seeds", "jobs", trial="TOKENS", seeds=SEEDS).parse_args(words)
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
    rows = []
    for name, records in found.items():
        scores = mean_success(records)
        rows.append([CELLS[name].method, _number(statistics.fmean(scores)), ", ".join(map(_number, scores))])
    curves = {name: mean_curve(records) for name, records in found.items()}
    places = sorted({tokens for curve in curves.values() for tokens in curve})
    steps = [[f"{place:,}", *(_number(curve.get(place)) for curve in curves.values())] for place in places]
    header = ["", "mean success over the whole run", "each seed"]
    newest = max(
        (record for records in found.values() for record in records), key=lambda record: record["machine"]["utc"]
    )
    return "\n".join(
        [
            "# Old data",
            "",
            f"Two digits with a given sum, 0.4 M parameters, {MINIBATCHES} optimizer steps a batch, learning rate "
            f"{LEARNING_RATE:g}, clip {CLIP:g}. Every token of the asynchronous runs is {AGE} weight versions old. "
            f"Success on 128 held-out prompts, drawn tokens, every {EVERY:,} tokens of {BUDGET:,}.",
            "",
            markdown_table(header, rows),
            "",
            "The first batch that new weights made is learned from after four updates: old data come late whatever is "
            "done with them. Noise: two standard errors of the mean difference over seeds, and no less than "
            f"{LEAST:g}.",
            "",
            *(claims(found) or ["- Not all cells have all their seeds yet."]),
            "",
            "Mean success over seeds at the first evaluation after so many tokens:",
            "",
            markdown_table(["tokens", *curves], steps),
            "",
            f"Made by `python benchmarks/staleness.py`. {machine_line(newest['machine'])}",
            "",
        ]
    )


def claims(found: Records) -> list[str]:
    """Compare with the published claims; empty until all seeds have run."""
    names = ("synchronous", "plain", "decoupled")
    if any(len(found.get(name, ())) < len(SEEDS) for name in names):
        return []
    fresh, plain, decoupled = (mean_success(found[name]) for name in names)
    return [
        _claim("the decoupled objective on old data stays within noise of synchronous runs", decoupled, fresh, False),
        _claim(f"the same, of synchronous runs that begin {AGE} updates later", decoupled, later(found), False),
        _claim("PPO's clip on behavior log-probabilities falls behind synchronous runs", plain, fresh, True),
        _claim("PPO's clip on behavior log-probabilities falls behind the decoupled objective", plain, decoupled, True),
    ]


def _claim(text: str, one: Sequence[float], other: Sequence[float], expected: bool) -> str:
    difference, error = difference_of(one, other)
    verdict = "reached" if behind(one, other) == expected else "not reached"
    return f"- {text}: {verdict} (difference {difference:+.3f}, standard error {error:.3f})."


def behind(one: Sequence[float], other: Sequence[float]) -> bool:
    """True if one is lower by two standard errors of the mean difference and by `LEAST`."""
    difference, error = difference_of(one, other)
    return -difference > max(2.0 * error, LEAST)


def later(found: Records) -> list[float]:
    """Mean success of each synchronous run delayed by `AGE` updates: the least cost of age.

    Success before the first evaluation counts as that of the first.
    """
    means = []
    for record in found["synchronous"]:
        tokens, success = np.array(record["evaluations"], float).T
        delay = AGE * record["env_steps"] / record["updates"]
        means.append(float(np.interp(tokens - delay, tokens, success).mean()))
    return means


def difference_of(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds of one's score less the other's, and its standard error."""
    differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def mean_success(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean success of each run over all its evaluations."""
    return [statistics.fmean(success for _, success in record["evaluations"]) for record in records]


def mean_curve(records: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Multiple of `EVERY` -> mean success over the seeds that were evaluated there."""
    values: dict[int, list[float]] = {}
    for record in records:
        for tokens, success in record["evaluations"]:
            values.setdefault(int(tokens) // EVERY * EVERY, []).append(success)
    return {tokens: statistics.fmean(values[tokens]) for tokens in sorted(values)}


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
