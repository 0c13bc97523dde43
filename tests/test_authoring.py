"""The files of docs/authoring.md: the page shows them as they are, and they train."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from distrl.config.load import load_config
from distrl.runtime.train import train

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "examples" / "authoring"
PAGE = (REPOSITORY / "docs" / "authoring.md").read_text()
SHORT = ["stop={updates: 2}", "logging.console=quiet", "logging.tensorboard=false"]


def test_the_page_shows_the_files() -> None:
    shown = dict(re.findall(r"^`examples/authoring/(\S+)`:\n\n```\w+\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
    assert shown == {file.name: file.read_text() for file in FOLDER.iterdir() if file.is_file()}


@pytest.mark.parametrize("example", sorted(file.name for file in FOLDER.glob("*.yaml")))
def test_examples_train(example: str, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    modules = set(sys.modules)
    summary = train(load_config(FOLDER / example, SHORT), runs_dir=tmp_runs)
    assert summary["updates"] == 2
    for name in set(sys.modules) - modules:  # a user's file is imported under its own stem
        if (FOLDER / f"{name}.py").is_file():
            del sys.modules[name]
