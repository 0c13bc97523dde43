"""Helpers of all benchmark scripts: machine facts, result files, medians, peers.

Run the scripts from anywhere with the project's interpreter, e.g. `python benchmarks/floors.py`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from distrl.base.errors import ResourceError, UserError, unknown
from distrl.base.files import read_json, to_json, write_atomic

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
PACKAGES = ("torch", "ray", "gymnasium", "numpy", "envpool", "distrl")


def named(kind: str, names: str | None, known: Mapping[str, Any]) -> list[Any]:
    """Select the entries of a comma-separated list, in its order; all without one.

    Args:
        kind: What they are, for the error.

    Raises:
        UserError: Unknown name.
    """
    if not names:
        return list(known.values())
    for name in names.split(","):
        if name not in known:
            raise UserError(unknown(kind, name, known))
    return [known[name] for name in names.split(",")]


@dataclass(frozen=True)
class Peer:
    """A peer script and its environment; `venv` None is the project's own interpreter.

    `setup` makes the environment; by default setup.sh with its name.
    """

    script: str
    venv: str | None = None
    setup: str = ""

    @property
    def python(self) -> Path:
        """Interpreter of the peer."""
        return Path(sys.executable) if self.venv is None else FOLDER / f".venv-{self.venv}" / "bin" / "python"


PEERS = {
    "ours": Peer("ours.py"),
    "sb3": Peer("sb3_ppo.py", "sb3"),
    "sb3-off-policy": Peer("sb3_off_policy.py", "sb3"),
    "single-file": Peer("single_file_ppo.py"),
    "rllib": Peer("rllib_train.py", "rllib"),
    "sample-factory": Peer("sample_factory_appo.py", "sample-factory"),
    "trl-gradients": Peer("trl_gradients.py", "trl", "setup_trl.sh"),
    "trl-speed": Peer("trl_speed.py", "trl", "setup_trl.sh"),
}


def machine_facts() -> dict[str, Any]:
    """Collect processor, cores, memory, load and versions, for the record of a timing."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cpu_model() -> str:
    """The processor's name, from /proc where there is one."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` atomically, with the machine's facts added."""
    path = RESULTS / f"{name}.json"
    write_atomic(path, to_json({"machine": machine_facts(), **result}, indent=1) + "\n")
    return path


def read_result(name: str) -> dict[str, Any] | None:
    """Read a result of `write_result`; None if there is none."""
    path = RESULTS / f"{name}.json"
    return read_json(path) if path.exists() else None


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and all values of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def median_of(repeats: int, measure: Callable[[], float]) -> dict[str, Any]:
    """Measure several times and summarize."""
    return summarize([measure() for _ in range(repeats)])


def have_peer(name: str) -> bool:
    """True if the peer's environment is set up."""
    return PEERS[name].python.exists()


def run_peer(name: str, *arguments: object, timeout: float = 600.0) -> dict[str, Any]:
    """Run a peer script in its own environment and return its result line.

    Args:
        name: A key of `PEERS`.
        arguments: Command-line words of the script.
        timeout: Seconds; then the script and every process it started are killed.

    Raises:
        UserError: The peer is not installed, or it failed, or printed no result.
        ResourceError: It did not end in time.
    """
    peer = PEERS[name]
    if not peer.python.exists():
        raise UserError(f"peer {name} has no environment at {peer.python.parents[1]}.", _setup_command(peer))
    command = [str(peer.python), str(FOLDER / "peers" / peer.script), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=_peer_environment(),
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"peer {name} did not end within {timeout:g} s.", "Give it fewer --total-steps or a longer timeout."
        ) from error
    finally:
        kill_group(process)
    result = parse_result(out)
    if process.returncode != 0 or result is None:
        tail = "\n".join(err.strip().splitlines()[-8:])
        raise UserError(f"peer {name} exited with {process.returncode} and no result line:\n{tail}", " ".join(command))
    return result


def parse_result(out: str) -> dict[str, Any] | None:
    """The last line of `out` that is a JSON object with the key "peer"."""
    for line in reversed(out.splitlines()):
        if line.startswith("{") and '"peer"' in line:
            return json.loads(line)
    return None


def seconds_to_reach(curve: Sequence[Sequence[float]], target: float) -> float | None:
    """Training seconds of the first evaluation at or above the target, or None.

    Args:
        curve: [env_steps, train_seconds, mean_return] per evaluation.
        target: Mean return to reach.
    """
    return next((seconds for _, seconds, mean in curve if mean >= target), None)


def _setup_command(peer: Peer) -> str:
    return f"Run: benchmarks/peers/{peer.setup or f'setup.sh {peer.venv}'}"


def _peer_environment() -> dict[str, str]:
    """Environment variables without those that lead to packages of this project."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return environment | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill the process group of a script that was started in a new session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
