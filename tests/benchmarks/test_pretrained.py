"""Examples that are judged by the clock: their cells, their curves, their part of the results page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import pretrained  # noqa: E402
import pretrained_cells  # noqa: E402
import records  # noqa: E402
import results_page  # noqa: E402
from common import machine_facts  # noqa: E402

from distrl.base.files import to_json, write_atomic  # noqa: E402

FIRST = pretrained_cells.CELLS[0]


def places(folder: Path) -> records.Places:
    return records.Places(folder / "records", folder / "runs", folder / "docs" / "results.md")


def summary(stopped: str) -> dict[str, Any]:
    return {
        "stopped": stopped,
        "env_steps": 800,
        "wall_s": 60.0,
        "return_mean_last_20": 0.5,
        "evaluations": [(400, 0.5), (800, 0.96)],
        "updates": 20,
        "parameter_hash": "abc",
    }


def record_of(folder: Path, stopped: str, begun: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The record of a run that ends now and began then (seconds)."""
    job = pretrained.TimedJob(FIRST, 0, places(folder), 10.0)
    job.hashes, job.begun = FIRST.hashes(0), begun
    monkeypatch.setattr(pretrained.time, "monotonic", lambda: 1_000.0)
    rows: list[dict[str, Any]] = [
        {"env_steps": 40, "wall_s": 3.0, "text/success": 0.25},
        {"env_steps": 400, "wall_s": 30.0, "eval/success_sampled": 0.5, "eval/success_greedy": 0.75},
        {"env_steps": 400, "wall_s": 31.0, "text/success": 0.5},
        {"env_steps": 800, "wall_s": 60.0, "eval/success_sampled": 0.96, "eval/success_greedy": 1.0},
    ]
    write_atomic(job.run_folder / "metrics.jsonl", "\n".join(to_json(row) for row in rows) + "\n")
    return job.result(summary(stopped), {"machine": machine_facts()})


def test_configs_are_the_examples_own() -> None:
    names = [cell.name for cell in pretrained_cells.CELLS]
    assert len(set(names)) == len(names)
    for cell in pretrained_cells.CELLS:
        assert len(cell.hashes(0)["config"]) > 8
        own = [word for word in cell.words(0) if word not in pretrained_cells.SAMPLED]
        assert not any(word.startswith(("eval", "algorithm", "language")) for word in own)
        assert (len(own) < len(cell.words(0))) == cell.name.startswith("tiny")  # how they are judged, nothing else


def test_a_gate_counts_only_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = "eval_mean 0.96 reached 0.95, 1 in a row"
    assert record_of(tmp_path, reached, 900.0, monkeypatch)["passed"]
    assert not record_of(tmp_path, reached, 999.0 - FIRST.limit - 2, monkeypatch)["passed"]
    assert not record_of(tmp_path, "wall_seconds reached 600", 900.0, monkeypatch)["passed"]


def test_curve_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(tmp_path, "eval_mean 0.96 reached 0.95, 1 in a row", 700.0, monkeypatch)
    assert record["first_batch"] == 0.25
    assert [point["seconds"] for point in record["curve"]] == [30.0, 60.0]
    own = places(tmp_path)
    records.write_record(own, FIRST, 0, record)
    results_page.write_results(own.table, risk=own, pretrained=own)
    page = own.table.read_text()
    assert "| 0 | 0.25 | 0.96 | 1.00 | 5.0 | yes |" in page
    assert (own.table.parent / "plots" / f"{FIRST.name}.svg").is_file()
    assert "## PG-Rainbow" not in page
