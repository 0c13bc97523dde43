"""A Ray cluster of several nodes on this machine (`ray.cluster_utils.Cluster`), in a process of its own.

That process obeys lines on its standard input and ends the cluster when there are no more, so that nothing of it can
reach a Ray that the tests themselves are connected to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psutil

from tests.helpers import REPOSITORY

MIB = 2**20


class Nodes:
    """A cluster to add nodes to and remove them from.

    Args:
        cpus: Of the head.
        memory_mb: Size of each node's object store.
    """

    def __init__(self, cpus: int, memory_mb: int = 150):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_nodes"],
            cwd=REPOSITORY,
            env={**inherited, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "disabled"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.memory_mb = memory_mb
        self.address = self.ask("add", cpus, memory_mb)["address"]

    def ask(self, *words: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError("the cluster's process ended")

    def add(self, cpus: int) -> str:
        """A further node; returns its id."""
        return self.ask("add", cpus, self.memory_mb)["node"]

    def remove(self, node: str) -> None:
        """Kill every process of a node; what its object store held is gone."""
        self.ask("remove", node)

    def learner(self) -> int:
        """Process of the run's learner."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        [found] = [process.pid for process in below if "LearnerActor" in " ".join(process.cmdline())]
        return found

    def close(self) -> None:
        """Kill the cluster, head included."""
        self.process.communicate()  # closes its input first
        assert self.process.returncode == 0

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """The cluster's own process."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    there = {}
    for line in sys.stdin:
        verb, *words = json.loads(line)
        answer = {}
        if verb == "add":
            cpus, memory_mb = words
            node = cluster.add_node(num_cpus=cpus, object_store_memory=memory_mb * MIB, include_dashboard=False)
            there[node.node_id] = node
            answer = {"node": node.node_id, "address": cluster.address}
        if verb == "remove":
            cluster.remove_node(there.pop(words[0]), allow_graceful=False)
        print(json.dumps(answer), flush=True)
    nodes = [*cluster.worker_nodes, cluster.head_node]
    for node in nodes:
        if node is not None:
            cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main()
