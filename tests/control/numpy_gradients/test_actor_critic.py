"""Gradients in numpy are autograd's."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.columns import Columns
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.on_policy.base import Minibatch
from distrl.control.algorithms.on_policy.ppo import PPO
from distrl.control.models.actor_critic import build_actor_critic
from distrl.control.numpy_gradients.actor_critic import NumpyGradient
from distrl.functional.statistics import masked_normalize
from distrl.models.parameters.adam import FlatAdam
from tests.learning.rollouts import ACTIONS, VECTOR, make_algorithm, make_rollout

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {}),
    "ppo with everything": ("ppo", {"entropy_coef": 0.03, "clip_value": 0.1, "dual_clip": 1.5, "target_kl": 0.5}),
    "spo": ("spo_simple", {"entropy_coef": 0.01}),
    "a2c": ("a2c", {"entropy_coef": 0.02, "normalize_advantage": True}),
    "impala": ("impala", {}),
    "appo": ("appo", {"entropy_coef": 0.01}),
}


def gradients(algorithm: Any, rollout: Columns) -> list[tuple[np.ndarray, dict[str, float]]]:
    """Gradient and parts of the whole rollout as one minibatch: written out, and by autograd."""
    with torch.no_grad():
        rows = algorithm.training_rows(algorithm.prepare(rollout))
    found = []
    for columns, gradient in (
        (NumpyGradient.rows(rows), algorithm.numpy_gradient.gradient),
        (rows, lambda batch: algorithm.gradient(batch, algorithm.loss)),
    ):
        algorithm.flat.grad.fill_(7.0)  # nothing may depend on what was there
        loss, parts = gradient(Minibatch.whole(algorithm.prepare_minibatch(columns)))
        parts = {name: float(value) for name, value in {"loss": loss, **parts}.items()}
        found.append((algorithm.flat.grad.numpy().copy(), parts))
    return found


def padding(algorithm: Any) -> np.ndarray:
    """True where the flat vector holds a parameter and not a gap."""
    used = torch.zeros_like(algorithm.flat.data)
    for view in algorithm.flat.views(used).values():
        view.fill_(1.0)
    return used.numpy() > 0


@pytest.mark.parametrize("burnt", [False, True], ids=["all valid", "some burnt"])
@pytest.mark.parametrize("network", ["separate tanh", "shared relu", "separate relu", "shared tanh"])
@pytest.mark.parametrize("action", ["discrete", "masked", "box"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_and_parts_are_those_of_autograd(case: str, action: str, network: str, burnt: bool):
    name, config = CASES[case]
    space = ACTIONS["box" if action == "box" else "discrete"]
    algorithm = make_algorithm(name, VECTOR, space, **config)
    sharing, activation = network.split()
    model = build_actor_critic(
        VECTOR, space, ModelConfig(hidden=[16, 24], shared=sharing == "shared", activation=activation), seed=3
    )
    algorithm = type(algorithm)(algorithm.schedules, model)
    algorithm.resolve(0, 1000)
    assert algorithm.numpy_gradient is not None
    rollout = make_rollout(algorithm, VECTOR, space, steps=16, envs=5, masks=action == "masked", burnt=burnt, stale=0.5)
    (ours, our_parts), (reference, parts) = gradients(algorithm, rollout)
    used = padding(algorithm)
    np.testing.assert_allclose(ours[used], reference[used], rtol=2e-4, atol=2e-6)
    assert our_parts == pytest.approx(parts, rel=1e-4, abs=1e-6)
    assert np.abs(reference).max() > 1e-3


@pytest.mark.parametrize("action", ["discrete", "box"])
def test_an_update_is_that_of_autograd(action: str):
    """Minibatches, clipping, Adam and the metrics included; in shards too."""
    space = ACTIONS[action]
    results = []
    for written_out in (True, False):
        for shards in (1, 3):
            algorithm = make_algorithm("ppo", VECTOR, space, epochs=3, minibatches=2, entropy_coef=0.01, shards=shards)
            if not written_out:
                algorithm.numpy_gradient = None
            rollout = make_rollout(algorithm, VECTOR, space, burnt=True)
            metrics = algorithm.update(rollout, np.random.default_rng(5)).metrics
            results.append((algorithm.flat.data.clone(), metrics))
    for data, metrics in results[1:]:
        torch.testing.assert_close(data, results[0][0], rtol=1e-4, atol=1e-5)
        assert metrics == pytest.approx(results[0][1], rel=1e-3, abs=1e-5)


def test_a_subclass_that_changes_the_loss_is_left_to_autograd():
    class Twice(PPO):
        def loss(self, batch):
            loss, terms = super().loss(batch)
            return 2.0 * loss, terms

    class Other(PPO):
        def actor_objective(self, batch):
            return partial(torch.mul, batch.advantage)

    base = make_algorithm("ppo")
    assert base.numpy_gradient is not None
    for changed in (Twice, Other):
        model = build_actor_critic(VECTOR, ACTIONS["discrete"], ModelConfig())
        assert changed(base.schedules, model).numpy_gradient is None


@pytest.mark.parametrize(
    ("observation", "action", "model"),
    [
        (VECTOR, ACTIONS["multi_discrete"], {}),
        (spaces.Discrete(5), ACTIONS["discrete"], {}),
        (spaces.Dict(a=VECTOR), ACTIONS["discrete"], {}),
        (VECTOR, ACTIONS["discrete"], {"recurrent": "gru"}),
        (VECTOR, ACTIONS["discrete"], {"activation": "gelu"}),
    ],
    ids=["product of actions", "one-hot observation", "dict observation", "memory", "another nonlinearity"],
)
def test_what_is_not_written_out_is_left_to_autograd(observation, action, model):
    network = build_actor_critic(observation, action, ModelConfig(**model))
    assert PPO(make_algorithm("ppo").schedules, network).numpy_gradient is None


def test_the_penalty_of_appo_is_left_to_autograd():
    assert make_algorithm("appo").numpy_gradient is not None
    assert make_algorithm("appo", kl_coefficient=0.5).numpy_gradient is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.booleans()), min_size=0, max_size=20), st.booleans())
def test_normalized_arrays_are_normalized_tensors(rows, with_mask):
    x = np.array([value for value, _ in rows], np.float32)
    mask = np.array([valid for _, valid in rows], bool) if with_mask else None
    expected = masked_normalize(torch.from_numpy(x), None if mask is None else torch.from_numpy(mask))
    np.testing.assert_allclose(masked_normalize(x, mask), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_flat_adam_is_adam_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(40)) for _ in range(2))
    optimizers = FlatAdam(ours, eps=1e-5), torch.optim.Adam([theirs], lr=1.0, eps=1e-5, fused=True)
    for step in range(6):
        gradient = torch.randn(40, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
    assert torch.equal(ours, theirs)
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
