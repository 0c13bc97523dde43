"""Connecting to Ray."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from distrl.base.errors import ResourceError


def connect(settings: Any) -> tuple[bool, bool]:
    """Connect to the cluster that the config names, or start a local one.

    Args:
        settings: The config's `ray` section.

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
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "start a local Ray cluster" if local else f"reach the Ray cluster at {settings.address}"
        raise ResourceError(f"could not {where}: {error}", "See ray status, or use backend=serial.") from error
    return local, True


def disconnect() -> None:
    """End what `connect` started."""
    ray.shutdown()
