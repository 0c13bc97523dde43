"""The schema of a learner's batches is checked at the start of a run, and on every batch in debug mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.base.columns import Columns
from distrl.experience.fragment import FragmentData
from distrl.experience.schema import SchemaCheck
from distrl.learning.learner_base import Progress
from distrl.runtime.backends.learner_host import LearnerHost
from distrl.runtime.backends.serial import SerialBackend
from distrl.runtime.train import train
from tests.helpers import config
from tests.runtime.test_text_runs import text_config


class BreaksBatches(SerialBackend):
    """Breaks the schema of the batch of one update."""

    at = 0

    def update(self, data: Any, progress: Any) -> None:
        if progress.update == self.at:
            data = [FragmentData(self.broken(item.rollout), item.obs_moments, item.return_moments) for item in data]
        super().update(data, progress)

    @staticmethod
    def broken(rollout: Columns) -> Columns:
        if "offsets" in rollout:
            return rollout.with_(logp=rollout.logp.astype("float64"))
        return rollout.with_(unknown=rollout.reward)


@pytest.mark.parametrize(
    ("make", "message"), [(config, "unknown column 'unknown'"), (text_config, "logp is float64")], ids=["env", "text"]
)
@pytest.mark.parametrize(("at", "debug"), [(0, False), (1, True)])
def test_a_broken_batch_is_refused(
    tmp_runs: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str, at: int, debug: bool
) -> None:
    monkeypatch.setattr(BreaksBatches, "at", at)
    monkeypatch.setattr("distrl.runtime.train.make_backend", BreaksBatches)
    with pytest.raises(ValueError, match=message):
        train(make("broken", debug=debug, stop={"updates": 2}), runs_dir=tmp_runs)


def test_without_debug_mode_only_the_first_batch_is_checked(tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BreaksBatches, "at", 1)
    monkeypatch.setattr("distrl.runtime.train.make_backend", BreaksBatches)
    assert train(config("broken", stop={"updates": 3}), runs_dir=tmp_runs)["updates"] == 3


def test_a_remote_learner_checks_too() -> None:
    class Learner:
        def update(self, fragments: Any, progress: Any) -> Any:
            return "report", "weights"

    def check(rollout: Any) -> None:
        raise ValueError("rollout lacks ['obs']")

    host = LearnerHost(Learner(), SchemaCheck(check))  # type: ignore[arg-type]
    failure, _ = host.update(Progress(0, 0), FragmentData(None))  # type: ignore[arg-type]
    assert "rollout lacks" in str(failure.error)
