"""`distrl doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import print_table, say

#: Least free disk for checkpoints and curves, and least free memory for Ray's shared memory.
LEAST_DISK_BYTES = 2**30
LEAST_MEMORY_BYTES = 2**30
#: A disk that is fuller than this gets nothing more from Ray (its own default, `RAY_local_fs_capacity_threshold`).
RAY_DISK_LIMIT = 0.95

Row = tuple[str, str, str, str]  # level, title, detail, fix


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="With --env: env.kwargs.size=3, imports=[my.py].")
    ] = None,
    env: Annotated[str | None, typer.Option(help="Check this environment: its id, module:Class, or a config.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --env: how many random steps to watch.")] = 1000,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Whether to try to start Ray.")] = True,
) -> None:
    """Look at this machine, or at an environment; exit code 1 where something would stop a run."""
    from distrl.base.errors import UserError

    if env is None and overrides:
        raise UserError(f"{overrides[0]!r}: keys are for --env.", "For example: distrl doctor --env CartPole-v1.")
    rows = list(look_at_machine(ray)) if env is None else look_at_env(env, list(overrides or []), steps)
    print_table(("", "", "found", "what to do"), rows)
    errors = sum(level == "error" for level, *_ in rows)
    if errors:
        say(f"{errors} of these would stop a run.")
        raise typer.Exit(1)


def look_at_env(env: str, overrides: list[str], steps: int) -> list[Row]:
    """Check an environment given as id, `module:Class`, or path of a config."""
    from distrl.base.registry import import_user_code
    from distrl.config.load import load_config
    from distrl.control.envs.checker.check import check_env

    bare = {"name": "doctor", "env": {"id": env}, "algorithm": {"name": "ppo"}, "stop": {"updates": 1}}
    is_file = env.endswith((".yaml", ".yml")) or Path(env).is_file()
    config = load_config(Path(env) if is_file else bare, overrides)
    import_user_code(config.imports)
    return [(found.level, found.title, found.detail, found.fix) for found in check_env(config.environment, steps)]


def look_at_machine(ray: bool) -> Iterator[Row]:
    """Check versions, cores, memory, disk, GPU, and the start of Ray."""
    yield from _versions()
    yield from _resources()
    yield _gpu()
    if ray:
        yield _ray()


def _versions() -> Iterator[Row]:
    import platform
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from distrl import __version__

    yield "ok", "distrl", f"{__version__} on Python {platform.python_version()}, {platform.platform()}", ""
    for name in ("torch", "ray", "gymnasium", "numpy"):
        try:
            yield "ok", name, version(name), ""
        except PackageNotFoundError:
            yield "error", name, "not installed", f"pip install {name}"
    for extra, names in _EXTRAS.items():
        lacking = [name for name in names if find_spec(name) is None]
        found = f"without {', '.join(lacking)}" if lacking else "complete"
        yield "ok", f"extra {extra}", found, f"pip install 'distrl[{extra}]' to have it" if lacking else ""


_EXTRAS = {
    "cluster": ("aiohttp", "opencensus"),
    "envs": ("Box2D", "mujoco", "envpool", "ale_py", "minatar"),
    "export": ("onnx", "onnxruntime", "onnxscript", "imageio"),
}


def _resources() -> Iterator[Row]:
    import shutil

    import psutil

    from distrl.config.derived import format_bytes

    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield "ok", "cores", f"{cores}" + (f", {usable} of them for this process" if usable < cores else ""), ""
    memory = psutil.virtual_memory()
    text = f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    low = memory.available < LEAST_MEMORY_BYTES
    yield "warn" if low else "ok", "memory", text, "Close other programs, or use backend=serial." if low else ""
    disk = shutil.disk_usage(Path.cwd())
    low = disk.free < LEAST_DISK_BYTES
    text = f"{format_bytes(disk.free)} free of {format_bytes(disk.total)} in this folder"
    yield "warn" if low else "ok", "disk", text, "Free some, or use --runs-dir on another disk." if low else ""
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        low = free < 200 * 2**20
        fix = "Set ray.object_store_mb=100; in Docker, --shm-size=1g." if low else ""
        yield "warn" if low else "ok", "shared memory", f"{format_bytes(free)} free in {shared}", fix
    spill = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    disk = shutil.disk_usage(spill)
    used = 1 - disk.free / disk.total
    low = used > RAY_DISK_LIMIT
    fix = "Ray ends runs whose fragments outgrow its shared memory; free some, or set RAY_TMPDIR." if low else ""
    yield "warn" if low else "ok", "Ray's disk", f"{used:.0%} of {spill} used, Ray's limit is {RAY_DISK_LIMIT:.0%}", fix


def _gpu() -> Row:
    import torch

    if not torch.cuda.is_available():
        return "ok", "GPU", "none that torch can use: learner.device auto means cpu", ""
    count = torch.cuda.device_count()
    return "ok", "GPU", ", ".join(torch.cuda.get_device_name(i) for i in range(count)), ""


def _ray() -> Row:
    from time import perf_counter

    import ray

    from distrl.base.errors import UserError
    from distrl.runtime.backends.cluster import connect

    before = perf_counter()
    try:
        connect(None)
    except UserError as error:
        return "error", "Ray", error.problem, error.fix
    ray.shutdown()
    return "ok", "Ray", f"a local cluster started and ended in {perf_counter() - before:.1f} s", ""
