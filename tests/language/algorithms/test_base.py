"""Every language-model algorithm on a batch of a tiny task; GRPO's gradient against one written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distrl.base.errors import NonFiniteError
from distrl.base.registry import register
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.models.token_logp import Scoring, token_logp
from distrl.language.models.weights import EXTRA
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.runtime.test_text_runs import text_config

#: Algorithms whose first updates move nothing, or that learn from no answers: tested in files of their own.
APART = ("a_star_po", "sft", "one_token_rollout")
NAMES = [m.name for m in register.methods("algorithm") if issubclass(m.target, LanguageAlgorithm)]
NAMES = [name for name in NAMES if name not in APART]


class World:
    """Learner and sampler of a run whose fresh model had some supervised steps, so that answers differ in reward."""

    def __init__(self, **algorithm: Any):
        run = text_config(
            task={"kwargs": {"count": 2}, "prompts": 8},
            language={"max_new_tokens": 3, "warm_start": {"steps": 60, "batch_size": 32, "learning_rate": 3e-3}},
        )
        run["algorithm"] = {"group_size": 8, "learning_rate": 1e-3, **algorithm}
        self.plan = make_plan(load_config(run))
        self.learner, self.sampler = self.plan.build_learner(), self.plan.build_sampler(0, reuse_buffers=False)
        self.weights = self.learner.weights(0)

    def fragments(self, seq: int = 0) -> list[Any]:
        requests = [CollectRequest(Unit(seq, stream), self.weights.version) for stream in range(2)]
        return [data for _, data in self.sampler.collect(requests, self.weights)]

    def prepared(self) -> Any:
        algorithm = self.learner.algorithm
        algorithm.resolve(0, None)
        batch = algorithm.prepare(self.learner._batch(self.fragments(), ()))
        return algorithm, batch


@pytest.mark.parametrize("name", NAMES)
def test_updates_are_finite_and_move_the_weights(name: str) -> None:
    world = World(name=name)
    for update in range(2):
        before = world.learner.algorithm.flat.data.clone()
        report, world.weights = world.learner.update(world.fragments(update), Progress(update, 0))
        assert all(torch.isfinite(torch.tensor(value)) for value in report.metrics.values())
        assert not torch.equal(world.learner.algorithm.flat.data, before)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_the_gradient_is_the_papers(name: str) -> None:
    """At ratio 1 a clipped objective has REINFORCE's gradient: -A d(log pi), summed as the paper says."""
    world = World(name=name)
    algorithm, batch = world.prepared()
    algorithm.text_gradient(algorithm.objective.weights(batch))
    found = algorithm.flat.grad.clone()
    reward = batch.components[:, 0].double()
    advantages = torch.zeros_like(reward)
    for group in batch.group.unique():
        mine = batch.group == group
        r = reward[mine]
        if name == "rloo":
            advantages[mine] = r - (r.sum() - r) / (len(r) - 1)
        else:
            advantages[mine] = r - r.mean()
            if name == "grpo":
                advantages[mine] /= r.std() + 1e-6
    logp, _ = token_logp(algorithm.language, batch.tokens, batch.mask)
    per_row = (logp.double() * advantages[:, None] * batch.mask).sum(1)
    if name == "grpo":
        loss = -per_row.sum() / batch.mask.sum()
    elif name == "dr_grpo":
        loss = -per_row.mean() / 3  # the budget
    else:
        loss = -per_row.mean()
    algorithm.flat.zero_grad()
    loss.backward()
    assert float(found.norm()) > 0
    assert torch.allclose(found, algorithm.flat.grad, atol=1e-5, rtol=1e-4)


def test_a_divergence_pulls_to_the_first_weights() -> None:
    world = World(name="grpo", divergence="k3", beta=0.1)
    first = world.learner.algorithm.flat.data.clone()
    algorithm, batch = world.prepared()
    assert torch.equal(algorithm.reference, first)
    with torch.no_grad():
        algorithm.flat.data.add_(0.01 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0)))
    reference = algorithm.reference_logp(batch)
    assert torch.allclose(reference, batch.ref_logp, atol=1e-6)
    assert not torch.allclose(algorithm.scored(batch), reference, atol=1e-4)


def test_old_log_probabilities_may_be_computed_again_and_corrected() -> None:
    world = World(name="grpo", old_logp="recompute", correction="tis")
    algorithm, batch = world.prepared()
    assert torch.allclose(batch.old_logp, batch.behavior_logp, atol=1e-4)
    algorithm.text_gradient(algorithm.objective.weights(batch))
    assert bool(torch.isfinite(algorithm.flat.grad).all())


def test_adapters_are_their_own_reference_and_only_they_move() -> None:
    run = text_config(
        language={"lora": {"rank": 4}, "warm_start": {"steps": 5, "batch_size": 8}},
        algorithm={"divergence": "k3", "beta": 0.1, "group_size": 8},
    )
    plan = make_plan(load_config(run))
    learner = plan.build_learner()
    names = [name for name, parameter in learner.algorithm.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    assert learner.algorithm.reference is None
    assert {name for name in learner.weights(0).arrays() if not name.startswith(EXTRA)} == set(names)


def test_the_entropy_bonus_has_the_entropys_gradient() -> None:
    gradients = []
    for bonus in (0.0, 0.5):
        algorithm, batch = World(name="grpo", entropy_coef=bonus).prepared()
        _, moved = algorithm.text_gradient(algorithm.objective.weights(batch))
        gradients.append(algorithm.flat.grad.clone())
        assert ("policy/entropy" in moved) == (bonus > 0)
    algorithm.flat.zero_grad()
    _, entropy = token_logp(algorithm.language, batch.tokens, batch.mask, Scoring(entropy=True))
    assert entropy is not None
    mean = entropy.sum() / batch.mask.sum()
    assert float(moved["policy/entropy"]) == pytest.approx(mean.item(), rel=1e-5)
    mean.backward()
    assert float(algorithm.flat.grad.norm()) > 0
    assert torch.allclose(gradients[0] - 0.5 * algorithm.flat.grad, gradients[1], atol=1e-5)


@pytest.mark.parametrize(("minibatches", "fault"), [(1, "weight"), (2, "weight"), (1, "logp")])
def test_a_step_that_is_not_finite_changes_nothing(minibatches: int, fault: str) -> None:
    world = World(name="grpo", minibatches=minibatches)
    fragments = world.fragments()
    algorithm = world.learner.algorithm
    if fault == "weight":
        algorithm.flat.data[0] = float("nan")
    else:
        fragments[0].rollout.logp[:] = float("nan")
    before = algorithm.flat.data.clone()
    with pytest.raises(NonFiniteError):
        world.learner.update(fragments, Progress(0, 0))
    torch.testing.assert_close(algorithm.flat.data, before, rtol=0, atol=0, equal_nan=True)
    assert not algorithm.trained.optimizer.state or minibatches == 2
