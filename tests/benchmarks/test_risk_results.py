"""The studies of risk: what runs measure, what the page makes of it, when a claim holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import jobs  # noqa: E402
import records  # noqa: E402
import results_page  # noqa: E402
import risk_measures  # noqa: E402
import risk_page  # noqa: E402
import risk_results  # noqa: E402
from common import machine_facts  # noqa: E402
from risk_studies import STUDIES, bias_figures, curve_figures, return_figures  # noqa: E402

from distrl.base.errors import UserError  # noqa: E402
from distrl.base.files import read_json, to_json, write_atomic  # noqa: E402
from distrl.runtime.train import train  # noqa: E402

CURVES, PATH, TRUNCATION = STUDIES

# ---- measuring -------------------------------------------------------------------------------------------------------


def test_soft_returns_count_every_bonus_but_the_first() -> None:
    reward, bonus = np.array([[1.0], [2.0], [4.0]]), np.array([[10.0], [20.0], [40.0]])
    real = risk_measures.soft_returns(reward, bonus, 0.5)
    assert real[:, 0].tolist() == [1 + 0.5 * (2 + 20) + 0.25 * (4 + 40), 2 + 0.5 * (4 + 40), 4]


def quiet(name: str, env: str, algorithm: dict[str, Any], callback: str, steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "backend": "serial",
        "env": {"id": env, "num_envs": 1},
        "model": {"hidden": [16]},
        "algorithm": algorithm,
        "callbacks": [f"risk_measures:{callback}"],
        "stop": {"env_steps": steps},
        "logging": {"console": "quiet", "tensorboard": False},
    }


def test_bias_is_measured_along_a_run_and_once_where_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EVERY": 40, "ENVS": 3, "STEPS": 4, "HORIZON": 6}.items():
        monkeypatch.setattr(risk_measures, f"BIAS_{name}", value)
    algorithm = {"name": "tqc", "rollout_steps": 4, "learning_starts": 20, "batch_size": 16}
    run = quiet("run", "Pendulum-v1", algorithm, "ValueBias", 100)
    train(run, runs_dir=tmp_path)
    run["stop"]["env_steps"] = 160
    train(run, runs_dir=tmp_path, resume=True)
    curve = read_json(tmp_path / "run" / "measured.json")["curve"]
    assert [point["env_steps"] for point in curve] == [40, 80, 120, 160]
    for point in curve:
        assert point["bias"] == pytest.approx(point["predicted"] - point["real"])
        assert point["real"] < 0.0


def test_final_returns_are_those_of_the_last_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk_measures, "EPISODES", 6)
    algorithm = {"name": "ppo", "rollout_steps": 16, "epochs": 1, "minibatches": 1}
    train(quiet("run", "CartPole-v1", algorithm, "FinalReturns", 32), runs_dir=tmp_path)
    returns = read_json(tmp_path / "run" / "measured.json")["returns"]
    assert len(returns) == 6
    assert min(returns) >= 1.0


def test_figures_of_returns() -> None:
    figures = return_figures({"measured": {"returns": [*range(20, 0, -1)]}})
    assert figures == {"mean return": 10.5, "10 % quantile": 2.0, "mean of the worst 10 %": 1.5}


def test_figures_of_a_learning_curve() -> None:
    figures = curve_figures({"evaluations": [[5_000, 100.0], [10_000, 460.0]], "score": 280.0})
    assert list(figures.values()) == [280.0, 10_000.0, 280.0]
    never = curve_figures({"evaluations": [[5_000, 100.0]], "score": 100.0})
    assert risk_page.readable(never["steps to 450"]) == "never"


def test_noise_on_rewards_follows_the_seed() -> None:
    def rewards(seed: int) -> list[float]:
        env = risk_measures.NoisyReward(gymnasium.make("CartPole-v1"))
        env.reset(seed=seed)
        return [env.step(number % 2)[1] for number in range(8)]

    assert rewards(1) == rewards(1)
    assert rewards(1) != rewards(2)
    assert np.std(rewards(1)) > 0.2


def test_figures_of_a_bias() -> None:
    curve = [{"bias": bias, "real": -10.0 * number} for number, bias in enumerate([9.0, 1.0, 2.0, 4.0])]
    assert list(bias_figures({"measured": {"curve": curve}}).values()) == [3.0, 9.0, -25.0]


# ---- studies and their page ------------------------------------------------------------------------------------------


def test_configs_of_the_studies_load_and_differ_in_one_word() -> None:
    for study in STUDIES:
        one, other = study.cells.values()
        assert 1 <= len(set(one.words(0)) ^ set(other.words(0))) <= 2
        assert one.hashes(0)["config"] != other.hashes(0)["config"]
        assert (risk_measures.__file__ or "").endswith(study_imports(one.words(0)))


def study_imports(words: list[str]) -> str:
    return next(word for word in words if word.startswith("imports=")).removeprefix("imports=[").removesuffix("]")


def found_for(study: Any, measured: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        label: [
            {"seed": seed, "measured": each, "machine": machine_facts()} for seed, each in enumerate(measured[label])
        ]
        for label in study.cells
    }


def test_a_claim_compares_means_over_seeds() -> None:
    safe, risky = {"returns": [2.0] * 10}, {"returns": [-2.0, *[5.0] * 9]}
    assert risk_page.holds(PATH, found_for(PATH, {"PPO": [risky, risky], "CVaR-PPO": [safe, risky]}))
    assert not risk_page.holds(PATH, found_for(PATH, {"PPO": [risky], "CVaR-PPO": [risky]}))
    low, high = ({"curve": [{"env_steps": 1_000, "bias": bias, "real": -9.0}]} for bias in (1.0, 3.0))
    assert risk_page.holds(TRUNCATION, found_for(TRUNCATION, {"truncated": [low], "not truncated": [high]}))
    assert not risk_page.holds(TRUNCATION, found_for(TRUNCATION, {"truncated": [high], "not truncated": [low]}))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> records.Places:
    """`risk_results.main` with its own places and jobs that only pretend."""
    places = records.Places(tmp_path / "records", tmp_path / "runs", tmp_path / "docs" / "results.md")
    monkeypatch.setattr(risk_results, "PLACES", places)
    monkeypatch.setattr(risk_results, "REPOSITORY", tmp_path)
    nothing = records.Places(tmp_path / "pretrained", tmp_path / "runs", places.table)
    monkeypatch.setattr(risk_results, "write_results", partial(results_page.write_results, pretrained=nothing))
    monkeypatch.setattr(risk_results, "MeasuredJob", FakeJob)
    monkeypatch.setattr(FakeJob, "started", [])
    return places


class FakeJob(risk_results.MeasuredJob):
    """Ends at once with a result that makes every claim true, without a process."""

    started: list[str] = []

    def start(self) -> None:
        self.started.append(self.name)
        self.hashes = self.cell.hashes(self.seed)
        better = 1.0 if self.cell.name in ("riskypath-cvar-ppo", "tqc-truncated", "pg-rainbow-noisy-cartpole") else 0.0
        self.evaluations = [(5_000, 100.0 + 400.0 * better), (10_000, 460.0 + better)]
        curve = [{"env_steps": 1_000 * number, "bias": 2.0 - better, "real": -9.0} for number in (1, 2)]
        measured = {"returns": [better] * 10} if "riskypath" in self.cell.name else {"curve": curve}
        write_atomic(self.run_folder / "measured.json", to_json(measured))

    def ended(self) -> bool:
        summary = {
            "stopped": "env_steps reached 1",
            "env_steps": 1,
            "wall_s": 1.0,
            "return_mean_last_20": None,
            "evaluations": self.evaluations,
            "updates": 1,
            "parameter_hash": "abc",
        }
        record = self.result(summary, {"machine": machine_facts()})
        records.write_record(self.places, self.cell, self.seed, record)
        return True


def test_the_command_makes_page_and_plots_and_runs_nothing_twice(bench: records.Places) -> None:
    assert risk_results.main(["--only", "risky-path"]) == 0
    assert len(FakeJob.started) == 6
    assert "## PG-Rainbow" not in bench.table.read_text(), "a study without its records is left out"
    assert risk_results.main([]) == 0
    assert len(FakeJob.started) == 6 + 6 + 16
    assert FakeJob.started[6].startswith("tqc"), "the longest begin first"
    page = bench.table.read_text()
    assert "| CVaR-PPO | 1.00 (1.00 to 1.00) |" in page
    assert page.count("Holds: **yes**") == 3
    assert "| PG-Rainbow | 480.50 (480.50 to 480.50) | 5,000 (5,000 to 5,000) |" in page
    plots = {path.name: path.read_bytes() for path in (bench.table.parent / "plots").iterdir()}
    assert set(plots) == {"pg-rainbow.svg", "risky-path.svg", "truncation.svg"}
    assert risk_results.main([]) == 0
    assert len(FakeJob.started) == 6 + 6 + 16
    assert all((bench.table.parent / "plots" / name).read_bytes() == data for name, data in plots.items())


def test_a_claim_that_fails_ends_with_1(bench: records.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    never = [replace(study, holds=lambda means: False) for study in STUDIES]
    monkeypatch.setattr(risk_results, "STUDIES", never)
    monkeypatch.setattr(results_page, "STUDIES", never)
    assert risk_results.main(["--only", "truncation"]) == 1
    with pytest.raises(UserError, match="did you mean 'truncation'"):
        risk_results.chosen("truncatio")


def test_a_record_keeps_what_was_measured(tmp_path: Path) -> None:
    assert issubclass(risk_results.MeasuredJob, jobs.Job)
    cell = PATH.cells["PPO"]
    places = records.Places(tmp_path / "records", tmp_path / "runs", tmp_path / "results.md")
    record = {"reached_at": None, "score": None, "env_steps": 100_000}
    assert records.outcome(cell, "current", record) == "measured over 100,000 steps"
    assert records.read_record(places, cell, 0) == ("missing", None)
