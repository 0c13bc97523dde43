"""`submit`, `ps`, `status`, `logs`, `scale` and `stop` against a real head with its job server and a token."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distrl.cli.status import lines, spans, view
from distrl.config.load import load_config
from distrl.runtime.jobs.shipment import fill, own_modules
from tests.cli.conftest import Command
from tests.cluster_head import Head

RUN = """
name: NAME
deterministic: false
imports: [helpers_of_mine.py]
env: {id: "my_world:Corridor", num_envs: 4, streams: 4}
model: {hidden: [8]}
algorithm: {name: ppo, rollout_steps: 16, epochs: 1, minibatches: 1}
checkpoint: {every: 0}
stop: {updates: 1000000}
logging: {tensorboard: false}
"""
WORLD = """
from helpers_of_mine import LENGTH
import gymnasium

class Corridor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.observe(), {}

    def step(self, action):
        self.place += 1
        return self.observe(), float(action), self.place == LENGTH, False, {}

    def observe(self):
        return self.observation_space.low + self.place / LENGTH
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: a config, an environment of their own, and a file that it imports."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "helpers_of_mine.py").write_text("LENGTH = 7\n")
    (folder / "my_world.py").write_text(WORLD)
    (folder / "run.yaml").write_text(RUN.replace("NAME", "corridor"))
    return folder


# ---- without a cluster ---------------------------------------------------------------------------------------------


def test_a_shipment_holds_the_package_and_the_users_code(project: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    shipped = fill(box, load_config(project / "run.yaml", ["ray.address=ray://x:1"]), project)
    assert {"my_world.py", "helpers_of_mine.py", "run.yaml", "submitter.json"} <= {f.name for f in box.iterdir()}
    assert (box / "distrl" / "runtime" / "loop" / "loop.py").is_file()
    assert not list(box.rglob("__pycache__"))
    assert "Name: distrl" in next(box.glob("distrl-*.dist-info/METADATA")).read_text()
    assert shipped.ray.address == "auto"
    assert load_config(box / "run.yaml") == shipped
    assert set(json.loads((box / "submitter.json").read_text())) >= {"torch", "ray", "python"}


def test_modules_that_a_config_names(project: Path) -> None:
    raw = load_config(project / "run.yaml", ["env.wrappers=[gymnasium.wrappers:Autoreset]"]).model_dump(mode="json")
    assert set(own_modules(raw, project)) == {"my_world", "gymnasium"}


def test_a_module_that_is_nowhere_is_named(project: Path, tmp_path: Path) -> None:
    from distrl.base.errors import ConfigError

    (project / "my_world.py").unlink()
    box = tmp_path / "box"
    box.mkdir()
    with pytest.raises(ConfigError, match="no module 'my_world'"):
        fill(box, load_config(project / "run.yaml"), project)


def test_runs_of_this_machine(distrl_command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell of a table is broken into lines
    where = ["--runs-dir", str(trained.parent)]
    assert "ended: updates reached 3" in distrl_command("ps", *where).out
    listed = json.loads(distrl_command("ps", "--json", *where).out)
    assert [row["run"] for row in listed] == ["small"]
    shown = distrl_command("status", "small", *where)
    assert "small: ppo on CartPole-v1" in shown.out
    assert json.loads(distrl_command("status", "small", "--json", *where).out)["version"] == 3
    assert "start run=" in distrl_command("logs", "small", "--follow", *where).out
    for words in (["scale", "small", "--samplers", "2"], ["stop", "small"]):
        refused = distrl_command(*words, *where)
        assert refused.code == 2
        assert "not running: ended" in refused.err
    unknown = distrl_command("status", "smal", *where)
    assert unknown.code == 2
    assert "there are: small" in unknown.err


def test_an_address_where_nothing_listens(distrl_command: Command, tmp_path: Path) -> None:
    answer = distrl_command("ps", "--address", "http://127.0.0.1:9")
    assert answer.code == 6
    assert "could not reach a job server at http://127.0.0.1:9" in answer.err


def test_a_stream_that_is_behind_is_named() -> None:
    record = {
        "name": "r", "algorithm": "ppo", "env": "E", "attempt": 1, "state": "running", "host": "h", "pid": 1,
        "env_steps": 50, "goal": {"env_steps": 100}, "version": 5, "updating": False, "env_steps_per_s": 1.0,
        "updates_per_s": 1.0, "return_mean": 2.0, "eval_return_mean": None, "staleness": 1, "staleness_max": 2,
        "staleness_bound": 2, "ledger": dict.fromkeys(("consumed", "cut", "evicted", "lost", "rolled_back"), 1),
        "waiting": 3, "limit": "learner: learn 90%", "time_shares": {"learn": 0.9}, "checkpoint": None,
        "checkpoint_problem": None, "checkpoint_age_s": 1.0, "samplers": [], "events": [],
        "streams": [
            {"stream": 0, "sampler": 0, "next_fragment": 9, "running_on": None},
            {"stream": 1, "sampler": 1, "next_fragment": 2, "running_on": 1},
        ],
    }  # fmt: skip
    shown = dict(lines(record))
    assert shown["streams"] == "2 streams, next fragments 2 to 9; stream 1 on sampler 1 is behind"
    assert shown["env_steps"] == "50 of 100 (50%)"
    assert shown["staleness"] == "1 now, 2 at most, bound 2"
    assert view(record)
    assert spans([]) == "none"


# ---- with one ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head()
    yield started
    started.close()


def until(look: Callable[[], Any], seconds: float = 300) -> Any:
    """What `look` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("never came")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_on_a_cluster_from_submit_to_stop(head: Head, project: Path) -> None:
    def distrl(*words: str, address: str = head.http, fails: bool = False) -> str:
        done = head.distrl(*words, "--address", address, cwd=project)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(address: str = head.http) -> dict[str, Any]:
        return json.loads(distrl("status", "corridor", "--json", address=address))

    assert "submitted corridor" in distrl("submit", "run.yaml", "--runs-dir", "~/my runs")
    until(lambda: "steps/s" in distrl("logs", "corridor"))
    printed = distrl("logs", "corridor")
    assert "versions: as on the submitting machine" in printed
    assert "running" in distrl("ps")
    assert "a run named 'corridor' is active" in distrl("submit", "run.yaml", fails=True)

    # By HTTP alone, by the cluster's own address, and through Ray Client.
    assert "run of 4 streams can use 1 to 4" in distrl("scale", "corridor", "--samplers", "5", fails=True)
    assert "1 -> 3" in distrl("scale", "corridor", "--samplers", "3")
    until(lambda: sum(sampler["state"] == "hosting" for sampler in status()["samplers"]) == 3)
    assert "3 -> 2" in distrl("scale", "corridor", "--samplers", "2", address=head.gcs)
    assert len(status(f"ray://127.0.0.1:{head.client}")["samplers"]) == 2
    assert "corridor: ppo on my_world:Corridor" in distrl("status", "corridor", "--once")

    watch = (
        "import sys; from distrl.runtime.jobs.server import JobServer; "
        "shown = JobServer(sys.argv[1]).watch('corridor'); "
        "print(*(next(shown)['version'] for _ in range(3)))"
    )
    watched = head.run([sys.executable, "-c", watch, head.http], project)
    versions = [int(word) for word in watched.stdout.split()]
    assert len(versions) == 3, watched.stderr
    assert versions == sorted(versions)
    assert versions[0] < versions[2]

    assert "writes a checkpoint" in distrl("stop", "corridor")
    listed = until(lambda: [row for row in json.loads(distrl("ps", "--json")) if row["state"] == "succeeded"])
    assert [row["run"] for row in listed] == ["corridor"]
    folder = head.home / "my runs" / "corridor"
    ended = json.loads((folder / "summary.json").read_text())
    assert ended["stopped"] == "stop command"
    assert (folder / "checkpoints" / f"update_{ended['updates']:08d}").is_dir()

    assert "submitted" in distrl("submit", "run.yaml", "--runs-dir", "~/my runs", "--resume")
    until(lambda: "resume" in distrl("logs", "corridor"))
    until(lambda: len(status()["samplers"]) == 1)
    assert "without a further checkpoint" in distrl("stop", "corridor", "--now")
    distrl("logs", "corridor", "--follow")
    assert json.loads((folder / "summary.json").read_text())["stopped"] == "stop --now command"
    assert "is not active: SUCCEEDED" in distrl("scale", "corridor", "--samplers", "2", fails=True)


@pytest.mark.ray
@pytest.mark.slow
def test_without_the_token_nobody_comes_in(head: Head, project: Path) -> None:
    head.token, right = "0" * 32, head.token
    try:
        done = head.distrl("ps", "--address", head.http, cwd=project)
    finally:
        head.token = right
    assert done.returncode == 6, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
