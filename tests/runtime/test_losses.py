"""Data that goes with a machine, without machines: what waits is lost, or made again with the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distrl.experience.fragment import Unit
from distrl.experience.ledger import Ledger
from distrl.runtime.backends.serial import SerialBackend
from distrl.runtime.protocol.events import BatchLost
from distrl.runtime.run.callbacks import Callback
from distrl.runtime.train import train
from tests.helpers import config, events, parameter_hash
from tests.runtime.test_recovery import balanced


class ForgetfulBackend(SerialBackend):
    """Loses the data of two fragments of the batch of update 4, which then fails, and all that waits after update 7."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.gone_data: list[Any] = []
        self.failed = False

    def update(self, data: Any, progress: Any) -> None:
        if progress.update == 4 and not self.failed:
            self.failed = True
            self.gone_data = list(data[1:3])
            self._tasks.append(BatchLost)
        else:
            super().update(data, progress)

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        """Nothing: the sampler may have orders for them, and builds them anew with the next ones."""

    def gone(self, data: Sequence[Any]) -> list[bool]:
        return [any(item is lost for lost in self.gone_data) for item in data]


class LosesAll(Callback):
    """Everything that waits after update 7."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == 7:
            loop.backend.gone_data = [item.data for item in loop.state.queue.waiting()]
            loop.lost_data.probe()


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("staleness", [0, 2])
def test_lost_fragments_are_counted_and_made_again_where_they_are_needed(
    tmp_runs: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool, staleness: int
) -> None:
    changes: dict[str, Any] = {"store": {"max_staleness": staleness}, "deterministic": deterministic}
    expected = parameter_hash(config("undisturbed", **changes), tmp_runs)
    monkeypatch.setattr("distrl.runtime.train.make_backend", ForgetfulBackend)
    run = config("forgetful", callbacks=["tests.runtime.test_losses:LosesAll"], **changes)
    summary = train(run, runs_dir=tmp_runs)
    ledger = summary["ledger"]
    assert balanced(ledger)
    assert ledger["consumed"] == 40
    assert summary["env_steps"] == 640
    assert summary["staleness_max"] <= staleness
    lost = [event["units"] for event in events(tmp_runs / "forgetful", "lost")]
    assert len(lost[0]) == 2
    assert sum(len(units) for units in lost) == ledger["lost"]
    if deterministic:
        assert summary["parameter_hash"] == expected
        assert (ledger["rolled_back"] > 0) == (staleness > 0)  # later fragments of a lost one's stream


def test_a_unit_that_is_reopened_counts_once_more() -> None:
    ledger = Ledger()
    for seq in (0, 1, 2):
        ledger.start(Unit(seq, 0))
        ledger.finish(Unit(seq, 0))
    ledger.consume([Unit(0, 0)])
    for seq in (2, 1):
        ledger.end(Unit(seq, 0), "lost")
        ledger.reopen(Unit(seq, 0))
    ledger.check()
    with pytest.raises(ValueError, match="started before"):
        ledger.start(Unit(0, 0))
    for seq in (1, 2):
        ledger.start(Unit(seq, 0))
        ledger.finish(Unit(seq, 0))
    ledger.consume([Unit(1, 0), Unit(2, 0)])
    ledger.check()
    assert (ledger.read()["started"], ledger.read()["lost"]) == (5, 2)
    with pytest.raises(ValueError, match="started before"):
        ledger.start(Unit(2, 0))
