"""Runs by name: in a folder of this machine, on a Ray cluster, or through a job server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distrl.base.errors import ConfigError
from distrl.runtime.commands.files import ANSWER_SECONDS, Command, FolderRun, Json

if TYPE_CHECKING:
    from distrl.runtime.jobs.server import JobServer


class Run(Protocol):
    """A run, accessed from outside."""

    def status(self) -> Json | None: ...
    def watch(self) -> Iterator[Json]: ...  # the status every second until the run ends
    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str: ...  # returns the answer


@dataclass
class ServedRun:
    """A run on the cluster of a job server."""

    server: JobServer
    run: str

    def status(self) -> Json | None:
        return self.server.status(self.run)

    def watch(self) -> Iterator[Json]:
        return self.server.watch(self.run)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        return self.server.send(self.run, command, seconds)


def is_local(address: str | None) -> bool:
    """Return True if the address stands for runs in folders of this machine."""
    return address in (None, "", "local")


def is_job_server(address: str | None) -> bool:
    return bool(address) and str(address).startswith(("http://", "https://"))


def open_run(run: str, address: str | None, runs_dir: Path) -> Run:
    """Find a run by its name or folder: at a job server, on a Ray cluster, or in `runs_dir`."""
    if is_job_server(address):
        from distrl.runtime.jobs.server import JobServer

        return ServedRun(JobServer(str(address)), run)
    if not is_local(address):
        from distrl.runtime.backends.cluster import connect
        from distrl.runtime.commands.control_actor import ActorRun

        connect(address)
        return ActorRun(run)
    return FolderRun(run_folder(run, runs_dir))


def run_folder(run: str, runs_dir: Path) -> Path:
    for folder in (runs_dir / run, Path(run)):
        if (folder / "config.yaml").is_file():
            return folder
    known = ", ".join(folder.name for folder in run_folders(runs_dir)) or "none"
    fix = "For a run on a cluster give its --address as well."
    raise ConfigError(f"no run {run!r} in {runs_dir}; there are: {known}.", fix)


def run_folders(runs_dir: Path) -> list[Path]:
    """List the run folders in a folder, newest first."""
    found = [file.parent for file in runs_dir.glob("*/config.yaml")]
    return sorted(found, key=lambda folder: (folder / "config.yaml").stat().st_mtime, reverse=True)
