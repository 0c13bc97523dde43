"""Connecting to Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from distrl.base.errors import ResourceError

#: Key of a Ray job's metadata that holds the name of its run.
RUN_KEY = "distrl_run"
START_TRIES = 3
#: What Ray says where processes of its own were late or died at the start, which happens on busy machines: its deadline
#: for a new node's agent is 15 s, and a head starts a process for each client that comes by ray://.
PASSING = ("timed out during startup", "Starting Ray client server failed")


def connect(settings: Any, run: str | None = None) -> tuple[bool, bool]:
    """Connect to the cluster that the config names, or start a local one.

    Args:
        settings: The config's `ray` section.
        run: Name of the run, for the metadata of the Ray job that this process becomes.

    Returns:
        Whether the cluster is local, and whether it was started here (and so must be ended here).

    Raises:
        ResourceError: The cluster cannot be reached or started.
    """
    local = settings.address in (None, "local")
    if ray.is_initialized():
        return local, False
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # keep GPU variables of CPU-only actors as they are
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        options["address"] = "local"
        options["num_cpus"] = os.cpu_count()
        if settings.object_store_mb:
            options["object_store_memory"] = settings.object_store_mb * 2**20
    else:
        options = {"address": settings.address, "log_to_driver": False, "logging_level": logging.ERROR}
    if run is not None:
        options["job_config"] = ray.job_config.JobConfig(metadata={RUN_KEY: run})
    try:
        _init(options, START_TRIES)
    except AuthenticationError:
        raise ResourceError(
            f"the Ray cluster at {settings.address} asks for a token that this machine does not have.",
            "Set RAY_AUTH_MODE=token, and copy the cluster's token to ~/.ray/auth_token or into RAY_AUTH_TOKEN.",
        ) from None
    except Exception as error:  # Ray raises bare ones too, such as when its processes take too long to start
        where = "start a local Ray cluster" if local else f"reach the Ray cluster at {settings.address}"
        raise ResourceError(f"could not {where}: {error}", "See ray status, or use backend=serial.") from error
    return local, True


def _init(options: dict[str, Any], tries: int) -> None:
    """`ray.init`, and again where Ray says that processes of its own did not come up."""
    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if not left or not any(text in str(error) for text in PASSING):
                raise
            ray.shutdown()


def learner_gpus(device: str, processes: int, local: bool) -> int:
    """GPUs that each learner process reserves. On a remote cluster this machine may have none, and the cluster some."""
    if device != "auto":
        return int(device.startswith("cuda"))
    if local:
        import torch

        return int(torch.cuda.is_available())
    return int(ray.cluster_resources().get("GPU", 0) >= processes)


def fits(asked: Mapping[str, float]) -> bool:
    """Whether some living node is large enough, were it empty."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes)


def scarcity(asked: Mapping[str, float]) -> str:
    """Why an actor that reserves so much cannot start now, in words; an empty string where it can."""
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


def disconnect() -> None:
    """End what `connect` started."""
    ray.shutdown()
