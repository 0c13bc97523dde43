"""One gradient of GRPO, RLOO and SFT equals TRL's, where TRL's environment has been set up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import common  # noqa: E402

pytest.importorskip("transformers", reason="the extra llm is not installed")
import trl_gradients  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(
    not common.have_peer("trl-gradients"), reason="benchmarks/.venv-trl is not there (benchmarks/peers/setup_trl.sh)"
)
def test_gradients_are_those_of_trl(tmp_path: Path) -> None:
    results, _ = trl_gradients.compare(tmp_path)
    assert {result["case"] for result in results} == set(trl_gradients.CASES)
    for result in results:
        assert result["norm"] > 0.01
        assert result["error"] <= trl_gradients.TOLERANCE, result
        assert result["advantage"] <= 1e-5, result
    # second passes over the same answers: ratios were clipped, so more than REINFORCE was compared
    assert all(result["clipped"] > 0.05 for result in results if result["step"] == 1 and result["case"] != "sft")
