"""A full disk, a full object store: named in the status and the log within half a minute, and nobody waits for ever.

An environment that hangs and resources that are nowhere are in test_recovery.py; a disk that refuses in every kind of
file, by injection, in test_failures.py and tests/monitor.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distrl.base.errors import ResourceError
from distrl.runtime.commands.files import Command, FolderRun
from distrl.runtime.run.checkpoint import newest_valid
from distrl.runtime.train import train
from tests.helpers import config, events, lines, summary_of, train_apart
from tests.runtime.off_policy_config import dqn_config
from tests.runtime.test_nodes import Watched
from tests.runtime.test_recovery import balanced
from tests.runtime.user_code import fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MIB = 2**20
NAMED_WITHIN = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr}")
    yield disk
    for _ in range(20):  # processes of a run that was just killed may still have files open
        if subprocess.run(["umount", disk], capture_output=True).returncode == 0:
            return
        time.sleep(0.5)
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.ray
@pytest.mark.drill
def test_a_disk_that_fills_up_is_named_and_ends_nothing(small_disk: Path, local_ray: str) -> None:
    """Every kind of file that a run writes is on it: checkpoints, curves, events, log, TensorBoard, status."""
    run = config(
        "full",
        backend="ray",
        ray={"address": local_ray},
        store={"max_staleness": 1},
        stop={"updates": 10**9},
        eval={"every": 640, "episodes": 1},
        logging={"tensorboard": True, "every_seconds": 0.5, "console": "plain"},
    )
    runs = small_disk / "runs"
    runs.mkdir()
    training = Watched(run, runs)
    training.until(lambda status: status["checkpoint"])
    # A tmpfs of this size is nearly full from the beginning, and said to be so.
    training.until(lambda status: any("nearly full" in text for text in status["waits"]["problems"]), NAMED_WITHIN)
    filler = fill(small_disk)
    began = time.monotonic()
    status = training.until(lambda status: "disk full" in (status["checkpoint_problem"] or ""), NAMED_WITHIN)
    print(f"named after {time.monotonic() - began:.1f} s")
    assert "nearly full" in (training.folder / "log.txt").read_text()
    kept = status["checkpoint"]
    training.until(lambda later: later["version"] > status["version"] + 20, 60)  # it goes on
    newest_valid(training.folder / "checkpoints")
    assert Path(kept).is_dir()

    filler.unlink()
    training.until(lambda status: status["checkpoint_problem"] is None, 60)
    FolderRun(training.folder).send(Command("stop"))
    code, output = training.wait()
    assert code == 0, output
    assert "is no longer written: the disk is full" in output
    goal = summary_of(training.folder)["updates"] + 4
    code, output = train_apart({**run, "stop": {"updates": goal}}, runs, resume=True)
    assert code == 0, output
    assert balanced(summary_of(training.folder)["ledger"])


@pytest.mark.drill
def test_a_replay_that_finds_no_room_for_a_segment_ends_the_run_and_says_so(small_disk: Path) -> None:
    run = dqn_config(
        "segments",
        algorithm={"rollout_steps": 64, "replay_ratio": 0.02},  # a segment of 4096 steps lasts 16 updates
        store={"capacity": 50_000, "memory_map": True},
        checkpoint={"every": 0},
        callbacks=["tests.runtime.user_code:FillsTheDisk"],
        stop={"updates": 1000},
    )
    with pytest.raises(ResourceError, match=r"disk full while writing .*segment-"):
        train(run, runs_dir=small_disk)
    [failed] = events(small_disk / "segments", "failed")
    assert "segment-" in failed["error"]
    assert "disk full" in (small_disk / "segments" / "log.txt").read_text()
    status = FolderRun(small_disk / "segments").status()
    assert status is not None
    assert "disk full" in status["state"]


@pytest.mark.ray
@pytest.mark.drill
def test_an_object_store_that_is_too_small_is_named_and_the_run_goes_on(tmp_runs: Path) -> None:
    """100 MB of shared memory, of which 60 are for fragments: each is 16 MB, a batch of four of them fits just so."""
    tmp_runs.mkdir()
    run = config(
        "crowded",
        backend="ray",
        deterministic=False,
        ray={"object_store_mb": 100},
        env={"id": "tests.runtime.user_code:WideEnv", "num_envs": 4, "streams": 4, "kwargs": {"length": 100}},
        algorithm={"rollout_steps": 1024, "epochs": 1},
        samplers={"count": 2},
        store={"max_staleness": 3},
        checkpoint={"every": 0},
        stop={"updates": 8},
    )
    training = Watched(run, tmp_runs)
    code, output = training.wait(400)
    assert code == 0, output
    [problem] = [event for event in events(training.folder, "problem") if event["of"] == "object store"][:1]
    assert "of 100 MiB" in problem["text"]
    assert "object store" in (training.folder / "log.txt").read_text()
    times = {line["kind"]: line["time"] for line in reversed(lines(training.folder / "events.jsonl"))}  # the first ones
    assert times["problem"] - times["joined"] < NAMED_WITHIN
    summary = summary_of(training.folder)
    assert summary["env_steps"] == 8 * 4 * 1024
    assert balanced(summary["ledger"])
