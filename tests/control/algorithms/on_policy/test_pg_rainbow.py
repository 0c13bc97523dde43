"""PG-Rainbow (entry 1): PPO's numbers where it must be PPO, no gradient into the IQN, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import load_state, save_state
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.on_policy.transition_ring import TransitionRing, transitions
from tests.learning.rollouts import ACTIONS, OBSERVATIONS, VECTOR, make_algorithm, make_rollout, update

#: learns from the second update on, and is read from the third on
SOON: dict[str, Any] = {"side_start": 40, "side_batch": 16, "side_target_interval": 5, "side_capacity": 64}


def make(observation: Any = VECTOR, action: Any = ACTIONS["discrete"], seed: int = 0, **config: Any) -> Any:
    cls = register.get("algorithm", "pg_rainbow")
    checked = cls.Config(name="pg_rainbow", **config)
    algorithm = cls(checked, cls.build_model(observation, action, ModelConfig(hidden=[16, 16]), checked, seed=seed))
    algorithm.resolve(0, 1000)
    return algorithm


@pytest.mark.parametrize("quantiles", [1, 32])
def test_without_quantiles_it_is_ppo(quantiles: int):
    """q = 1 and f the mean of N: bit for bit PPO with N = 1, equal up to rounding with more."""
    settings = {"epochs": 2, "minibatches": 2, "entropy_coef": 0.01}
    ours = make(quantiles=quantiles, distill="mean", side_start=10**9, side_batch=8, **settings)
    ppo = make_algorithm("ppo", **settings)
    ppo.numpy_gradient = None  # the same arithmetic: autograd
    assert torch.equal(ours.flat.data, ppo.flat.data)
    for number in range(3):
        rollout = make_rollout(ppo, VECTOR, seed=number)
        found, expected = update(ours, rollout, number), update(ppo, rollout, number)
        if quantiles == 1:
            assert torch.equal(ours.flat.data, ppo.flat.data)
            assert {name: found[name] for name in expected} == expected
        else:
            torch.testing.assert_close(ours.flat.data, ppo.flat.data, rtol=1e-4, atol=1e-6)
    assert ours.side.gradient_steps > 0  # it learned meanwhile, and nobody noticed


def ready(**config: Any) -> Any:
    """One whose critic reads quantiles."""
    algorithm = make(**{**SOON, **config})
    for number in range(4):
        update(algorithm, make_rollout(algorithm, VECTOR, seed=number), number)
    assert bool(algorithm.model.ready)
    return algorithm


def test_no_gradient_of_the_value_loss_reaches_the_side_network():
    algorithm = ready()
    rollout = make_rollout(algorithm, VECTOR, seed=9)
    part = algorithm.side.modules["policy"]
    part.flat.zero_grad()
    with torch.no_grad():
        rows = algorithm.prepare_minibatch(algorithm.training_rows(algorithm.prepare(rollout)))
    algorithm.gradient(rows, algorithm.loss)
    assert float(algorithm.flat.grad.abs().sum()) > 0
    assert float(part.flat.grad.abs().sum()) == 0
    own = {id(parameter) for parameter in algorithm.model.parameters()}
    assert not own & {id(parameter) for parameter in algorithm.model.side.parameters()}


def test_the_value_is_distilled_from_value_and_quantiles():
    """V = f(V_theta * q / scale), with q averaged over the policy's actions."""
    algorithm = ready(quantiles=4, distill="mean")
    model, obs = algorithm.model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        laws = model.side.returns(obs)[..., :4]
        probs = model.policy(obs)[0].softmax(-1)
        quantiles = torch.einsum("ba,ban->bn", probs, laws) / model.scale
        expected = model.critic(obs) * quantiles.mean(-1)
    torch.testing.assert_close(model.critic_forward(obs), expected)
    torch.testing.assert_close(model.evaluate(obs)[1], expected)
    greedy = ready(quantiles=4, quantiles_of="greedy").model
    with torch.no_grad():
        laws = greedy.side.returns(obs)[..., :4]
        best = laws[torch.arange(5), laws.mean(-1).argmax(-1)]
    torch.testing.assert_close(greedy.raw_quantiles(obs), best)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_a_restored_learner_goes_on_to_the_bit(observation: str, tmp_path: Path):
    space = OBSERVATIONS[observation]
    first = make(space, **SOON)
    rollouts = [make_rollout(first, space, seed=number, masks=True, burnt=True) for number in range(5)]
    for number in range(3):
        update(first, rollouts[number], number)
    save_state(tmp_path / "state.safetensors", first.state())
    second = make(space, seed=5, **SOON)
    second.load_state(load_state(tmp_path / "state.safetensors"))
    for number in (3, 4):
        assert update(first, rollouts[number], number) == update(second, rollouts[number], number)
    assert torch.equal(first.flat.data, second.flat.data)
    assert torch.equal(first.side.modules["policy"].flat.data, second.side.modules["policy"].flat.data)
    assert first.replay.inserted == second.replay.inserted > first.replay.capacity


def test_a_refused_batch_changes_nothing():
    algorithm = ready()
    learned = algorithm.flat.data, algorithm.side.modules["policy"].flat.data, algorithm.model.scale
    before = [tensor.clone() for tensor in learned]
    counted = algorithm.limiter.state(), algorithm.replay.inserted
    rollout = make_rollout(algorithm, VECTOR, seed=7)
    with pytest.raises(NonFiniteError):
        update(algorithm, rollout.with_(reward=torch.full_like(rollout.reward, torch.nan)))
    assert all(torch.equal(*pair) for pair in zip(before, learned, strict=True))
    assert (algorithm.limiter.state(), algorithm.replay.inserted) == counted
    assert np.isfinite(update(algorithm, rollout)["loss/critic"])


def test_side_steps_keep_their_ratio():
    algorithm = make(side_ratio=0.5, **SOON)
    for number in range(6):
        update(algorithm, make_rollout(algorithm, VECTOR, seed=number), number)
    assert algorithm.side.gradient_steps == (5 * 32 - 16) // 2  # five batches of 32 steps before the last update


def test_transitions_have_the_true_next_observation():
    algorithm = make()
    rollout = make_rollout(algorithm, VECTOR, steps=12, envs=3, seed=4, masks=True)
    rows = transitions(rollout, 0.9)
    final = {tuple(place): obs for place, obs in zip(rollout.final_index.tolist(), rollout.final_obs, strict=True)}
    assert final
    for n in range(36):
        t, b = divmod(n, 3)
        after = rollout.obs[t + 1, b] if t < 11 else rollout.last_obs[b]
        assert torch.equal(rows.obs[n], rollout.obs[t, b])
        assert torch.equal(rows.next_obs[n], final.get((t, b), after))
        assert float(rows.discount[n]) == pytest.approx(0.0 if rollout.terminated[t, b] else 0.9)
        over = bool(rollout.terminated[t, b] | rollout.truncated[t, b]) or t == 11
        assert torch.equal(rows.next_mask[n], torch.ones(4, dtype=torch.bool) if over else rollout.mask[t + 1, b])


def test_the_ring_keeps_the_newest():
    replay, rng = TransitionRing(10), np.random.default_rng(0)
    zeros = torch.zeros(4, 1, dtype=torch.bool)
    for start in (0, 4, 8, 12):
        reward = torch.arange(start, start + 4.0)[:, None]
        rollout = Columns(
            obs=reward, action=zeros, reward=reward, terminated=zeros, truncated=zeros, last_obs=reward[-1] + 1,
            final_obs=reward[0, :0], final_index=torch.zeros((0, 2), dtype=torch.int64),
        )  # fmt: skip
        assert replay.insert(rollout, 0.5) == 4
    drawn = replay.sample(400, rng)
    assert set(drawn.reward.tolist()) == set(range(6, 16))
    assert torch.equal(drawn.next_obs, drawn.obs + 1)
    assert len(replay) == 10


@pytest.mark.parametrize(
    ("config", "action", "message"),
    [
        ({"critic_head": "quantile"}, ACTIONS["discrete"], "critic_head quantile with pg_rainbow"),
        ({"side_batch": 64, "side_capacity": 32}, ACTIONS["discrete"], "less than side_batch"),
        ({}, spaces.Box(-1.0, 1.0, (2,), np.float32), "Discrete space"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: dict[str, Any], action: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make(VECTOR, action, **config)


def test_memory_is_refused():
    cls = register.get("algorithm", "pg_rainbow")
    with pytest.raises(ConfigError, match="without memory"):
        cls.build_model(VECTOR, ACTIONS["discrete"], ModelConfig(recurrent="gru"), cls.Config(name="x"), seed=0)
