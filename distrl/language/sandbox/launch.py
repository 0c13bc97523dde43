"""Runs one program in a box: started by `sandbox.py` as a process of its own, with the standard library only.

    launcher (waits, reports)  ->  first process of the box (its end ends all others)  ->  the program

Usage: python sandbox_launch.py '{"program": ..., "folder": ..., "report": fd, ...}'. What the kernel does not permit is
left out and told in the report: {"code": exit code or -signal, "network": bool, "processes": bool, "files": bool}.
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
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock, the same on every processor
# Landlock's rights that change files: write, remove, make; linking elsewhere from its version 2, truncating from 3
WRITE_FILE, CHANGE, REFER, TRUNCATE = 1 << 1, sum(1 << bit for bit in (1, *range(4, 13))), 1 << 13, 1 << 14
NO_SOCKETS_NO_SIGNALS = 0b11  # scopes from version 6: abstract sockets and processes outside the box
UTF8 = "utf-8"

libc = ctypes.CDLL(None, use_errno=True)


def leave_namespaces() -> bool:
    """No network, no sight of other processes, no privileges. False where the kernel does not permit it."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding=UTF8) as file:
            file.write(text)
    return True


def restrict_writes(folder: str) -> bool:
    """Files can be changed in `folder` only. False where the kernel has no Landlock."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = CHANGE | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    words = (ctypes.c_uint64 * 3)(rights, 0, NO_SOCKETS_NO_SIGNALS if version >= 6 else 0)
    ruleset = libc.syscall(CREATE_RULESET, words, ctypes.c_size_t(24 if version >= 6 else 8), 0)
    if ruleset < 0:
        return False
    for path, allowed in ((folder, rights), ("/dev/null", WRITE_FILE)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        failed = libc.syscall(ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0) != 0
        os.close(place)
        if failed:
            return False
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def set_limits(order: dict[str, Any], counted: bool) -> None:
    """Limits of the program and of whatever it starts. Processes are counted per box only within namespaces."""
    limits = {
        resource.RLIMIT_CPU: order["cpu_seconds"],
        resource.RLIMIT_AS: order["memory"],
        resource.RLIMIT_FSIZE: order["file_size"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if counted:
        limits[resource.RLIMIT_NPROC] = order["processes"]
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def run_program(order: dict[str, Any], counted: bool) -> None:
    """Become the program. Ends the process."""
    code = 1
    try:
        with open(order["program"], encoding=UTF8) as file:
            text = file.read()
        set_limits(order, counted)
        sys.argv = ["program.py"]
        exec(compile(text, "program.py", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter itself does at the end of a program
        sys.excepthook(*sys.exc_info())
    try:
        sys.stdout.flush()
    finally:
        os._exit(code & 0xFF)


def wait_for(child: int) -> int:
    """Exit code of a child, or -signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Build the box, run the program, report."""
    order = json.loads(sys.argv[1])
    alone = order["network"] is False and leave_namespaces()
    guarded = restrict_writes(order["folder"])
    ends, tells = os.pipe()
    launcher = os.getpid()
    first = os.fork()
    if first == 0:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if not alone and os.getppid() != launcher:
            os._exit(1)
        os.close(order["report"])
        os.close(ends)
        program = os.fork()
        if program == 0:
            os.close(tells)
            run_program(order, alone)
        os.write(tells, str(wait_for(program)).encode())
        os._exit(0)
    os.close(tells)
    wait_for(first)
    code = int(os.read(ends, 16) or b"-9")
    report = {"code": code, "network": alone, "processes": alone, "files": guarded}
    os.write(order["report"], json.dumps(report).encode())


if __name__ == "__main__":
    main()
