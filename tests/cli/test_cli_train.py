"""`distrl train`: names, dry runs, wrong words, interrupts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_training_leaves_a_run_folder_and_never_overwrites_it(
    distrl_command: Command, small: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    done = distrl_command("train", small, "--runs-dir", runs)
    assert done.code == 0, done.err
    assert f"distrl eval {runs / 'small'}" in done.err
    assert json.loads((runs / "small" / "summary.json").read_text())["updates"] == 3
    again = distrl_command("train", small, "--runs-dir", runs)
    assert again.code == 2
    assert "exists" in again.err
    assert "--resume" in again.err
    assert "Traceback" not in again.err
    longer = distrl_command("train", small, "stop.updates=5", "--runs-dir", runs, "--resume")
    assert longer.code == 0, longer.err
    assert json.loads((runs / "small" / "summary.json").read_text())["updates"] == 5


def test_name_auto_takes_the_next_free_number(distrl_command: Command, small: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for _ in range(2):
        assert distrl_command("train", small, "--runs-dir", runs, "--name", "auto").code == 0
    assert sorted(path.name for path in runs.iterdir()) == ["small-1", "small-2"]
    refused = distrl_command("train", small, "--runs-dir", runs, "--name", "auto", "--resume")
    assert refused.code == 2
    assert "--resume" in refused.err


def test_a_dry_run_prints_what_follows_and_leaves_nothing(distrl_command: Command, small: Path, tmp_path: Path) -> None:
    done = distrl_command("train", small, "--runs-dir", tmp_path / "runs", "--dry-run", "env.num_envs=6", "backend=ray")
    assert done.code == 0, done.err
    words = {line.strip().rsplit("  ", 1)[0].strip(): line for line in done.out.splitlines()}
    assert "96" in words["batch (environment steps per update)"]  # 16 steps x 6 environments
    assert "Box(4,)" in done.out
    assert "in the cluster" in done.out
    # policy 4x8+8 + 8x2+2, critic 4x8+8 + 8x1+1
    assert any(line.split() == ["parameters", "107"] for line in done.out.splitlines()), done.out
    assert not (tmp_path / "runs").exists()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@pytest.mark.parametrize(
    ("words", "code", "found"),
    [
        (["envv.id=X"], 2, "did you mean env"),
        (["algorithm.epoch=2"], 2, "algorithm.epochs"),
        (["algorithm.name=pppo"], 2, "ppo"),
        (["env.id=CartPoleX-v1"], 2, "CartPole-v1"),
        (["samplers.count=3"], 2, "more samplers than streams"),
        (["gamma"], 2, "key=value"),
        (["--resume"], 2, "to resume"),
        (["init_from=nowhere"], 4, "no policy in nowhere"),
    ],
)
def test_wrong_words_give_one_line(
    words: list[str], code: int, found: str, distrl_command: Command, small: Path, tmp_path: Path
) -> None:
    done = distrl_command("train", small, *words, "--runs-dir", tmp_path / "runs")
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert found in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_missing_config_names_its_neighbor(distrl_command: Command, small: Path) -> None:
    done = distrl_command("train", small.with_name("smal.yaml"))
    assert done.code == 2
    assert "small.yaml" in done.err


def test_a_bug_keeps_its_traceback(
    distrl_command: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distrl.runtime.train

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(distrl.runtime.train, "train", broken)
    from distrl.cli import main

    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["train", str(small), "--runs-dir", str(tmp_path)])


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(small: Path, tmp_path: Path, distrl_command: Command) -> None:
    runs = tmp_path / "my runs"
    words = ["train", str(small), "stop.updates=1000000", "logging.tensorboard=true", "--runs-dir", str(runs)]
    running = subprocess.Popen([sys.executable, "-m", "distrl", *words], stderr=subprocess.PIPE, text=True)
    metrics = runs / "small" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    (saved,) = (runs / "small" / "checkpoints").glob("update_*")
    assert str(saved) in err
    assert f"distrl train {small} stop.updates=1000000" in err
    assert "--resume" in err
    update = int(saved.name.removeprefix("update_"))
    done = distrl_command("train", small, f"stop.updates={update + 2}", "--runs-dir", runs, "--resume",
                          "logging.tensorboard=true")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads((runs / "small" / "summary.json").read_text())["updates"] == update + 2


@pytest.mark.slow
@pytest.mark.alone
def test_python_m_distrl_answers_wrong_keys_at_once() -> None:
    """Top-level keys without torch; best of 3, since the machine may be busy."""

    def ask(word: str) -> tuple[float, str]:
        before = time.perf_counter()
        command = [sys.executable, "-m", "distrl", "train", "examples/cartpole_ppo.yaml", word]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        return time.perf_counter() - before, done.stderr

    seconds, message = min(ask("strem=1") for _ in range(3))
    assert seconds < 1.0
    assert message.startswith("error: unknown key 'strem'")
    seconds, message = min(ask("algorithm.clp=0.1") for _ in range(3))
    assert seconds < 4.0
    assert "algorithm.clip" in message
