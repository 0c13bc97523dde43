"""A Ray head of the tests' own: job server on loopback, token authentication, ports that are free when it starts."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

START_TRIES = 3
BIN = Path(sys.executable).parent


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, another one at every call: the system may offer one twice."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


class Head:
    """`ray start --head --block` in a process group of its own; `close` ends that group and nothing else.

    Args:
        cpus: That it offers.
        autoscaling: What Ray's autoscaler reads; nodes come from its provider of fake ones, on this machine.
    """

    def __init__(self, cpus: int = 8, autoscaling: dict[str, Any] | None = None):
        # Paths of sockets may have 107 characters, so pytest's long folders will not do.
        self.home = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
        self.token = secrets.token_hex(16)
        self.port, self.dashboard, self.client = free_port(), free_port(), free_port()
        self.gcs = f"127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{self.dashboard}"
        words = [
            "start", "--head", "--block", "--disable-usage-stats", f"--num-cpus={cpus}",
            f"--port={self.port}", "--node-ip-address=127.0.0.1", f"--ray-client-server-port={self.client}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
            f"--dashboard-agent-listen-port={free_port()}", f"--object-store-memory={200 * 2**20}",
            f"--temp-dir={self.home}",
        ]  # fmt: skip
        env = self.env()
        if autoscaling:
            file = self.home / "autoscaling.yaml"
            provider = {**autoscaling["provider"], "gcs_address": self.gcs}
            file.write_text(json.dumps({**autoscaling, "provider": provider}))  # JSON is YAML
            words.append(f"--autoscaling-config={file}")
            env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        self.output = self.home / "head.txt"
        for _ in range(START_TRIES):
            with open(self.output, "w") as output:
                self.process = subprocess.Popen(
                    [str(BIN / "ray"), *words], env=env, stdout=output, stderr=output, start_new_session=True
                )
            if self._wait():
                return
            self._end()
        raise AssertionError(f"the head did not come up:\n{self.output.read_text()}")

    def env(self) -> dict[str, str]:
        """Variables of processes that may talk to it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return {**kept, **secret, "PATH": path, "HOME": str(self.home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def _wait(self, seconds: float = 180.0) -> bool:
        """Whether it stands; not where one of Ray's own deadlines was too short for a busy machine."""
        deadline = time.monotonic() + seconds
        request = urllib.request.Request(f"{self.http}/api/version", headers={"Authorization": f"Bearer {self.token}"})
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(request, timeout=5).read()
                if "Ray runtime started" in self.output.read_text():
                    return True
            time.sleep(0.3)
        return False

    def distrl(self, *words: str, cwd: Path, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """One `distrl` command, as a user of this cluster types it."""
        return self.run([sys.executable, "-m", "distrl", *words], cwd, seconds)

    def run(self, words: Sequence[str], cwd: Path, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=cwd, env=self.env(), capture_output=True, text=True, timeout=seconds)

    def close(self) -> None:
        """End the head's own process group; what it started ends with it."""
        self._end()
        shutil.rmtree(self.home, ignore_errors=True)

    def _end(self) -> None:
        import psutil

        started = []
        if self.process.poll() is None:
            started = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        for process in psutil.wait_procs(started, timeout=3)[1]:
            process.kill()
