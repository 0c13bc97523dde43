"""A Ray cluster of several nodes on this one machine, to try everything that a cluster does.

    python cluster/local_cluster.py --nodes 2 --cpus 4

It runs until Ctrl-C and then ends what it started, and nothing else. The dashboard with its job server listens on
loopback; Ray's own ports listen on the machine's address, which Ray puts in the place of 127.0.0.1. Everybody needs the
token of `~/.ray/auth_token` (made where there is none).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

RAY = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])) or "ray"
LOOPBACK = "127.0.0.1"


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, another one at every call: the system may offer one twice."""
    while True:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, 0))
            port = int(listener.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def common(cpus: int, memory_mb: int) -> list[str]:
    """Words of `ray start` for every node: several on one machine must not take each other's ports."""
    return [
        "--block", "--disable-usage-stats", f"--node-ip-address={LOOPBACK}", f"--num-cpus={cpus}",
        f"--object-store-memory={memory_mb * 2**20}", f"--dashboard-agent-listen-port={free_port()}",
        f"--metrics-export-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip


def main() -> None:
    """Start a head and nodes; end them on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=2, help="besides the head")
    parser.add_argument("--cpus", type=int, default=4, help="that each node offers")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--dashboard-port", type=int, default=8265)
    parser.add_argument("--client-port", type=int, default=10001)
    parser.add_argument("--object-store-mb", type=int, default=200, help="of each node")
    given = parser.parse_args()

    env = {**os.environ, "RAY_AUTH_MODE": "token"}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    folder = Path(tempfile.mkdtemp(prefix="distrl", dir="/tmp"))  # paths of sockets must be short
    head = [
        "--head", f"--port={given.port}", f"--ray-client-server-port={given.client_port}", "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}", f"--dashboard-port={given.dashboard_port}", f"--temp-dir={folder / 'head'}",
    ]  # fmt: skip
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(
            start_head(head + common(given.cpus, given.object_store_mb), given.dashboard_port, ended, folder, env)
        )
        for node in range(given.nodes):
            # Nodes that share a folder unpack jobs' files under each other's feet.
            own = [f"--address={LOOPBACK}:{given.port}", f"--temp-dir={folder / str(node)}"]
            started.append(start(own + common(given.cpus, given.object_store_mb), folder / f"node{node}.txt", env))
        print(f"job server: http://{LOOPBACK}:{given.dashboard_port}   Ray: {LOOPBACK}:{given.port}", flush=True)
        print(f"{given.nodes + 1} nodes are starting; Ctrl-C ends them.", flush=True)
        while not ended.wait(0.5):
            if started[0].poll() is not None:
                sys.exit(f"the head ended:\n{(folder / 'head.txt').read_text()}")
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for _ in range(5):  # the last of them may still write
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(1)


def start(words: list[str], output: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """`ray start` in a process group of its own."""
    with open(output, "w") as file:
        return subprocess.Popen([RAY, "start", *words], env=env, stdout=file, stderr=file, start_new_session=True)


def start_head(
    words: list[str], dashboard_port: int, ended: threading.Event, folder: Path, env: dict[str, str]
) -> subprocess.Popen[bytes]:
    """The head, once its job server listens. On a busy machine Ray's own deadlines need another try."""
    for _ in range(3):
        head = start(words, folder / "head.txt", env)
        while head.poll() is None:
            with socket.socket() as probe:
                if ended.wait(0.3) or probe.connect_ex((LOOPBACK, dashboard_port)) == 0:
                    return head
    sys.exit(f"the head did not start:\n{(folder / 'head.txt').read_text()}")


if __name__ == "__main__":
    main()
