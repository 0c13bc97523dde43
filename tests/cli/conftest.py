"""Commands in this process, and a small trained run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from distrl.cli import main

SMALL = """
name: small
backend: serial
env: {id: CartPole-v1, num_envs: 4, streams: 2}
model: {hidden: [8]}
algorithm: {name: ppo, rollout_steps: 16, epochs: 1, minibatches: 1}
stop: {updates: 3}
logging: {tensorboard: false, console: quiet}
"""


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def distrl_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """distrl_command("train", "x.yaml", ...) -> exit code and output."""

    def call(*words: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, printed.out, printed.err)

    return call


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A config that trains in a moment."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    from distrl.config.yaml_text import parse
    from distrl.runtime.train import train

    runs = tmp_path_factory.mktemp("runs")
    train(parse(SMALL, "small"), runs_dir=runs)
    return runs / "small"
