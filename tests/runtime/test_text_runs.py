"""Runs of a language model, end to end: one hash for every back end, resume, log-probabilities of both sides."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.experience.token_episodes import MODEL, PROMPT
from distrl.language.models import loading as language_loading
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import events, merged, parameter_hash, summary_of, train_apart

SELF_KILL = ["tests.runtime.user_code:EndsItself"]


def text_config(name: str = "text", **changes: Any) -> dict[str, Any]:
    """A deterministic GRPO run of a second or two: 4 prompts in 2 streams, 4 answers each, 4 updates."""
    return merged(
        {
            "name": name,
            "seed": 1,
            "backend": "serial",
            "deterministic": True,
            "task": {"name": "sort_digits", "kwargs": {"count": 3}, "prompts": 4, "streams": 2},
            "language": {"source": "tiny", "layers": 2, "width": 32, "heads": 2, "max_new_tokens": 4, "dtype": "fp32"},
            "algorithm": {
                "name": "grpo",
                "group_size": 4,
                "learning_rate": 1e-3,
                "minibatches": 2,
                "reward": {"components": {"success": {}, "placed": {}}},
            },
            "checkpoint": {"every_tokens": 32, "every_seconds": 0},
            "stop": {"updates": 4},
            "logging": {"console": "quiet", "tensorboard": False},
        },
        changes,
    )


@cache
def serial_hash(runs: Path, staleness: int) -> str:
    return parameter_hash(text_config(f"serial-{staleness}", store={"max_staleness": staleness}), runs)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(("deterministic", "dtype"), [(True, "fp32"), (False, "auto")])
def test_deterministic_runs_do_not_ask_the_clock_for_a_precision(deterministic: bool, dtype: str) -> None:
    plan = make_plan(load_config(text_config(deterministic=deterministic, language={"dtype": "auto"})))
    assert plan.config.language is not None
    assert plan.config.language.dtype == dtype


def test_precision_is_measured_by_the_learner_alone_and_kept(tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def probe(model: Any) -> torch.dtype:
        measured.append(torch.bfloat16 if not measured else torch.float32)
        return measured[-1]

    monkeypatch.setattr(language_loading, "choose_dtype", probe)
    gate = {"every": 1, "rows": 4}
    run = text_config(
        deterministic=False, language={"dtype": "auto", "gate": gate}, eval={"every_tokens": 30, "episodes": 2}
    )
    train(run, runs_dir=tmp_runs)
    assert measured == [torch.bfloat16], "sampler and evaluator follow the learner"
    assert not [event for event in events(tmp_runs / "text", "warning") if "disagree" in str(event)]
    plan = make_plan(load_config(run))
    learner = plan.build_learner()
    assert learner.algorithm.model.dtype == torch.float32
    state = learner.state()
    learner.load_state({**state, "bf16": True})
    assert learner.algorithm.model.dtype == torch.bfloat16, "a resumed run goes on in its precision"


def test_a_run_counts_tokens_and_balances(tmp_runs: Path) -> None:
    run = text_config(eval={"every_tokens": 30, "episodes": 8}, language={"warm_start": {"steps": 2, "batch_size": 4}})
    summary = train(run, runs_dir=tmp_runs)
    ledger = summary["ledger"]
    assert summary["episodes"] == 4 * 4 * 4
    assert summary["env_steps"] == ledger["env_steps"] <= 4 * 16 * 4
    assert ledger["consumed"] == ledger["finished"] == 8
    assert summary["evaluations"]


def test_sampler_and_learner_agree_on_every_token() -> None:
    """In float32 on the CPU: 99.9 % of log-probabilities within 1e-4, all within 1e-3, and so with top-p."""
    for truncation in ({}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}):
        plan = make_plan(load_config(text_config(language=truncation)))
        learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
        weights = learner.weights(0)
        made = sampler.collect([CollectRequest(Unit(0, stream), 0) for stream in range(2)], weights)
        batch = learner._batch([data for _, data in made], ())
        difference = (learner.algorithm.scored(batch) - batch.logp).abs()[batch.mask]
        assert difference.numel() > 20
        assert float(difference.quantile(0.999)) < 1e-4
        assert float(difference.max()) < 1e-3
        assert set(batch.kind[batch.mask].tolist()) == {MODEL}
        assert int(batch.kind[0, 0]) == PROMPT
        assert bool((batch.version[batch.mask] == 0).all())


def test_shards_and_micro_batches_change_no_gradient() -> None:
    gradients = []
    for words in ({"micro_batch": 64}, {"micro_batch": 3}, {"micro_batch": 64, "shards": 2}):
        shards = words.pop("shards", 1)
        plan = make_plan(load_config(text_config(algorithm={**words, "minibatches": 1}, learner={"shards": shards})))
        learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
        made = sampler.collect([CollectRequest(Unit(0, stream), 0) for stream in range(2)], learner.weights(0))
        learner.algorithm.resolve(0, None)
        batch = learner.algorithm.prepare(learner._batch([data for _, data in made], ()))
        learner.algorithm.text_gradient(learner.algorithm.objective.weights(batch))
        gradients.append(learner.algorithm.flat.grad.clone())
    assert float(gradients[0].norm()) > 0
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-6)


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_run_ends_with_the_same_hash(tmp_runs: Path, shared_runs: Path, staleness: int) -> None:
    run = text_config("resumed", store={"max_staleness": staleness}, stop={"updates": 2})
    train(run, runs_dir=tmp_runs)
    again = train(merged(run, {"stop": {"updates": 4}}), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == serial_hash(shared_runs, staleness)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_hash(tmp_runs: Path, shared_runs: Path) -> None:
    run = text_config("killed", callbacks=SELF_KILL)
    code, output = train_apart(run, tmp_runs, KILL_AT_UPDATE=3)
    assert code == -signal.SIGKILL, output
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    assert summary_of(tmp_runs / "killed")["parameter_hash"] == serial_hash(shared_runs, 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("samplers", "staleness"), [*(pytest.param(count, 0, marks=pytest.mark.drill) for count in (1, 2)), (2, 2)]
)
def test_ray_gives_the_serial_hash(
    local_ray: str, tmp_runs: Path, shared_runs: Path, samplers: int, staleness: int
) -> None:
    run = text_config("ray", backend="ray", samplers={"count": samplers}, store={"max_staleness": staleness})
    summary = train(run, runs_dir=tmp_runs)
    assert summary["parameter_hash"] == serial_hash(shared_runs, staleness)
    assert summary["staleness_max"] == staleness


@pytest.mark.slow
def test_a_tiny_model_learns_to_sort(tmp_runs: Path) -> None:
    """`examples/tiny_sort_grpo.yaml` with four digits: supervised steps leave much to do, GRPO does it."""
    run = text_config(
        deterministic=False,
        task={"kwargs": {"count": 4}, "prompts": 16},
        language={"width": 64, "heads": 4, "max_new_tokens": 5, "warm_start": {"steps": 60, "batch_size": 64}},
        algorithm={"group_size": 16, "learning_rate": 3e-4, "micro_batch": 256, "minibatches": 1},
        eval={"every_tokens": 5000, "episodes": 64},
        stop={"updates": 60, "eval_mean": 0.95, "eval_in_a_row": 1},
    )
    summary = train(run, runs_dir=tmp_runs)
    first = summary["evaluations"][0][1]
    assert summary["eval_return_mean"] >= 0.9 > first or first >= 0.95


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"language": None}, "no language model"),
    ({"task": None}, "env is missing, and so is task"),
    ({"task": {"name": "sort_digit"}}, "sort_digits"),
    ({"env": {"num_envs": 2}}, r"env and task are both set.*env\.num_envs is task\.prompts"),
    ({"stop": {"env_steps": 100}}, r"stop\.env_steps is set, but this run counts tokens\. Set stop\.tokens"),
    ({"eval": {"every": 100}}, r"Set eval\.every_tokens"),
    ({"checkpoint": {"every": 100}}, r"Set checkpoint\.every_tokens"),
    ({"task": {"kwargs": {"counts": 3}}}, "count"),
    ({"algorithm": {"advantage": "grpoo"}}, "grpo"),
    ({"algorithm": {"beta": 0.1}}, "divergence"),
    ({"algorithm": {"correction": "tis"}}, "recompute"),
    ({"algorithm": {"reward": {"components": {"placing": {}}}}}, "placed"),
    ({"algorithm": {"reward": {"parts": {"placed": {}}}}}, r"it is now algorithm\.reward\.components"),
    ({"algorithm": {"name": "ppo", "group_size": None, "reward": None}}, "language"),
    ({"language": {"max_new_tokens": 300, "context": 200}}, "context"),
    ({"learner": {"precision": "bf16"}}, "language.dtype"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=[says for _, says in WRONG])
def test_wrong_configs_are_named(changes: dict[str, Any], says: str, tmp_runs: Path) -> None:
    run = merged(text_config(), changes)
    run["algorithm"] = {key: value for key, value in run["algorithm"].items() if value is not None}
    run = {key: value for key, value in run.items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        train(run, runs_dir=tmp_runs)


def test_a_verifier_that_hangs_or_raises_costs_its_item(tmp_runs: Path) -> None:
    run = text_config(
        task={"name": "tests.runtime.text_tasks:Faulty", "kwargs": {"count": 3}},
        stop={"updates": 2},
        deterministic=False,
    )
    summary = train(run, runs_dir=tmp_runs)
    assert summary["updates"] == 2
    assert "verifier failed" in events(tmp_runs / "text", "warning")[0]["text"]
