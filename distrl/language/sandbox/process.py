"""Programs that a model wrote, in a process of their own with limits.

A program gets a fresh folder, a bare environment and limits of CPU seconds, memory, file sizes, processes and wall
time; then everything it started is killed. Where the kernel permits (Linux with user namespaces and Landlock) it has no
network, sees no other process and changes no file outside its folder; `Outcome.open_to` says what was not closed.

It may still read what you may read. This keeps careless programs from doing harm; against programs that are written to
break out, run the whole sampler in a container or a virtual machine.
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
#: Most characters of output that are kept.
MOST_OUTPUT = 65536
#: Names of what a kernel may leave open.
DOORS = ("network", "processes", "files")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Wall time, starting the interpreter included. A busy machine needs much more than `cpu_seconds`.
        cpu_seconds: Whole CPU seconds of each process.
        memory_mb: Address space of each process, MiB.
        file_mb: Size of each file, and of the output, MiB.
        processes: Processes and threads (where namespaces are permitted).
        network: Leave the network, and with it the sight of other processes, open.
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
    """How a program ended.

    Attributes:
        code: Exit code; -signal where a signal ended it (-24: out of CPU seconds); None where it ran out of time.
        output: What it wrote to standard output, at most `MOST_OUTPUT` characters.
        errors: The same of standard error.
        seconds: Wall time.
        open_to: What the kernel did not let us close: some of "network", "processes", "files".
    """

    code: int | None
    output: str
    errors: str
    seconds: float
    open_to: tuple[str, ...]

    @property
    def timed_out(self) -> bool:
        """True where the program was killed at the end of its wall time."""
        return self.code is None


def run_program(program: str, stdin: str = "", limits: Limits = Limits()) -> Outcome:
    """Run a Python program and wait until it and all it started are gone.

    Args:
        program: Its text.
        stdin: What it reads.
        limits: What it may use.

    Raises:
        ResourceError: The box could not be made: no POSIX system, no room for a temporary folder, no processes left.
    """
    if os.name != "posix":
        raise ResourceError("programs can be boxed on POSIX systems only.", "Use Linux, or another verifier.")
    try:
        with tempfile.TemporaryDirectory(prefix="distrl-box-", ignore_cleanup_errors=True) as name:
            return _run_in(Path(name), program, stdin, limits)
    except OSError as error:
        raise ResourceError(f"no box for a program: {error}.", "Free disk space or processes.") from error


def doors_left_open() -> tuple[str, ...]:
    """What this machine's kernel does not let us close, tried with a small program."""
    return run_program("pass", limits=Limits(seconds=20.0)).open_to


def _run_in(box: Path, program: str, stdin: str, limits: Limits) -> Outcome:
    folder = box / "folder"
    folder.mkdir()
    (box / "program.py").write_text(program, encoding="utf-8", errors="replace")
    (box / "stdin").write_text(stdin, encoding="utf-8", errors="replace")
    begin = monotonic()
    reads, writes = os.pipe()
    try:
        process = _start(box, folder, writes, limits)
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
    output, errors = _text(box / "stdout"), _text(box / "stderr")
    seconds = monotonic() - begin
    if not ready:
        return Outcome(None, output, errors, seconds, ())
    if not report:
        raise ResourceError(f"the box of a program broke: {errors.strip()[-300:]}.", "Check the memory of the machine.")
    told = json.loads(report)
    return Outcome(told["code"], output, errors, seconds, tuple(door for door in DOORS if not told[door]))


def _start(box: Path, folder: Path, report: int, limits: Limits) -> subprocess.Popen[bytes]:
    order = {
        "program": str(box / "program.py"),
        "folder": str(folder),
        "report": report,
        "cpu_seconds": int(limits.cpu_seconds),
        "memory": int(limits.memory_mb * MIB),
        "file_size": int(limits.file_mb * MIB),
        "processes": limits.processes + 2,  # the box's own two
        "network": limits.network,
    }
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (box / "stdin").open("rb") as stdin, (box / "stdout").open("wb") as out, (box / "stderr").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-s", "-P", str(LAUNCHER), json.dumps(order)],
            cwd=folder,
            env={**bare, **fixed},
            stdin=stdin,
            stdout=out,
            stderr=err,
            start_new_session=True,
            pass_fds=(report,),
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the launcher's process group, and whoever left the group, and reap the launcher."""
    left: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        left = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in left:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MOST_OUTPUT).decode("utf-8", errors="replace")
