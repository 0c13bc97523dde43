"""Cells of language-model examples with time limits, and their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cells import COMMON, Cell
from code_hash import REPOSITORY
from common import FOLDER, RESULTS, named
from records import Places, read_record

PLACES = Places(RESULTS / "pretrained", FOLDER / ".cache" / "pretrained", REPOSITORY / "docs" / "results.md")
NO_BUDGET = 10**9  # steps; time is what ends these runs


@dataclass(frozen=True)
class PretrainedCell(Cell):
    """An example as a user starts it, with its own evaluations and usually its own end.

    Attributes:
        limit: Seconds from the start of the process in which the gate is to be met, loading included.
    """

    limit: float = 600.0

    def words(self, seed: int) -> list[str]:
        return [*COMMON, *self.overrides, f"stop.wall_seconds={self.limit:g}", f"seed={seed}"]


#: The tiny examples are judged by drawn answers too, and go on until those meet the gate twice in a row.
SAMPLED = ("eval.deterministic=false", "stop={eval_mean: 0.9, eval_in_a_row: 2, updates: 1000}")


def example(name: str, task: str, model: str, gate: float, limit: float, *words: str) -> PretrainedCell:
    return PretrainedCell(
        name, task, model, name.replace("-", "_"), gate, NO_BUDGET, words, "evaluation", minutes=limit / 60, limit=limit
    )


CELLS = [
    example("smollm2-copy", "Copy four words", "SmolLM2-135M-Instruct", 0.95, 600),
    example("smollm2-sort", "Sort three numbers", "SmolLM2-135M-Instruct", 0.5, 1800),
    example("tiny-sort-grpo", "Sort six digits", "0.6 M parameters, from scratch", 0.9, 120, *SAMPLED),
    example("tiny-pairs-grpo", "Two digits that sum to n", "0.4 M parameters, from scratch", 0.9, 120, *SAMPLED),
]


def chosen(names: str | None) -> list[PretrainedCell]:
    """The cells that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    return named("cell", names, {cell.name: cell for cell in CELLS})


def records_of(places: Places, cell: Cell) -> list[Mapping[str, Any]]:
    """Existing records of the cell's seeds, stale ones included."""
    found = (read_record(places, cell, seed)[1] for seed in cell.seeds)
    return [record for record in found if record is not None]
