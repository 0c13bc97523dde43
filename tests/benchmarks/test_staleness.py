"""The study of old data: its cells load, its page and claims are those of the records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import staleness  # noqa: E402
from common import machine_facts  # noqa: E402
from records import Places, write_record  # noqa: E402

from distrl.base.errors import UserError  # noqa: E402


def record(name: str, seed: int, last: float) -> dict[str, Any]:
    cell = staleness.CELLS[name]
    evaluations = [[staleness.EVERY * k + 7, last * k / 5] for k in range(1, 6)]
    return {
        "cell": cell.name,
        "seed": seed,
        "score": last * 0.6,
        "evaluations": evaluations,
        "env_steps": 10 * staleness.EVERY,
        "updates": 40,  # so that AGE of them are the tokens between two evaluations
        "machine": machine_facts(),
        **cell.hashes(seed),
    }


def scores(**last: float) -> dict[str, list[dict[str, Any]]]:
    """All seeds of each cell, which differ by 0.01; the odd seeds of each cell but the first by another 0.01."""
    return {
        name: [record(name, seed, value + 0.01 * seed + 0.01 * (place and seed % 2)) for seed in staleness.SEEDS]
        for place, (name, value) in enumerate(last.items())
    }


def test_cells_differ_in_age_and_objective_alone() -> None:
    configs = {name: cell._loaded.model_dump() for name, cell in staleness.CELLS.items()}
    assert {name: config["store"]["max_staleness"] for name, config in configs.items()} == {
        "synchronous": 0,
        "plain": 4,
        "decoupled": 4,
        "versions": 4,
    }
    names = {name: config["algorithm"]["name"] for name, config in configs.items()}
    assert names == dict.fromkeys(("synchronous", "plain"), "grpo") | dict.fromkeys(
        ("decoupled", "versions"), "decoupled_ppo"
    )
    for config in configs.values():
        assert config["deterministic"]
        assert config["algorithm"]["minibatches"] == staleness.MINIBATCHES
        config["store"].pop("max_staleness")
        assert config["algorithm"]["objective"].pop("name") in ("token_ppo", "decoupled_ppo")
        for key in ("name", "old_logp"):
            config["algorithm"].pop(key, None)
    assert all(config == configs["synchronous"] for config in configs.values())


def test_claims_follow_the_scores() -> None:
    def verdicts(**last: float) -> list[bool]:
        return [": reached" in line for line in staleness.claims(scores(**last))]

    assert verdicts(synchronous=0.9, plain=0.5, decoupled=0.88) == [True, True, True, True]
    assert verdicts(synchronous=0.9, plain=0.5, decoupled=0.5) == [False, False, True, False]
    assert verdicts(synchronous=0.9, plain=0.89, decoupled=0.89) == [True, True, False, False]
    assert verdicts(synchronous=0.9, plain=0.5, decoupled=0.75) == [False, True, True, True]
    assert staleness.claims(scores(synchronous=0.9, plain=0.5)) == []
    assert staleness.behind([0.5, 0.9, 0.4], [0.7, 0.6, 0.8]) is False  # within the seeds' own scatter
    assert staleness.behind([0.5, 0.8, 0.3], [0.6, 0.9, 0.4]) is True  # every seed is lower by the same


def test_a_later_start_shifts_the_curve_by_one_evaluation() -> None:
    found = scores(synchronous=1.0)
    assert staleness.mean_success(found["synchronous"])[0] == pytest.approx(0.6)  # .2, .4, .6, .8, 1
    assert staleness.later(found)[0] == pytest.approx((0.2 + 0.2 + 0.4 + 0.6 + 0.8) / 5)


def test_the_page_shows_every_run(tmp_path: Path) -> None:
    found = scores(synchronous=1.0, plain=0.5, decoupled=0.95)
    text = staleness.page(found)
    assert "falls behind the decoupled objective: reached (difference -0.270, standard error 0.000)." in text
    assert "| PPO's clip, fresh data | 0.615 | 0.600, 0.606, 0.612, 0.618, 0.624, 0.630 |" in text
    assert "| 5,000 " in text
    places = Places(tmp_path, tmp_path / "runs", tmp_path / "page.md")
    cell = staleness.CELLS["plain"]
    write_record(places, cell, 1, found["plain"][1])
    stale = {**found["plain"][2], "code": "another"}
    write_record(places, cell, 2, stale)
    assert [one["seed"] for one in staleness.current(places, cell)] == [1]


def test_unknown_cells_are_named() -> None:
    with pytest.raises(UserError, match="decoupled"):
        staleness.chosen("decupled")
