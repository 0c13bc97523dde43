"""A sampler fails while the learner is at work: the update must count wholly or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.base.errors import EnvError
from distrl.runtime.backends.serial import SerialBackend
from distrl.runtime.protocol.events import Event, Updated
from distrl.runtime.run.checkpoint import newest_valid
from distrl.runtime.train import train
from tests.helpers import config, parameter_hash


class LateBackend(SerialBackend):
    """Pretends that learner and sampler work at the same time, and that the learner's answer comes last.

    Args:
        together: The answer comes with the sampler's, behind it; else in the next turn.
    """

    concurrent = True
    together = True
    held: list[Event] = []

    def busy(self) -> bool:
        return bool(self._tasks or self.held)

    def wait(self, timeout: float) -> list[Event]:
        waiting, self.held = self.held, []
        events = [*waiting]
        while self._tasks:
            events.append(self._tasks.popleft()())
        updates = [event for event in events if isinstance(event, Updated)]
        others = [event for event in events if not isinstance(event, Updated)]
        if self.together or waiting or not others:
            return others + updates
        self.held = updates
        return others


@pytest.mark.parametrize("together", [True, False])
def test_state_and_counters_agree(
    tmp_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    def make(plan: Any, phases: Any) -> LateBackend:
        backend = LateBackend(plan, phases)
        backend.together = together
        return backend

    marker = tmp_path / "mended"
    env = {"id": "tests.runtime.user_code:FaultyEnv", "num_envs": 2, "streams": 2}
    changes = {"env": {**env, "kwargs": {"fault": "raise", "marker": str(marker)}}, "store": {"max_staleness": 1}}
    with monkeypatch.context() as patch:
        patch.setattr("distrl.runtime.train.make_backend", make)
        with pytest.raises(EnvError, match="fell off the table"):
            train(config("failed", **changes), runs_dir=tmp_runs)
    _, states, _ = newest_valid(tmp_runs / "failed" / "checkpoints")
    counters = states["progress"]["counters"]
    assert counters["version"] == 4  # fragment 4 fails beside the update on batch 3, which counts
    assert counters["env_steps"] == 4 * 2 * 16
    assert states["progress"]["ledger"]["counts"]["consumed"] == 4 * 2
    marker.touch()
    resumed = train(config("failed", **changes), runs_dir=tmp_runs, resume=True)
    assert resumed["parameter_hash"] == parameter_hash(config("sound", **changes), tmp_runs)
