"""Tiny runs, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrl.runtime.train import train

REPOSITORY = Path(__file__).resolve().parent.parent


def config(name: str = "run", **changes: Any) -> dict[str, Any]:
    """A deterministic PPO run of a second: CartPole, 4 environments in 4 streams, 16 steps, 10 updates.

    Args:
        changes: Sections are merged (`stop={"updates": 3}`), other keys replaced; a section given as None is removed.
    """
    return merged(
        {
            "name": name,
            "seed": 1,
            "backend": "serial",
            "deterministic": True,
            "env": {"id": "CartPole-v1", "num_envs": 4, "streams": 4},
            "model": {"hidden": [16]},
            "algorithm": {"name": "ppo", "rollout_steps": 16, "epochs": 2, "minibatches": 2},
            "checkpoint": {"every": 128, "every_seconds": 0},
            "stop": {"updates": 10},
            "logging": {"console": "quiet", "tensorboard": False},
        },
        changes,
    )


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two levels of a config, merged."""
    result = dict(base)
    for key, value in changes.items():
        inside = result.get(key)
        result[key] = {**inside, **value} if isinstance(inside, dict) and isinstance(value, dict) else value
    return result


def parameter_hash(run: Mapping[str, Any], runs_dir: Path) -> str:
    """Train in this process; the hash of the last weights."""
    return train(run, runs_dir=runs_dir)["parameter_hash"]


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; every line must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(run_folder: Path, kind: str) -> list[dict[str, Any]]:
    """The facts of all events of one kind."""
    return [line["facts"] for line in lines(run_folder / "events.jsonl") if line["kind"] == kind]


def check_curve(run_folder: Path) -> None:
    """One unbroken curve over all attempts: steps only grow, no tag has two values at one update, the end is there."""
    points = lines(run_folder / "metrics.jsonl")
    places = [(point["update"], point["env_steps"]) for point in points]
    assert places == sorted(places)
    assert places[-1][0] == summary_of(run_folder)["updates"]
    # An evaluation may come in a line of its own, and every line tells the time and what the machine is doing.
    tags = [
        (tag, point["update"]) for point in points for tag in point if tag.startswith(("loss/", "return/", "eval/"))
    ]
    assert len(tags) == len(set(tags))


def summary_of(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "summary.json").read_text())


class Training:
    """`distrl train` in a process group of its own, so that all of it can be killed.

    Args:
        run: The config.
        runs_dir: Where its run folder is.
        resume: Continue it.
        variables: For the environment, such as KILL_AT_UPDATE.
    """

    def __init__(self, run: Mapping[str, Any], runs_dir: Path, *, resume: bool = False, **variables: Any):
        self.folder = runs_dir / str(run["name"])
        file = runs_dir.parent / f"{run['name']}.yaml"
        file.write_text(json.dumps(run))  # JSON is YAML
        command = [sys.executable, "-m", "distrl", "train", str(file), "--runs-dir", str(runs_dir)]
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        self.process = subprocess.Popen(
            command + ["--resume"] * resume,
            cwd=REPOSITORY,
            env={**inherited, **{name: str(value) for name, value in variables.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self, seconds: float = 180) -> tuple[int, str]:
        """Exit code (negative: the signal) and everything that was printed; kills what takes too long."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            output, _ = self.process.communicate()
            raise AssertionError(f"still running after {seconds} s:\n{output}") from None
        return self.process.returncode, output

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


#: what tests/runtime/user_code.py reads
OWN_VARIABLES = ("KILL_AT_UPDATE", "KILL_DELAY", "INTERRUPT_AT_UPDATE", "LEARNER_KILLED")


def train_apart(run: Mapping[str, Any], runs_dir: Path, **options: Any) -> tuple[int, str]:
    """Run `Training` to its end; exit code and output."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    return Training(run, runs_dir, **options).wait()
