"""Sandbox of generated programs: a process with limits and namespaces.

A program gets a fresh folder, an empty environment and limits of CPU seconds, memory, file sizes, processes and wall
time; then it and its children are killed. On Linux with user namespaces and Landlock it has no network, sees no other
process and changes no file outside its folder; `Outcome.open_to` lists the isolation that is missing.

It can read the user's files. The sandbox protects against careless programs; against hostile ones run the whole sampler
in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from distrl.base.errors import ConfigError, ResourceError

LAUNCHER = Path(__file__).with_name("launch.py")
MIB = 2**20
#: Longest output recorded, in characters.
MOST_OUTPUT = 65536
#: Kinds of isolation.
ISOLATION = ("network", "processes", "files")


@dataclass(frozen=True)
class Limits:
    """Resource limits of a program.

    Attributes:
        seconds: Wall time, start of the interpreter included; on a busy machine much more than `cpu_seconds`.
        cpu_seconds: Whole CPU seconds of each process.
        memory_mb: Address space of each process, MiB.
        file_mb: Size of each file, and of the output, MiB.
        processes: Processes and threads (where namespaces are permitted).
        network: Permit network access, and with it the view of other processes.
    """

    seconds: float = 10.0
    cpu_seconds: int = 4
    memory_mb: int = 512
    file_mb: int = 8
    processes: int = 16
    network: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu_seconds", "memory_mb", "file_mb", "processes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"limit {name} = {getattr(self, name)} is not positive.", f"Raise {name}.")


@dataclass(frozen=True)
class Outcome:
    """Result of a program.

    Attributes:
        code: Exit code; -signal where a signal ended it (-24: out of CPU seconds); None at the time limit.
        output, errors: Standard output and error, at most `MOST_OUTPUT` characters each.
        seconds: Wall time.
        open_to: Missing isolation: some of "network", "processes", "files".
    """

    code: int | None
    output: str
    errors: str
    seconds: float
    open_to: tuple[str, ...]


def run_program(program: str, stdin: str = "", limits: Limits = Limits()) -> Outcome:
    """Run the text of a Python program and wait until it and its children have ended.

    Raises:
        ResourceError: The sandbox cannot be made: no POSIX system, no disk space, no processes left.
    """
    if os.name != "posix":
        raise ResourceError("the sandbox needs a POSIX system.", "Use Linux, or another verifier.")
    try:
        with tempfile.TemporaryDirectory(prefix="distrl-box-", ignore_cleanup_errors=True) as name:
            return _run_in(Path(name), program, stdin, limits)
    except OSError as error:
        raise ResourceError(f"no sandbox for a program: {error}.", "Free disk space or processes.") from error


def _run_in(base: Path, program: str, stdin: str, limits: Limits) -> Outcome:
    folder = base / "folder"
    folder.mkdir()
    (base / "program.py").write_text(program, encoding="utf-8", errors="replace")
    (base / "stdin").write_text(stdin, encoding="utf-8", errors="replace")
    begin = monotonic()
    reads, writes = os.pipe()
    try:
        process = _start(base, folder, writes, limits)
    except BaseException:
        os.close(reads)
        raise
    finally:
        os.close(writes)
    try:
        ready = select.select([reads], [], [], limits.seconds)[0]
        report = os.read(reads, 4096) if ready else b""
    finally:
        os.close(reads)
        _kill(process)
    output, errors = _text(base / "stdout"), _text(base / "stderr")
    seconds = monotonic() - begin
    if not ready:
        return Outcome(None, output, errors, seconds, ())
    if not report:
        raise ResourceError(f"the sandbox of a program failed: {errors.strip()[-300:]}.", "Check its memory.")
    isolated = json.loads(report)
    missing = tuple(kind for kind in ISOLATION if not isolated[kind])
    return Outcome(isolated["code"], output, errors, seconds, missing)


def _start(base: Path, folder: Path, report: int, limits: Limits) -> subprocess.Popen[bytes]:
    job = {
        "program": str(base / "program.py"),
        "folder": str(folder),
        "report": report,
        "cpu_seconds": int(limits.cpu_seconds),
        "memory": int(limits.memory_mb * MIB),
        "file_size": int(limits.file_mb * MIB),
        "processes": limits.processes + 2,  # two of the sandbox itself
        "network": limits.network,
    }
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (base / "stdin").open("rb") as stdin, (base / "stdout").open("wb") as out, (base / "stderr").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-s", "-P", str(LAUNCHER), json.dumps(job)],
            cwd=folder,
            env={**bare, **fixed},
            stdin=stdin,
            stdout=out,
            stderr=err,
            start_new_session=True,
            pass_fds=(report,),
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the launcher's process group and its other descendants, and reap the launcher."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in descendants:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MOST_OUTPUT).decode("utf-8", errors="replace")
