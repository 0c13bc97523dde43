"""Parts that die are started again, and what cannot go on says why."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from distrl.base.errors import EnvError, ResourceError
from distrl.base.phases import Phases
from distrl.experience.fragment import FragmentMeta
from distrl.experience.ledger import Ledger
from distrl.experience.schema import SchemaCheck
from distrl.learning.learner_base import Progress
from distrl.runtime.backends.learner_host import LearnerHost
from distrl.runtime.backends.serial import SerialBackend
from distrl.runtime.loop import recovery
from distrl.runtime.loop.pool import Pool
from distrl.runtime.loop.recovery import MAX_DEATHS
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.events import Event, Failure, LearnerFailed, LearnerLost, SamplerLost, Updated
from distrl.runtime.protocol.orders import RecoveryPoint
from distrl.runtime.train import train
from distrl.store.queue import Queue
from tests.helpers import check_curve, config, events
from tests.runtime.off_policy_config import dqn_config

KILLS_LEARNERS = ["tests.runtime.user_code:KillsLearners"]


class DyingBackend(SerialBackend):
    """Everything in this process, but the learner dies in the updates of `deaths`: before and after it has learned.

    Args:
        deaths: Update -> how often its learner dies.
    """

    recovers = True

    def __init__(self, plan: Plan, phases: Phases, deaths: dict[int, int]):
        super().__init__(plan, phases)
        self.deaths = dict(deaths)
        self.host = LearnerHost(self.learner, self.check)
        self.sampler = plan.build_sampler(0, reuse_buffers=False, phases=phases)  # batches are kept

    def update(self, data: Any, progress: Any) -> None:
        def task() -> Event:
            left = self.deaths.get(progress.update, 0)
            report: Any = None
            if left != 1:
                report, weights = self.host.update(progress, *data)
            if left:
                self.deaths[progress.update] = left - 1
                del self.learner, self.host
                return LearnerLost("SIGKILL")
            return LearnerFailed(report) if isinstance(report, Failure) else Updated(report, weights)

        self._tasks.appendleft(task)

    def keep_state(self) -> Any:
        return self.host.keep()

    def kept_state(self, handle: Any) -> Any:
        return handle

    def rebuild_learner(self, base: RecoveryPoint, updates: Any) -> dict[int, Any]:
        self.learner = self.plan.build_learner(phases=self.phases)
        self.host = LearnerHost(self.learner, self.check)
        self.host.recover(base.version, base.state, base.folder)
        published = {base.version: self.learner.weights(base.version)}
        for batch in updates:
            published[batch.progress.update + 1] = self.host.repeat(batch.progress, *batch.data)
        return published


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From here on learners of serial runs die: `die({update: how often})`."""
    monkeypatch.setattr("distrl.runtime.loop.recovery.backoff", lambda failures: 0.0)

    def set_deaths(deaths: dict[int, int]) -> None:
        monkeypatch.setattr(
            "distrl.runtime.train.make_backend", lambda plan, phases: DyingBackend(plan, phases, deaths)
        )

    return set_deaths


def balanced(ledger: dict[str, int]) -> bool:
    fates = ("consumed", "evicted", "lost", "rolled_back", "waiting")
    return ledger["started"] == ledger["finished"] + ledger["cut"] + ledger["running"] and ledger["finished"] == sum(
        ledger[fate] for fate in fates
    )


# ---- the learner ---------------------------------------------------------------------------------------------------

LEARNERS: dict[str, Any] = {
    "ppo": lambda name, **changes: config(name, env={"normalize_obs": True, "normalize_reward": True}, **changes),
    "dqn": lambda name, **changes: dqn_config(name, algorithm={"prioritized": True}, **changes),
    "sharded": lambda name, **changes: dqn_config(name, store={"shards": 2}, **changes),
}


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("every", [None, 1, 4])
def test_a_learner_that_dies_loses_nothing(die: Any, tmp_runs: Path, learner: str, every: int | None) -> None:
    make = LEARNERS[learner]
    undisturbed = train(make("undisturbed"), runs_dir=tmp_runs)
    die({0: 1, 3: 2, 4: 1, 9: 1})
    summary = train(make("dying", learner={"recover_every": every}), runs_dir=tmp_runs)
    for key in ("parameter_hash", "env_steps", "updates", "episodes", "ledger"):
        assert summary[key] == undisturbed[key], key
    folder = tmp_runs / "dying"
    assert len(events(folder, "died")) == len(events(folder, "restarted")) == 5
    check_curve(folder)


def test_a_learner_that_dies_after_a_resume_begins_with_its_checkpoint(die: Any, tmp_runs: Path) -> None:
    undisturbed = train(dqn_config("undisturbed"), runs_dir=tmp_runs)
    run = dqn_config("dying", checkpoint={"every": 0})
    train({**run, "stop": {"updates": 7}}, runs_dir=tmp_runs)
    die({9: 1})
    assert train(run, runs_dir=tmp_runs, resume=True)["parameter_hash"] == undisturbed["parameter_hash"]
    assert events(tmp_runs / "dying", "restarted")[-1]["state_of_version"] == 7


def test_batches_are_bounded(die: Any, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LOG_UPDATES", 3)
    die({8: 1})
    train(dqn_config("off", checkpoint={"every": 0}), runs_dir=tmp_runs)
    train(config("on", checkpoint={"every": 0}, learner={"recover_every": 100}), runs_dir=tmp_runs)
    for name, since in (("off", 2), ("on", 2)):
        assert [event["repeated_updates"] for event in events(tmp_runs / name, "restarted")] == [since], name


@pytest.mark.parametrize(("deaths", "every", "message"), [(1, 0, "recover_every is 0"), (9, 1, "4 deaths in a row")])
def test_a_learner_that_cannot_live_is_named_and_its_state_saved(
    die: Any, tmp_runs: Path, deaths: int, every: int, message: str
) -> None:
    assert MAX_DEATHS == 3
    undisturbed = train(config("undisturbed"), runs_dir=tmp_runs)
    die({5: deaths})
    run = config("dying", learner={"recover_every": every})
    with pytest.raises(ResourceError, match=f"the learner died: SIGKILL.*{message}.*--resume"):
        train(run, runs_dir=tmp_runs)
    die({})
    resumed = train(run, runs_dir=tmp_runs, resume=True)
    assert resumed["parameter_hash"] == undisturbed["parameter_hash"]
    began = events(tmp_runs / "dying", "resume")[-1]["checkpoint"]
    assert began.endswith("update_00000005" if every else "update_00000004")


def test_lost_data_of_a_batch_is_named() -> None:
    class Counts:
        def update(self, fragments: Any, progress: Any) -> tuple[Any, Any]:
            return "report", "weights"

    host = LearnerHost(Counts(), SchemaCheck(print))  # type: ignore[arg-type]
    host.version = 4
    assert host.update(Progress(4, 0)) == ("report", "weights")
    failure, _ = host.update(Progress(6, 0))
    assert "data of update 5 is gone" in str(failure.error)


def test_keeping_the_state_costs_its_share() -> None:
    """With a cost of 1 s and updates of 4 s the state is kept every eighth or ninth update: 3 % of the time."""
    credit = recovery.Credit(recovery.COST_SHARE)
    kept = []
    for update in range(1000):
        credit.earn(4.0)
        if credit.spend(1.0):
            kept.append(update)
    assert len(kept) <= 1000 * 4 * 0.03
    assert {after - before for before, after in itertools.pairwise(kept)} <= {8, 9}


# ---- samplers and environments -------------------------------------------------------------------------------------


class DeadlyBackend(SerialBackend):
    """A sampler dies in every call that makes a fragment of `stream` from sequence number `begin` on, `times` times."""

    concurrent = True
    stream, begin, times = 1, 3, 10**9

    def collect(self, sampler: int, requests: Any, weights: Any) -> None:
        if self.times and any(
            request.unit.stream == self.stream and request.unit.seq >= self.begin for request in requests
        ):
            self.times -= 1
            self.sampler.close()
            self._tasks.append(lambda: SamplerLost(sampler, requests, "SIGSEGV"))
        else:
            super().collect(sampler, requests, weights)


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("distrl.runtime.loop.elastic.backoff", lambda failures: 0.0)
    monkeypatch.setattr("distrl.runtime.train.make_backend", DeadlyBackend)
    return monkeypatch


def test_an_environment_that_ends_its_sampler_again_and_again_is_named(deadly: Any, tmp_runs: Path) -> None:
    run = config("deadly", checkpoint={"every": 0})
    with pytest.raises(EnvError, match=r"stream 1 ended its sampler 3 times.*SIGSEGV.*episode \d+, seed \d+, step"):
        train(run, runs_dir=tmp_runs)
    folder = tmp_runs / "deadly"
    assert [event["stream"] for event in events(folder, "quarantined")] == [1]
    assert 3 <= len(events(folder, "died")) <= 4  # once together with other streams
    deadly.undo()
    resumed = train(run, runs_dir=tmp_runs, resume=True)
    assert events(folder, "resume")[-1]["checkpoint"].endswith("update_00000003")
    assert resumed["parameter_hash"] == train(config("sound"), runs_dir=tmp_runs)["parameter_hash"]


def test_a_stream_that_makes_its_fragment_in_the_end_is_trusted_again(deadly: Any, tmp_runs: Path) -> None:
    deadly.setattr(DeadlyBackend, "times", 2)
    summary = train(config("shaky"), runs_dir=tmp_runs)
    deadly.undo()
    assert summary["parameter_hash"] == train(config("sound"), runs_dir=tmp_runs)["parameter_hash"]
    assert balanced(summary["ledger"])
    assert len(events(tmp_runs / "shaky", "restarted")) == 2


def test_suspects_are_made_alone() -> None:
    pool = Pool(4, 1, Queue(4, 1, False, Ledger()), 1, False)
    slot = pool.slots[0]
    pool.joined(slot, 1, "")

    def turn(dies: bool) -> list[int]:
        requests = pool.orders(slot, 0)
        pool.started(slot, requests)
        if dies:
            pool.lost(slot, requests, "SIGKILL")
        else:
            metas = [FragmentMeta(request.unit, 0, 1, []) for request in requests]
            for meta in metas:
                pool.queue.put(meta, None)
            pool.finished(slot, metas)
        return [request.unit.stream for request in requests]

    assert turn(dies=True) == [0, 1, 2, 3]
    assert [turn(dies=False), turn(dies=True), turn(dies=True)] == [[0], [1], [1]]
    assert [turn(dies=False), turn(dies=False), turn(dies=False)] == [[1], [2], [3]]
    assert turn(dies=False) == [0, 1, 2, 3]


# ---- on Ray --------------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("staleness", "every"), [pytest.param(0, None, marks=pytest.mark.drill), (2, 3)])
def test_a_learner_that_dies_twice_changes_no_bit(
    local_ray: str, tmp_runs: Path, staleness: int, every: int | None
) -> None:
    changes: dict[str, Any] = {"store": {"max_staleness": staleness}, "env": {"normalize_obs": True}}
    run = config(
        "killed",
        backend="ray",
        samplers={"count": 2},
        learner={"recover_every": every},
        callbacks=KILLS_LEARNERS,
        **changes,
    )
    summary = train(run, runs_dir=tmp_runs)
    undisturbed = train(config("undisturbed", **changes), runs_dir=tmp_runs)
    for key in ("parameter_hash", "env_steps", "updates", "episodes"):
        assert summary[key] == undisturbed[key], key
    assert summary["ledger"]["consumed"] == undisturbed["ledger"]["consumed"] == 40
    assert balanced(summary["ledger"])
    folder = tmp_runs / "killed"
    assert [event["process"] for event in events(folder, "died")] == ["learner", "learner"]
    again = events(folder, "restarted")
    assert len(again) == 2
    if every:
        # The state of version 6 may still have been under way when its learner died.
        used = [(event["state_of_version"], event["repeated_updates"]) for event in again]
        assert used in ([(0, 2), (6, 0)], [(0, 2), (3, 3)])
    check_curve(folder)


@pytest.mark.ray
@pytest.mark.slow
def test_resources_that_are_nowhere_are_named_within_half_a_minute(local_ray: str, tmp_runs: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        ResourceError, match="sampler 0 cannot be started: it asks for 64 CPU, and no node is that large"
    ):
        train(config("greedy", backend="ray", samplers={"cpus": 64}), runs_dir=tmp_runs)
    assert time.monotonic() - began < 60  # starting a learner included
    # On a busy machine the end may come before the wait was told.
    waits = [event for event in events(tmp_runs / "greedy", "waiting") if event["process"] == "sampler 0"]
    named = [wait["cause"] for wait in waits] + [death["reason"] for death in events(tmp_runs / "greedy", "died")]
    assert all("64 CPU" in cause for cause in named)
    assert named
    assert all(wait["seconds"] < 30 for wait in waits)


@pytest.mark.ray
@pytest.mark.slow
def test_a_hung_environment_is_named_with_its_stacks(local_ray: str, tmp_runs: Path, tmp_path: Path) -> None:
    """Told after 10 s, its stacks written; then its sampler is replaced, and the run loses one fragment a stream."""
    kwargs = {"fault": "hang", "marker": str(tmp_path / "mended"), "once": True}
    env = {"id": "tests.runtime.user_code:FaultyEnv", "num_envs": 2, "streams": 2, "kwargs": kwargs}
    run = config("hung", backend="ray", env=env, samplers={"count": 2, "timeout": 13.0})
    summary = train(run, runs_dir=tmp_runs)
    folder = tmp_runs / "hung"
    told = [event for event in events(folder, "waiting") if "fragments 4 of stream" in event["what"]]
    assert told
    assert all(event["process"].startswith("sampler") and event["seconds"] < 30 for event in told)
    deaths = events(folder, "died")
    assert deaths
    assert all("misbehave" in Path(death["stacks"]).read_text() for death in deaths)
    assert summary["ledger"]["cut"] == len(deaths) <= 2
