"""Runs by name: in a folder of this machine, on a Ray cluster, or behind a job server; one face for all three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from distrl.base.errors import ConfigError
from distrl.runtime.commands.files import ANSWER_SECONDS, Command, FolderRun


class Run(Protocol):
    """A run seen from outside."""

    def status(self) -> dict[str, Any] | None:
        """The newest record of `runtime/loop/status.py`; None where there is none."""

    def watch(self) -> Iterator[dict[str, Any]]:
        """The status again and again, until the run ends."""

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        """Give a command and wait for the answer."""


@dataclass
class ServedRun:
    """A run behind a job server.

    Args:
        server: A `jobs.JobServer`.
        run: Its name.
    """

    server: Any
    run: str

    def status(self) -> dict[str, Any] | None:
        return self.server.status(self.run)

    def watch(self) -> Iterator[dict[str, Any]]:
        return self.server.watch(self.run)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        return self.server.send(self.run, command, seconds)


def is_local(address: str | None) -> bool:
    """Whether an address means runs in folders of this machine."""
    return address in (None, "", "local")


def is_job_server(address: str | None) -> bool:
    """Whether an address is a job server's, reached by HTTP alone."""
    return bool(address) and str(address).startswith(("http://", "https://"))


def open_run(run: str, address: str | None, runs_dir: Path) -> Run:
    """Find a run by its name.

    Args:
        address: None or `local`: in `runs_dir`. `http://HEAD:8265`: through the job server. `auto`, `HOST:PORT` or
            `ray://HOST:PORT`: this process connects to the cluster.
        runs_dir: Where run folders are; `run` may also be the path of one.

    Raises:
        ConfigError: There is none of this name.
        ResourceError: The cluster is not reached.
    """
    if is_job_server(address):
        from distrl.runtime.jobs.server import JobServer

        return ServedRun(JobServer(str(address)), run)
    if not is_local(address):
        from distrl.runtime.backends.cluster import connect
        from distrl.runtime.commands.control_actor import ActorRun

        connect(SimpleNamespace(address=address))
        return ActorRun(run)
    return FolderRun(run_folder(run, runs_dir))


def run_folder(run: str, runs_dir: Path) -> Path:
    """The folder of a run.

    Raises:
        ConfigError: None; the runs there are named.
    """
    for folder in (runs_dir / run, Path(run)):
        if (folder / "config.yaml").is_file():
            return folder
    known = ", ".join(folder.name for folder in run_folders(runs_dir)) or "none"
    raise ConfigError(
        f"no run {run!r} in {runs_dir}; there are: {known}.", "For a run on a cluster give its --address as well."
    )


def run_folders(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, the newest first."""
    found = [file.parent for file in runs_dir.glob("*/config.yaml")]
    return sorted(found, key=lambda folder: (folder / "config.yaml").stat().st_mtime, reverse=True)
