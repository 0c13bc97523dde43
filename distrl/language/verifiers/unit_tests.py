"""Verifier of generated Python programs by unit tests, run in the sandbox."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrl.base.errors import ResourceError
from distrl.base.registry import register
from distrl.language.sandbox.process import Limits, run_program
from distrl.language.verifiers.base import Verifier
from distrl.language.verifiers.text import code_in

HARNESS = Path(__file__).parents[1] / "sandbox" / "harness.py"
_warned: set[tuple[str, ...]] = set()


@register.verifier("unit_tests")
class UnitTests(Verifier):
    """A Python program that passes all tests; `passed` is the share of tests passed.

    An item expects a list of tests: code that fails by raising (`assert add(1, 2) == 3`), all run after the answer in
    one process, or tables {"stdin": text, "stdout": text}, run separately, trailing white space ignored. Code is
    taken from the last fenced block. A program that inspects its process can forge the reports of code tests, but not
    of tables.

    Args:
        seconds: Wall time for all tests of one answer.
        cpu_seconds: CPU seconds of a process.
        memory_mb: Address space of a process, MiB.
        file_mb: Largest file, MiB.
        processes: Processes and threads.
        network: Permit network access.
        insist: Refuse to run if the kernel does not support the whole sandbox, instead of warning once.
    """

    components = ("success", "passed", "form")

    def __init__(
        self,
        seconds: float = 10.0,
        cpu_seconds: int = 4,
        memory_mb: int = 512,
        file_mb: int = 8,
        processes: int = 16,
        network: bool = False,
        insist: bool = False,
    ):
        self.limits = Limits(seconds, cpu_seconds, memory_mb, file_mb, processes, network)
        self.insist = insist
        self.seconds = seconds + 5.0

    def check(self, expected: Any) -> None:
        if not isinstance(expected, list) or not expected:
            raise ValueError(f"expects a list of tests, not {expected!r:.60}")
        tables = [isinstance(test, Mapping) for test in expected]
        if all(tables):
            for test in expected:
                if set(test) != {"stdin", "stdout"} or not all(isinstance(text, str) for text in test.values()):
                    raise ValueError(f"a table of a test has stdin and stdout, both text: {test!r:.60}")
        elif any(tables) or not all(isinstance(test, str) for test in expected):
            raise ValueError("tests are all code or all tables of stdin and stdout")
        else:
            for test in expected:
                compile(test, "test", "exec")  # raises SyntaxError, which the caller reports

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        code = code_in(answer)
        try:
            compile(code, "answer.py", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            return {"success": 0.0, "passed": 0.0, "form": 0.0}
        tables = isinstance(expected[0], Mapping)
        passed = self._by_output(code, expected) if tables else self._by_assertion(code, expected)
        return {"success": float(passed == len(expected)), "passed": passed / len(expected), "form": 1.0}

    def _by_assertion(self, code: str, tests: list[str]) -> int:
        token = secrets.token_hex(16)
        job = json.dumps({"token": token, "code": code, "tests": tests})
        outcome = run_program(HARNESS.read_text(encoding="utf-8"), job, self.limits)
        self._warn(outcome.open_to)
        passed = {line.removeprefix(token).strip() for line in outcome.output.splitlines() if line.startswith(token)}
        return sum(str(number) in passed for number in range(len(tests)))

    def _by_output(self, code: str, tests: list[Mapping[str, str]]) -> int:
        seconds_left, passed = self.limits.seconds, 0
        for test in tests:
            if seconds_left <= 0.0:
                break
            outcome = run_program(code, test["stdin"], Limits(**{**vars(self.limits), "seconds": seconds_left}))
            self._warn(outcome.open_to)
            seconds_left -= outcome.seconds
            passed += outcome.code == 0 and _lines(outcome.output) == _lines(test["stdout"])
        return passed

    def _warn(self, open_to: tuple[str, ...]) -> None:
        gaps = tuple(gap for gap in open_to if not (self.limits.network and gap in ("network", "processes")))
        if not gaps:
            return
        problem = f"this kernel cannot isolate generated programs from: {', '.join(gaps)}."
        if self.insist:
            raise ResourceError(problem, "Permit user namespaces and Landlock, or set insist: false in a container.")
        if gaps not in _warned:
            _warned.add(gaps)
            warnings.warn(f"{problem} Run samplers in a container.", stacklevel=2)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
