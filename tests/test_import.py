"""`import distrl` is cheap, and so is asking the command line for help."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "ray", "gymnasium", "pydantic", "rich")


def loaded(statement: str) -> list[str]:
    """Which of the heavy packages a statement imports, in a process of its own."""
    code = f"import sys; {statement}; print(*[name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_importing_distrl_loads_nothing_heavy() -> None:
    assert loaded("import distrl") == []
    assert loaded("import distrl; distrl.register") == []
    assert "torch" in loaded("import distrl; distrl.load")  # the list above would see it


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded("import distrl.cli") == []


def test_a_wrong_config_is_found_before_torch_is_imported() -> None:
    statement = "from distrl.config.load import load_config; load_config('examples/cartpole_ppo.yaml')"
    assert set(loaded(statement)) <= {"pydantic", "rich"}


@pytest.mark.alone
def test_importing_distrl_takes_less_than_300_ms() -> None:
    """Best of 3, less what the interpreter itself takes."""

    def seconds(code: str) -> float:
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - before

    empty = min(seconds("pass") for _ in range(3))
    assert min(seconds("import distrl") for _ in range(3)) - empty < 0.3
