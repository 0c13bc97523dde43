"""`learner.compile` and `learner.precision` of off-policy learners: both act, and neither changes what is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distrl.base.errors import ConfigError
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.models.parameters.precision import hidden_layers_in_bf16
from tests.support import continuous_cases, q_learners

#: value-based: switches that change what is compiled
VALUE_BASED: dict[str, dict[str, Any]] = {
    "dqn": {},
    "dqn soft": {"next_action": "soft", "munchausen": 0.9},
    "rainbow": {"learning_rate": 1e-3, "head": {"size": 11}},
    "iqn": {"next_action": "double", "epsilon": {"from": 1.0, "to": 0.1, "over": 100}},
    "iterated_q": {"iterations": 2},
}
CONTINUOUS: dict[str, dict[str, Any]] = continuous_cases.LEARNERS


class Graphs:
    """A compiler that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    torch._dynamo.reset()
    found, compile_ = Graphs(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=found, **options))
    return found


def make(case: str, **build: Any) -> Any:
    name = case.split()[0]
    if case in VALUE_BASED:
        return q_learners.make_q(name, hidden=(8, 8), target_interval=2, build=build, **VALUE_BASED[case])
    return continuous_cases.make_learner(name, hidden=(8, 8), build=build, **CONTINUOUS[case])


def step(learner: Any, number: int) -> float:
    """One gradient step with the config of this moment; the critic's loss."""
    learner.resolve(10 * number, 1000)
    value_based = isinstance(learner.policy, nn.Module) and hasattr(learner.policy, "returns")
    batch = (q_learners if value_based else continuous_cases).make_batch(16, seed=number)
    return float(learner.update(batch, np.random.default_rng(number)).metrics["loss/critic"])


def learned(learner: Any) -> torch.Tensor:
    return torch.cat([part.flat.data for part in learner.modules.values()])


@pytest.mark.parametrize("case", [*VALUE_BASED, "sac", "dsac", "redq", "td3"])
def test_compiled_learners_learn_the_same(case: str, graphs: Graphs) -> None:
    plain, compiled = make(case), make(case, compile=True)
    counts = []
    for number in range(5):
        first, second = step(plain, number), step(compiled, number)
        assert second == pytest.approx(first, rel=1e-3, abs=1e-5)
        counts.append(graphs.count)
    torch.testing.assert_close(learned(compiled), learned(plain), rtol=1e-3, atol=1e-4)
    assert counts[0] > 0
    assert counts[-1] == counts[1]  # the second step may be another one: policies every other step, schedules


@pytest.mark.parametrize("case", [*VALUE_BASED, *CONTINUOUS])
def test_bf16_is_another_arithmetic_and_the_same_learning(case: str) -> None:
    plain, rough = make(case), make(case, bf16=True)
    losses = np.array([[step(learner, number) for learner in (plain, rough)] for number in range(4)])
    assert (losses[:, 0] != losses[:, 1]).all()
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=0.1, atol=0.02)
    assert learned(rough).dtype == torch.float32
    torch.testing.assert_close(learned(rough), learned(plain), rtol=0.1, atol=0.02)


def test_last_layers_and_distributions_stay_in_float32() -> None:
    """An output near 1000 keeps its decimals: in bfloat16 it would be a multiple of 4."""
    learner = make("dqn", bf16=True)
    with torch.no_grad():
        learner.policy.head.layer.bias.fill_(1000.3)
        learner.policy.head.layer.weight.zero_()
    obs = torch.randn(4, 3)
    assert learner.policy.returns(obs).dtype == torch.float32
    torch.testing.assert_close(learner.policy.values(obs), torch.full((4, 4), 1000.3))
    critic = make("sac", bf16=True)
    assert critic.critics(obs, torch.zeros(4, 2)).dtype == torch.float32
    action, logp = critic.policy.sample(obs, torch.zeros(4, 2))
    assert action.dtype == logp.dtype == torch.float32


def test_what_can_do_neither_is_refused() -> None:
    class Own(OffPolicy):
        """An algorithm that knows nothing of compiling."""

        def make_modules(self) -> dict[str, Any]:
            return {}

    model = nn.Module()
    model.policy = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="the update of Own cannot be compiled"):
        Own(None, model, compile=True)
    with pytest.raises(ConfigError, match="networks of Module compute in float32 only"):
        Own(None, model, bf16=True)
    with pytest.raises(ConfigError, match="networks of Linear compute in float32 only"):
        hidden_layers_in_bf16(model.policy)
    assert Own(None, model).modules == {}
