"""The methods' bench: cells are runs that can be, measures are what they say, verdicts come from records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import method_effects as effects  # noqa: E402
import methods  # noqa: E402
from method_cells import TOKENS, chosen_cells, method_cells  # noqa: E402
from method_measures import different_items, distinct, late  # noqa: E402

from distrl.base.errors import UserError  # noqa: E402
from distrl.base.registry import register  # noqa: E402
from distrl.config.algorithm import check_algorithm  # noqa: E402
from distrl.language.algorithms.base import LanguageAlgorithm  # noqa: E402
from distrl.language.tasks.base import make_task  # noqa: E402

CELLS = method_cells()


def test_every_language_algorithm_has_a_cell() -> None:
    names = {m.name for m in register.methods("algorithm") if issubclass(m.target, LanguageAlgorithm)}
    assert names <= {cell.name for cell in CELLS}
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    with pytest.raises(UserError, match="did you mean 'riskpo'"):
        chosen_cells("riskp")


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_a_cell_is_a_run_that_can_be(cell: Any) -> None:
    config = cell._loaded
    assert config.stop.tokens == TOKENS
    assert config.algorithm["name"] == cell.algorithm
    checked = check_algorithm(config, register.get("algorithm", cell.algorithm).Config)
    answers = config.parallel * checked.group_size * checked.rollout_steps
    assert answers == 256  # the same batch for all


def test_effects_name_cells_and_entries() -> None:
    names = {cell.name for cell in CELLS}
    entries = {entry for cell in CELLS for entry in cell.entries}
    for entry, effect in effects.EFFECTS.items():
        assert entry in entries
        assert {effect.mine, effect.base} <= names


def record(success: float = 0.9, entropy: float = 0.1, zero: float = 0.5, **figures: float) -> dict[str, Any]:
    measured = {"success": success, "entropy": entropy, "form": 1.0, "by_question": [success] * 6, **figures}
    names = ("pass_8", "pass_64", "majority_8", "distinct_8", "distinct_64")
    curve = {"success": [0.5, success], "form": [0.9, 1.0], "entropy": [1.0, entropy], "zero_advantage": [zero, zero]}
    return {"measured": {**dict.fromkeys(names, 1.0), **measured}, "traces": curve, "machine": {}}


VERDICTS = [
    (4, {"quantile_grpo": record(zero=0.7, entropy=0.3), "dapo": record()}, effects.REACHED),
    (4, {"quantile_grpo": record(zero=0.5, entropy=0.3), "dapo": record()}, effects.NOT_REACHED),
    (82, {"flowrl": record(distinct_64=4.1), "grpo": record(distinct_64=2.0)}, effects.REACHED),
    (82, {"flowrl": record(success=0.8, distinct_64=4.1), "grpo": record(distinct_64=2.0)}, effects.NOT_REACHED),
    (96, {"knapsack": record(zero=0.3, by_question=[0.95] * 6), "grpo": record(zero=0.5)}, effects.REACHED),
    (96, {"knapsack": record(zero=0.45, by_question=[0.95] * 6), "grpo": record(zero=0.5)}, effects.NOT_REACHED),
    (119, {"ttrv": record(success=0.6)}, effects.REACHED),
    (119, {"ttrv": record(success=0.4)}, effects.NOT_REACHED),
    (209, {"dcpo": record(entropy=0.24), "grpo": record(entropy=0.01)}, effects.REACHED),
    (209, {"dcpo": record(entropy=0.1), "grpo": record(entropy=0.01)}, effects.NOT_REACHED),
    (209, {"dcpo": record()}, effects.MISSING),
    (99, {"drpo": record(), "grpo": record()}, effects.NOT_TRIED),
]


@pytest.mark.parametrize(("entry", "found", "verdict"), VERDICTS)
def test_verdicts_follow_from_the_records(entry: int, found: dict[str, Any], verdict: str) -> None:
    for each in found.values():  # the last number is the second half of its curve
        assert late(each["traces"]["entropy"]) == each["measured"]["entropy"]
    assert effects.judged(entry, {name: [each] * 3 for name, each in found.items()}) == verdict


def test_the_hardest_third_is_the_baselines() -> None:
    base = [record(by_question=[0.9, 0.1, 0.8, 0.2, 0.7, 0.6]), record(by_question=[0.9, 0.3, 0.8, 0.1, 0.7, 0.6])]
    assert sorted(effects.hardest(base)) == [1, 3]
    assert effects.on_questions([record(by_question=[0, 0.4, 0, 0.6, 0, 0])], [1, 3]) == pytest.approx(0.5)


def test_spread_and_volume() -> None:
    assert effects.spread([record(success=0.8), record(success=1.0)]) == pytest.approx(0.1)
    assert effects.volume([record(success=0.6)]) == pytest.approx(0.6)  # (.6, 1) dominates (.5, .9)


def test_distinct_right_answers_are_counted_in_blocks() -> None:
    answer, block = torch.tensor([1, 1, 2, 3, 3, 3]), torch.tensor([0, 0, 0, 1, 1, 1])
    right = torch.tensor([True, True, True, True, True, False])
    assert distinct(answer, right, block) == 1.5
    assert distinct(answer, torch.zeros(6, dtype=torch.bool), block) == 0.0


def test_every_question_of_the_task_is_asked_once() -> None:
    prompts = [item.prompt for item in different_items(make_task("pairs"))]
    assert prompts == [f"{total:02d}>" for total in range(1, 18)]


def test_a_row_shows_means_and_the_verdict() -> None:
    (cell,) = chosen_cells("ttrv")
    row = methods.row_of(cell, [record(success=0.6), record(success=0.8)], {"ttrv": [record(success=0.6)]})
    assert row[:3] == ["ttrv", "119", "0.700"]
    assert row[-1] == effects.REACHED
    assert len(row) == len(methods.HEADER)
