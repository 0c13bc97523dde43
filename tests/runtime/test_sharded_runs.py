"""Runs whose learner is two processes that share one model, through `distrl train` on a local Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.base.pack import load_state
from distrl.experience.weights import Weights
from distrl.runtime.train import train
from tests.helpers import Training, events, merged, summary_of
from tests.runtime.test_text_runs import SELF_KILL, text_config

SHARDED = {"backend": "ray", "learner": {"shards": 2, "processes": 2, "sharding": "fsdp"}}

PATIENCE = 400.0  # seconds: two learners and a sampler import torch and transformers, side by side


def last_weights(folder: Path) -> dict[str, np.ndarray]:
    state: Any = load_state(Path(summary_of(folder)["checkpoint"]) / "policy.safetensors")
    return Weights.from_state(state["weights"]).arrays()


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_resumes_and_ends_where_one_process_does(tmp_runs: Path) -> None:
    base = text_config("whole", learner={"shards": 2}, algorithm={"beta": 0.1, "divergence": "k3"})
    train(base, runs_dir=tmp_runs)
    run = merged(base, {"name": "sharded", "callbacks": SELF_KILL, **SHARDED})
    code, output = Training(run, tmp_runs, KILL_AT_UPDATE=3).wait(PATIENCE)
    assert code == -9, output
    code, output = Training(run, tmp_runs, resume=True).wait(PATIENCE)
    assert code == 0, output
    assert summary_of(tmp_runs / "sharded")["updates"] == 4
    assert not events(tmp_runs / "sharded", "warning"), "sampler and learner agree on log-probabilities"
    one, two = last_weights(tmp_runs / "whole"), last_weights(tmp_runs / "sharded")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name].astype(float), one[name].astype(float), rtol=0, atol=1e-6, err_msg=name)
