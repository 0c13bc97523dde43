"""Every registered task and verifier is built from the task section of a config, and accepts a correct answer."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distrl.base.registry import register
from distrl.language.tasks.base import Task, check_task, make_task, verify_safely

#: Arguments of tasks that need some.
ARGUMENTS: dict[str, dict[str, Any]] = {"reasoning_gym": {"name": "spell_backward"}}
#: Verifier -> options, expected value, correct answer; a new verifier needs an entry.
VERIFIERS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "exact": ({}, "blue", "blue"),
    "json_schema": ({"schema": {"type": "object"}}, "any", '{"a": 1}'),
    "math": ({}, "1/2", "$0.5$"),
    "numeric": ({"tolerance": 0.1}, "3", "about 3.05"),
    "regex": ({"pattern": "<a>(.*)</a>"}, "4", "<a>4</a>"),
    "unit_tests": ({"seconds": 60.0}, ["assert one() == 1"], "def one():\n    return 1"),
}


def file_task(folder: Path, verifier: str) -> tuple[Task, str]:
    """A task of 12 prompts from a file, and the correct answer to each."""
    options, expected, answer = VERIFIERS[verifier]
    rows = [json.dumps({"prompt": f"question {n}", "answer": expected}) for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    path = str(folder / "rows.jsonl")
    return make_task("file", {"path": path, "verifier": verifier, "options": options}), answer


@pytest.mark.parametrize("name", [method.name for method in register.methods("task")])
def test_the_task_is_made_and_checked(name: str, tmp_path: Path) -> None:
    if name == "reasoning_gym" and find_spec("reasoning_gym") is None:
        pytest.skip("needs reasoning-gym")
    task = file_task(tmp_path, "exact")[0] if name == "file" else make_task(name, ARGUMENTS.get(name))
    check_task(task, items=2)


@pytest.mark.parametrize("name", [method.name for method in register.methods("verifier")])
def test_the_verifier_accepts_a_correct_answer(name: str, tmp_path: Path) -> None:
    package = {"math": "math_verify", "json_schema": "jsonschema"}.get(name)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"needs {package}")
    task, answer = file_task(tmp_path, name)
    components, problem = verify_safely(task, task.item(0), answer)
    assert problem is None
    assert components["success"] == 1.0
