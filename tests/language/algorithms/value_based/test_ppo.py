"""PPO for tokens: values, advantages, targets and both losses against slow forms; two step sizes; resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.chain.tokens import masked_standardize
from distrl.runtime.train import train
from tests.helpers import merged, parameter_hash
from tests.runtime.test_text_runs import text_config
from tests.support.tiny_worlds import TinyWorld, prefix_states

LAWS: dict[str, Any] = {
    "scalar": None,
    "categorical": {"name": "categorical", "size": 11, "v_min": 0.0, "v_max": 1.0},
    "two_hot": {"name": "two_hot", "size": 11, "v_min": 0.0, "v_max": 1.0, "spacing": "linear"},
    "quantile": {"name": "quantile", "size": 5},
    "gaussian": {"name": "gaussian", "size": 4},
}


def world(head: str = "scalar", warm: int = 0, **algorithm: Any) -> TinyWorld:
    words = {
        "name": "ppo_tokens",
        "group_size": 2,
        "minibatches": 1,
        "reward": {"components": {"placed": {}}},
        **algorithm,
    }
    return TinyWorld(words, {"critic_head": LAWS[head]} if LAWS[head] else {}, warm)


def slow_advantages(batch: Any, after: torch.Tensor, lam: float) -> torch.Tensor:
    """Token by token backwards, gamma 1."""
    found = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for n in range(len(batch.mask)):
        later, ahead, reward = 0.0, float(after[n]), float(batch.reward[n])
        for t in reversed(batch.mask[n].nonzero().flatten().tolist()):
            delta = reward + ahead - float(batch.value[n, t])
            later = delta + lam * later
            found[n, t], ahead, reward = later, float(batch.value[n, t]), 0.0
    return found


@pytest.mark.parametrize("bootstrap", [False, True])
def test_values_are_the_prefixes_own_and_advantages_follow(bootstrap: bool) -> None:
    made = world(bootstrap_truncated=bootstrap, normalize_advantage=False, micro_batch=3)
    made.move()
    batch = made.prepared()
    model = made.algorithm.language
    places, states = prefix_states(made, batch)
    values = model.value_params(states).squeeze(-1).detach()
    assert values.std() > 1e-3
    for (row, column), value in zip(places, values, strict=True):
        assert float(batch.value[row, column]) == pytest.approx(float(value), abs=1e-5)
    assert bool(batch.truncated.any())
    after = torch.zeros(len(batch.tokens))
    if bootstrap:
        for row in batch.truncated.nonzero().flatten().tolist():
            end = int(batch.length[row])
            after[row] = model.value_params(model.hidden(batch.tokens[row : row + 1, :end])[0, -1]).item()
    assert torch.allclose(batch.bootstrap, after, atol=1e-5)
    expected = slow_advantages(batch, after, 0.95)
    assert torch.allclose(batch.advantage, expected, atol=1e-5)
    assert torch.allclose(batch.returns, (expected + batch.value) * batch.mask, atol=1e-5)
    inside = batch.target_values.squeeze(-1)[batch.mask.sum(1)[:, None] > torch.arange(batch.target_values.shape[1])]
    assert torch.allclose(inside.double(), batch.returns[batch.mask], atol=1e-5)  # what the critic learns from


def test_advantages_are_whitened_over_tokens() -> None:
    batch = world().prepared()
    raw = batch.returns - batch.value * batch.mask
    assert torch.allclose(batch.advantage, masked_standardize(raw, batch.mask), atol=1e-5)
    assert float(batch.advantage[batch.mask].mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(batch.advantage[batch.mask].std(unbiased=False)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("head", list(LAWS))
def test_the_value_losss_gradient_is_that_of_its_plain_form(head: str) -> None:
    made = world(head, value_coef=0.3, advantage={"name": "token_gae", "lam": 1.0})
    made.move()
    batch = made.prepared()
    batch = batch.with_(advantage=torch.zeros_like(batch.advantage))  # no policy loss
    distribution, model = made.algorithm.distribution, made.algorithm.language
    found = made.gradient(batch)
    _, states = prefix_states(made, batch)
    rewards = batch.reward.float()[batch.mask.nonzero()[:, 0]]
    inside = torch.arange(batch.target_values.shape[1]) < batch.mask.sum(1)[:, None]
    values, probs = batch.target_values[inside], batch.target_probs[inside]
    assert torch.allclose((values * probs).sum(-1), rewards, atol=1e-4)  # with lam 1 every prefix learns the outcome
    params = model.value_params(states)
    loss = (
        0.5 * (params.squeeze(-1) - rewards).square() if head == "scalar" else distribution.loss(params, values, probs)
    )
    expected = made.slow_gradient(0.3 * loss.mean())
    assert float(expected.norm()) > 1e-4
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-3)


def test_the_value_losss_gradient_by_finite_differences() -> None:
    made = world(value_coef=1.0)
    made.move()
    batch = made.algorithm.add_loss_weights(made.prepared())
    batch = batch.with_(advantage=torch.zeros_like(batch.advantage))
    made.algorithm.text_gradient(batch)
    gradient, flat = made.algorithm.flat.grad.clone(), made.algorithm.flat
    begin = flat.offsets[next(i for i, name in enumerate(flat.names) if name.startswith("critic."))]
    step = 0.05  # the loss is a parabola in the head's weights, so central differences are exact

    def loss() -> float:
        with torch.no_grad():
            return float(made.algorithm.loss(made.algorithm.forward(batch))[0])

    for place in range(begin, begin + 8):
        flat.data[place] += step
        above = loss()
        flat.data[place] -= 2 * step
        below = loss()
        flat.data[place] += step
        assert float(gradient[place]) == pytest.approx((above - below) / (2 * step), abs=1e-4)


def test_clipped_values_and_the_entropy_bonus() -> None:
    made = world(clip_value=0.05, value_coef=1.0, entropy_coef=0.1)
    batch = made.algorithm.add_loss_weights(made.prepared())
    made.move(0.05)
    with torch.no_grad():
        part = made.algorithm.forward(batch)
        total, (policy, critic) = made.algorithm.loss(part)
        entropy = made.algorithm.entropy_mean(part)
    value, old, returns = part.critic_output.squeeze(-1), batch.value[batch.mask], batch.returns[batch.mask]
    near = old + (value - old).clamp(-0.05, 0.05)
    assert bool((near != value).any())
    assert float(critic) == pytest.approx(
        float(0.5 * torch.maximum((value - returns) ** 2, (near - returns) ** 2).mean())
    )
    logits = made.algorithm.language.logits(prefix_states(made, batch)[1]).detach()
    distribution = logits.softmax(-1)
    assert float(entropy) == pytest.approx(float(-(distribution * distribution.log()).sum(-1).mean()), abs=1e-4)
    assert float(total) == pytest.approx(float(policy + critic), abs=1e-6)


def test_the_trunk_may_be_left_alone_and_each_part_has_its_step_size() -> None:
    made = world(critic_trunk=False)
    made.move()
    batch = made.prepared()
    gradient = made.gradient(batch.with_(advantage=torch.zeros_like(batch.advantage)))
    flat = made.algorithm.flat
    views = flat.views(gradient)
    assert all(bool(view.any()) == name.startswith("critic.") for name, view in views.items())
    for rates, moves in (({"learning_rate": 0.0}, "critic."), ({"head_learning_rate": 0.0}, "network.")):
        made = world(**rates)
        before = {name: view.clone() for name, view in made.algorithm.flat.views(made.algorithm.flat.data).items()}
        made.step()
        after = made.algorithm.flat.views(made.algorithm.flat.data)
        assert {name.split(".")[0] + "." for name in before if not torch.equal(before[name], after[name])} == {moves}


def test_a_refused_update_leaves_nothing_behind() -> None:
    made = world()
    made.step()
    trained = made.algorithm.trained
    trained.remember()
    before = trained.state()
    trained.flat.grad.normal_()
    trained.optimizer.step()
    assert not torch.equal(before["data"], trained.flat.data)
    trained.rollback()
    again = trained.state()
    assert torch.equal(before["data"], again["data"])
    moments = {(number, name): value for number, slot in again["optimizer"].items() for name, value in slot.items()}
    assert len(moments) == 6  # step and two moments, for trunk and head
    assert all(torch.equal(before["optimizer"][number][name], value) for (number, name), value in moments.items())


def test_shards_and_micro_batches_change_no_gradient() -> None:
    gradients = []
    for words in ({}, {"micro_batch": 3}, {"shards": 2}):
        shards = words.pop("shards", 1)
        made = TinyWorld(
            {"name": "ppo_tokens", "group_size": 2, "entropy_coef": 0.01, **words},
            {"critic_head": LAWS["quantile"]},
            learner={"shards": shards},
        )
        gradients.append(made.gradient(made.prepared()))
    assert float(gradients[0].norm()) > 0
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "language", "says"),
    [
        ({"advantage": "grpo"}, {}, "token_gae"),
        ({}, {"critic_head": "iqn"}, "quantile"),
        ({}, {"critic_head": "joint"}, "joint"),
        ({"clip_value": 0.2}, {"critic_head": "quantile"}, "scalar"),
    ],
)
def test_wrong_words_are_named(algorithm: dict[str, Any], language: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TinyWorld({"name": "ppo_tokens", **algorithm}, language)


def test_a_resumed_run_ends_with_the_same_hash(tmp_runs: Path) -> None:
    run = text_config("critic", algorithm={"name": "ppo_tokens"}, language={"critic_head": "quantile"})
    whole = parameter_hash(run, tmp_runs)
    first = merged(run, {"name": "parts", "stop": {"updates": 2}})
    parameter_hash(first, tmp_runs)
    again = train(merged(first, {"stop": {"updates": 4}}), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == whole
