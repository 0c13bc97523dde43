"""Launcher of one program in a sandbox, started by `process.py`; standard library only.

    launcher (waits, reports)  ->  first process of the namespace (its end ends all others)  ->  the program

Usage: python launch.py '{"program": ..., "folder": ..., "report": fd, ...}'. The report lists the isolation that the
kernel permitted: {"code": exit code or -signal, "network": bool, "processes": bool, "files": bool}.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NEW_USER, NEW_PID, NEW_NET, NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
DIE_WITH_PARENT, NO_NEW_PRIVILEGES = 1, 38  # of prctl
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock
# Landlock's rights that change files: write, remove, make; linking elsewhere from its version 2, truncating from 3
WRITE_FILE, CHANGE, REFER, TRUNCATE = 1 << 1, sum(1 << bit for bit in (1, *range(4, 13))), 1 << 13, 1 << 14
NO_SOCKETS_NO_SIGNALS = 0b11  # scopes from version 6: abstract sockets and processes outside the sandbox
UTF8 = "utf-8"

libc = ctypes.CDLL(None, use_errno=True)


def leave_namespaces() -> bool:
    """Enter namespaces without network, other processes and privileges; False if not permitted."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding=UTF8) as file:
            file.write(text)
    return True


def restrict_writes(folder: str) -> bool:
    """Restrict file changes to `folder`; False if the kernel has no Landlock."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = CHANGE | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    words = (ctypes.c_uint64 * 3)(rights, 0, NO_SOCKETS_NO_SIGNALS if version >= 6 else 0)
    ruleset = libc.syscall(CREATE_RULESET, words, ctypes.c_size_t(24 if version >= 6 else 8), 0)
    if ruleset < 0:
        return False
    for path, allowed in ((folder, rights), ("/dev/null", WRITE_FILE)):
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = allowed.to_bytes(8, sys.byteorder) + target.to_bytes(4, sys.byteorder)
        failed = libc.syscall(ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0) != 0
        os.close(target)
        if failed:
            return False
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def set_limits(job: dict[str, Any], counted: bool) -> None:
    """Limit the program and its children, their number only within namespaces."""
    limits = {
        resource.RLIMIT_CPU: job["cpu_seconds"],
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_FSIZE: job["file_size"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if counted:
        limits[resource.RLIMIT_NPROC] = job["processes"]
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def run_program(job: dict[str, Any], counted: bool) -> None:
    """Run the program in this process and exit."""
    code = 1
    try:
        with open(job["program"], encoding=UTF8) as file:
            text = file.read()
        set_limits(job, counted)
        sys.argv = ["program.py"]
        exec(compile(text, "program.py", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # like the interpreter at the end of a program
        sys.excepthook(*sys.exc_info())
    try:
        sys.stdout.flush()
    finally:
        os._exit(code & 0xFF)


def wait_for(child: int) -> int:
    """Wait for a child; returns its exit code, or -signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Build the sandbox, run the program, report."""
    job = json.loads(sys.argv[1])
    isolated = job["network"] is False and leave_namespaces()
    files_restricted = restrict_writes(job["folder"])
    reads, writes = os.pipe()
    launcher = os.getpid()
    first = os.fork()
    if first == 0:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if not isolated and os.getppid() != launcher:
            os._exit(1)
        os.close(job["report"])
        os.close(reads)
        program = os.fork()
        if program == 0:
            os.close(writes)
            run_program(job, isolated)
        os.write(writes, str(wait_for(program)).encode())
        os._exit(0)
    os.close(writes)
    wait_for(first)
    code = int(os.read(reads, 16) or b"-9")
    report = {"code": code, "network": isolated, "processes": isolated, "files": files_restricted}
    os.write(job["report"], json.dumps(report).encode())


if __name__ == "__main__":
    main()
