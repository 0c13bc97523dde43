"""The other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distrl.config.load import load_config
from tests.cli.conftest import Command


def test_help_names_every_command(distrl_command: Command) -> None:
    done = distrl_command("--help")
    assert done.code == 0
    for command in ("train", "eval", "export", "init", "doctor", "methods", "tensorboard"):
        assert f"  {command} " in done.out
        assert distrl_command(command, "--help").code == 0


def test_python_m_distrl_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "distrl", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: distrl ")


def test_eval_gives_the_evaluators_numbers(distrl_command: Command, trained: Path) -> None:
    from distrl.deploy.evaluate import Evaluator
    from distrl.deploy.policy_file import SavedPolicy

    saved = SavedPolicy.read(trained)
    expected = Evaluator(saved.config.env, 5, 3).evaluate(saved.build(), 5)
    found = json.loads(distrl_command("eval", trained, "--episodes", "5", "--seed", "3", "--json").out)
    assert found["returns"] == expected.returns
    assert found["return_mean"] == pytest.approx(expected.mean)
    assert found["update"] == 3
    drawn = json.loads(distrl_command("eval", trained, "--episodes", "5", "--seed", "3", "--json", "--stochastic").out)
    assert drawn["returns"] != expected.returns
    table = distrl_command("eval", trained, "--episodes", "5", "--seed", "3").out
    assert f"{expected.mean:.2f}" in table


def test_eval_takes_another_environment_of_the_same_spaces(distrl_command: Command, trained: Path) -> None:
    short = distrl_command("eval", trained, "--episodes", "3", "--json", "--env", "max_episode_steps=5")
    assert json.loads(short.out)["lengths"] == [5, 5, 5]
    other = distrl_command("eval", trained, "--env", "id=Pendulum-v1")
    assert other.code == 4
    assert "Box(3,)" in other.err
    nothing = distrl_command("eval", trained / "nothing")
    assert nothing.code == 4
    assert nothing.err.startswith("error: no policy in")
    assert distrl_command("eval", trained, "--video", "x.avi").err.startswith("error: x.avi")


def test_eval_video(distrl_command: Command, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio", reason="the extra `export` is not installed")
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    done = distrl_command("eval", trained, "--episodes", "1", "--json", "--video", tmp_path / "x.gif")
    assert done.code == 0, done.err
    assert f"return {json.loads(done.out)['returns'][0]:.2f}" in done.err
    assert (tmp_path / "x.gif").read_bytes()[:3] == b"GIF"


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_export_writes_and_says_what_was_verified(
    format: str, distrl_command: Command, trained: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    file = tmp_path / "policy"
    words = ("export", trained, "--format", format, "--out", file, "--observations", "100")
    done = distrl_command(*words)
    assert done.code == 0, done.err
    assert "100 observations replayed" in done.err
    assert file.stat().st_size > 1000
    again = distrl_command(*words)
    assert again.code == 2
    assert "exists" in again.err
    assert distrl_command(*words, "--force").code == 0


def test_methods_lists_what_a_config_can_name(distrl_command: Command) -> None:
    everything = json.loads(distrl_command("methods", "--json").out)
    assert all(set(m) == {"name", "plug_point", "paper", "entries", "line"} for m in everything)
    assert all(m["line"] for m in everything)
    ppo = next(m for m in everything if (m["plug_point"], m["name"]) == ("algorithm", "ppo"))
    assert ppo["entries"] == [17]
    torsos = json.loads(distrl_command("methods", "--json", "--plug-point", "torso").out)
    assert {m["plug_point"] for m in torsos} == {"torso"}
    assert "mlp" in distrl_command("methods", "--plug-point", "torso").out
    wrong = distrl_command("methods", "--plug-point", "torsos")
    assert wrong.code == 2
    assert "did you mean 'torso'" in wrong.err


@pytest.mark.parametrize(
    ("env_id", "kind", "expected"),
    [
        ("CartPole-v1", "discrete", {"normalize_obs": False, "frame_stack": 1}),
        ("Pendulum-v1", "continuous", {"normalize_obs": True, "frame_stack": 1}),
        ("Blackjack-v1", "discrete", {"normalize_obs": False, "frame_stack": 1}),
        ("tests.support.envs:Picture", "image", {"normalize_obs": False, "frame_stack": 4}),
    ],
)
def test_init_writes_a_config_that_a_dry_run_accepts(
    env_id: str, kind: str, expected: dict[str, object], distrl_command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "new.yaml"
    done = distrl_command("init", env_id, "--out", file)
    assert done.code == 0, done.err
    config = load_config(file)
    assert {key: getattr(config.env, key) for key in expected} == expected
    assert (config.model.torso == "nature_cnn") == (kind == "image")
    steps = config.env.num_envs * config.algorithm["rollout_steps"]
    assert (steps == 2048) == (kind == "continuous")
    assert distrl_command("train", file, "--dry-run").code == 0
    before = file.read_text()
    again = distrl_command("init", env_id, "--out", file)
    assert again.code == 2
    assert file.read_text() == before


def test_init_for_every_algorithm(distrl_command: Command, tmp_path: Path) -> None:
    from distrl.base.registry import register
    from distrl.language.algorithms.base import LanguageAlgorithm

    for method in register.methods("algorithm"):
        dry = []
        if issubclass(method.target, LanguageAlgorithm):
            file = tmp_path / f"{method.name}.yaml"
            done = distrl_command("init", "--task", "sort_digits", "--algorithm", method.name, "--out", file)
            assert done.code == 0, done.err
            assert distrl_command("train", file, "--dry-run").code == 0
            refused = distrl_command("init", "CartPole-v1", "--algorithm", method.name)
            assert "is an environment" in refused.err
            continue
        for env_id in ("CartPole-v1", "Pendulum-v1", "distrl/TwoChannels-v0"):
            file = tmp_path / f"{method.name}-{len(dry)}.yaml"
            done = distrl_command("init", env_id, "--algorithm", method.name, "--out", file)
            assert done.code == 0, done.err
            dry.append(distrl_command("train", file, "--dry-run"))
        accepted = 0 in [tried.code for tried in dry]
        assert accepted or "Add the wrapper" in dry[0].err, (method.name, dry[0].err)
    assert "did you mean 'ppo'" in distrl_command("init", "CartPole-v1", "--algorithm", "ppoo").err
    assert "is a text task" in distrl_command("init", "--task", "sort_digits", "--algorithm", "ppo").err


def test_doctor_judges_environments(distrl_command: Command, small: Path) -> None:
    good = distrl_command("doctor", "--env", "CartPole-v1", "--steps", "90")
    assert good.code == 0, good.out
    assert "seeding" in good.out
    assert distrl_command("doctor", "--env", small, "--steps", "90").code == 0
    bad = distrl_command("doctor", "--env", "tests.support.toy_envs:NaNEnv", "--steps", "90")
    assert bad.code == 1
    assert "nan" in bad.out
    fewer = distrl_command(
        "doctor", "--env", "tests.support.toy_envs:NaNEnv", "env.kwargs.after=100000", "--steps", "90"
    )
    assert fewer.code == 0, fewer.out
    assert distrl_command("doctor", "env.kwargs.after=1").code == 2


def test_doctor_looks_at_the_machine(distrl_command: Command) -> None:
    import torch

    done = distrl_command("doctor", "--no-ray")
    assert done.code == 0, done.out
    for word in ("cores", "memory", "disk", "GPU", torch.__version__):
        assert word in done.out


@pytest.mark.ray
def test_doctor_starts_ray(distrl_command: Command) -> None:
    done = distrl_command("doctor")
    assert done.code == 0, done.out
    assert "a local cluster started and ended" in done.out


def test_tensorboard_listens_to_this_machine_only(
    distrl_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def call(command: list[str]) -> int:
        called.append(command)
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    assert distrl_command("tensorboard", tmp_path).code == 0
    assert distrl_command("tensorboard", tmp_path, "--host", "0.0.0.0", "--port", "7000").code == 0
    assert "127.0.0.1" in called[0]
    assert called[1][-3:] == ["0.0.0.0", "--port", "7000"]
    assert distrl_command("tensorboard", tmp_path / "none").code == 2
