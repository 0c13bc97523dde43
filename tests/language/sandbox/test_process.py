"""The box of programs that a model wrote: limits, and what is left after it."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from distrl.base.errors import ConfigError
from distrl.language.sandbox.process import MOST_OUTPUT, Limits, run_program

#: Wall time on a machine that many share; CPU seconds are what programs run out of.
CALM = Limits(seconds=60.0, cpu_seconds=2)


@pytest.fixture(scope="module")
def doors() -> tuple[str, ...]:
    """What this kernel leaves open."""
    return run_program("pass", limits=Limits(seconds=20.0)).open_to


def test_input_output_and_exit_codes():
    outcome = run_program("import sys; print(input() * 2); print('bad', file=sys.stderr); sys.exit(3)", "ab\n", CALM)
    assert (outcome.code, outcome.output, outcome.errors) == (3, "abab\n", "bad\n")


def test_failures_keep_their_traceback():
    outcome = run_program("def f():\n    return 1 / 0\nf()", limits=CALM)
    assert outcome.code == 1
    assert "ZeroDivisionError" in outcome.errors


def test_crashes_are_signals():
    assert run_program("import os; os.abort()", limits=CALM).code == -6


def test_memory_is_limited():
    outcome = run_program("x = bytearray(2 ** 30)", limits=CALM)
    assert outcome.code == 1
    assert "MemoryError" in outcome.errors


def test_cpu_seconds_are_limited():
    assert run_program("while True: pass", limits=Limits(seconds=60.0, cpu_seconds=1)).code in (-24, -9)


def test_wall_time_is_limited():
    begin = monotonic()
    outcome = run_program("print('begun', flush=True)\nimport time\ntime.sleep(600)", limits=Limits(seconds=3.0))
    assert outcome.code is None
    assert monotonic() - begin < 30.0


def test_files_and_output_are_limited():
    program = (
        "open('small', 'w').write('x'); print('y' * 200000, flush=True); open('large', 'wb').write(bytes(4 << 20))"
    )
    outcome = run_program(program, limits=Limits(seconds=60.0, file_mb=1))
    assert outcome.code == 1
    assert "File too large" in outcome.errors
    assert len(outcome.output) == MOST_OUTPUT


def test_files_outside_cannot_be_changed(tmp_path: Path, doors: tuple[str, ...]):
    if "files" in doors:
        pytest.skip("this kernel has no Landlock")
    kept = tmp_path / "kept"
    kept.write_text("mine")
    program = f"""
import os
for attempt in (lambda: open({str(kept)!r}, "w"), lambda: os.remove({str(kept)!r}),
                lambda: os.truncate({str(kept)!r}, 0), lambda: os.rename({str(kept)!r}, "stolen"),
                lambda: os.mkdir({str(tmp_path / "new")!r})):
    try:
        attempt()
    except OSError:
        print("no")
"""
    assert run_program(program, limits=CALM).output == "no\n" * 5
    assert kept.read_text() == "mine"


def test_there_is_no_network(doors: tuple[str, ...]):
    if "network" in doors:
        pytest.skip("this kernel permits no namespaces")
    program = "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"
    outcome = run_program(program, limits=CALM)
    assert "unreachable" in outcome.errors


def test_everything_it_started_ends(doors: tuple[str, ...]):
    if "processes" in doors:
        pytest.skip("this kernel permits no namespaces")
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "7654"])
    os._exit(0)
time.sleep(0.2)
"""
    assert run_program(program, limits=CALM).code == 0
    sleep(0.1)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "7654"]]


def test_processes_are_counted(doors: tuple[str, ...]):
    if "processes" in doors or os.getuid() == 0:
        pytest.skip("the kernel counts processes for users without privileges, in namespaces, only")
    program = "import os, time\nfor _ in range(50):\n    if os.fork() == 0: time.sleep(60)"
    assert "BlockingIOError" in run_program(program, limits=CALM).errors


def test_the_environment_is_bare(monkeypatch, doors: tuple[str, ...]):
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    outcome = run_program("import os; print(sorted(os.environ)); print(os.listdir())", limits=CALM)
    assert "SECRET" not in outcome.output
    assert outcome.output.endswith("[]\n")


def test_limits_are_positive():
    with pytest.raises(ConfigError, match="memory_mb"):
        Limits(memory_mb=0)
