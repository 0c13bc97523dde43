"""Files of the user's that do not import: one line with file and line, and no traceback of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrl.base.errors import ConfigError
from distrl.cli.user_code import import_fault
from tests.cli.conftest import Command

FILES = {
    "syntax": ("def reward(answer):\n    return 1.0 +\n", r"SyntaxError: invalid syntax (", "line 2"),
    "module": ("import math\nimport nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'", "line 2"),
    "raises": ("LIMIT = int('many')\n", "ValueError: invalid literal", "line 1"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_of_imports_that_raises_is_named(
    distrl_command: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    text, reason, line = FILES[fault]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"my_reward_{fault}.py"
    file.write_text(text)
    done = distrl_command("train", small, f"imports=[{file.name}]", "--runs-dir", tmp_path / "runs")
    assert done.code == ConfigError.exit_code, done.err
    assert f"{file.name} does not import: {reason}" in done.err
    assert line in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_a_task_whose_module_raises_is_named(
    distrl_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_broken_task.py").write_text("import distrl\nraise RuntimeError('no licence')\n")
    config = tmp_path / "text.yaml"
    config.write_text(
        "{name: text, backend: serial, task: {name: 'my_broken_task:Mine', prompts: 2}, language: {source: tiny},"
        " algorithm: {name: grpo}, stop: {updates: 1}}"
    )
    done = distrl_command("train", config, "--runs-dir", tmp_path / "runs")
    assert done.code == ConfigError.exit_code, done.err
    assert "my_broken_task:Mine does not import: RuntimeError: no licence" in done.err
    assert "my_broken_task.py, line 2" in done.err


def test_other_errors_are_none_of_its_business() -> None:
    with pytest.raises(ValueError, match="elsewhere") as caught:
        raise ValueError("elsewhere")
    assert import_fault(caught.value) is None
