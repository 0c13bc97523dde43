"""Connection to a Ray cluster, and its resources."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import ray
from ray.exceptions import AuthenticationError

from distrl.base.errors import ResourceError

#: Handle of a Ray actor, whose methods Ray does not type.
Actor: TypeAlias = Any

#: Key of a Ray job's metadata that holds the name of its run.
RUN_KEY = "distrl_run"
START_TRIES = 3
#: Messages of Ray when its own processes are late at the start, as on busy machines: it waits 15 s for a new node's
#: agent, and a head starts a process for each ray:// client.
TRANSIENT = ("timed out during startup", "Starting Ray client server failed")


def connect(address: str | None, run: str | None = None, object_store_mb: int | None = None) -> tuple[bool, bool]:
    """Connect to a cluster, or start a local one (address None or `local`) with an object store.

    The name of the run goes into the metadata of this process's Ray job. Return whether the cluster is local, and
    whether it was started here, to be ended here.
    """
    local = address in (None, "local")
    if ray.is_initialized():
        return local, False
    # keep the GPU variables of CPU-only actors
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        options |= {"address": "local", "include_dashboard": False, "num_cpus": os.cpu_count()}
        if object_store_mb:
            options["object_store_memory"] = object_store_mb * 2**20
    if run is not None:
        options["job_config"] = ray.job_config.JobConfig(metadata={RUN_KEY: run})
    try:
        _init(options, START_TRIES)
    except AuthenticationError:
        raise token_missing(f"the Ray cluster at {address}") from None
    except Exception as error:  # Ray raises bare exceptions too
        where = "start a local Ray cluster" if local else f"reach the Ray cluster at {address}"
        raise ResourceError(f"could not {where}: {error}", "See ray status, or use backend=serial.") from error
    return local, True


def token_missing(server: str) -> ResourceError:
    fix = "Set RAY_AUTH_MODE=token, and copy the cluster's token to ~/.ray/auth_token or into RAY_AUTH_TOKEN."
    return ResourceError(f"{server} requires a token that this machine does not have.", fix)


def _init(options: dict[str, Any], tries: int) -> None:
    """Call `ray.init`, repeatedly if its processes are late."""
    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if not left or not any(text in str(error) for text in TRANSIENT):
                raise
            ray.shutdown()


def learner_gpus(device: str, processes: int, local: bool) -> int:
    """Return the GPUs that each learner process reserves, here or on a remote cluster."""
    if device != "auto":
        return int(device.startswith("cuda"))
    if local:
        import torch

        return int(torch.cuda.is_available())
    return int(ray.cluster_resources().get("GPU", 0) >= processes)


def fits(asked: Mapping[str, float]) -> bool:
    """Return True if some living node has these resources in total."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes)


def scarcity(asked: Mapping[str, float]) -> str:
    """Describe why an actor with these resources cannot start now, or return an empty string."""
    wish = " and ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
    if not fits(asked):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        had = "; ".join(" and ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes[:8])
        return f"it asks for {wish}, and no node is that large: {len(nodes)} nodes have {had}"
    free = ray.available_resources()
    if any(free.get(name, 0) < amount for name, amount in asked.items()):
        left = " and ".join(f"{free.get(name, 0):g} {name}" for name in asked)
        return f"it asks for {wish}, and {left} of the cluster are free"
    return ""
