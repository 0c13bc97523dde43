"""Plug points of language algorithms have a folder each, and a lookup imports that folder alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distrl.base.registry import HOMES, register
from tests.helpers import REPOSITORY


@pytest.mark.parametrize("plug_point", sorted(HOMES))
def test_methods_lie_in_the_home_of_their_plug_point(plug_point: str) -> None:
    wrong = {
        method.name: method.target.__module__
        for method in register.methods(plug_point)
        if method.target.__module__.startswith("distrl.")
        and not any(f"{method.target.__module__}.".startswith(f"{home}.") for home in HOMES[plug_point])
    }
    assert wrong == {}


def test_an_advantage_imports_the_folder_of_advantages_alone() -> None:
    code = (
        "import sys; from distrl.base.registry import register; register.get('advantage', 'grpo');"
        "print(*(name for name in sys.modules if name.startswith('distrl.')))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    folders = ("losses", "credit", "rewards", "curricula", "algorithms", "models", "engines", "tasks")
    strangers = [f"distrl.language.{folder}" for folder in folders] + ["distrl.functional.distributions"]
    assert [name for name in found.stdout.split() if name.startswith(tuple(strangers))] == []
