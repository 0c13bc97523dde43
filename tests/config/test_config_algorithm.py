"""An algorithm's own keys, and batches that must split."""

from __future__ import annotations

import pytest
from pydantic import Field

from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig, check_algorithm, known_keys
from distrl.config.load import load_config
from distrl.config.messages import RENAMED_KEYS, unknown_key
from distrl.config.schedule import Schedule, Scheduled


class Example(AlgorithmConfig):
    clip: Scheduled[float] = Field(0.2, ge=0)
    """Clip."""
    epochs: int = Field(4, ge=1)
    """Epochs."""
    minibatches: int = Field(1, ge=1)
    """Minibatches."""
    minibatch_size: int | None = Field(None, ge=1)
    """Steps of a minibatch."""


def check(*overrides: str) -> Example:
    source = {
        "name": "x",
        "env": {"id": "CartPole-v1", "num_envs": 8},
        "algorithm": {"name": "example"},
        "stop": {"env_steps": 1000},
    }
    return check_algorithm(load_config(source, overrides), Example)


def test_keys_arrive() -> None:
    config = check("algorithm.clip={from: 0.2, to: 0}", "algorithm.epochs=1e1")
    assert config.schedules == {"clip": Schedule(0.2, 0.0)}
    assert config.epochs == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.clp=1"], "unknown key 'algorithm.clp': did you mean algorithm.clip?"),
        (["algorithm.num_envs=1"], "unknown key 'algorithm.num_envs': did you mean env.num_envs?"),
        (["algorithm.lr=1"], "unknown key 'algorithm.lr': did you mean algorithm.learning_rate?"),
        (["algorithm.xyz=1"], "unknown key 'algorithm.xyz'. Keys of algorithm: clip, epochs, gamma,"),
        (["algorithm.gamma=1.5"], "algorithm.gamma is 1.5; expected at most 1"),
        (["algorithm.epochs=half"], "algorithm.epochs is 'half'; expected a whole number"),
        (["algorithm.gamma=true"], "algorithm.gamma is true; expected a number"),
        (["algorithm.clip={from: 1, to: -1}"], "algorithm.clip is -1.0; expected at least 0"),
        (["algorithm.epochs={from: 1, to: 3}"], "algorithm.epochs is {'from': 1, 'to': 3}; expected a whole number"),
        (
            ["algorithm.minibatches=7"],
            "minibatches 7 does not divide the batch of 256 steps (rollout_steps 32 x env.num_envs 8)",
        ),
        (["algorithm.minibatch_size=100"], "minibatch_size 100 does not divide the batch of 256 steps"),
        (["algorithm.minibatches=16", "model.recurrent=gru"], "minibatches 16 does not divide the batch of 8 env"),
        (["algorithm.minibatch_size=16", "model.recurrent=gru"], "into whole sequences of 32 steps"),
        (["algorithm.minibatches=128", "learner.shards=4"], "a minibatch has 2 steps, fewer than learner.shards 4"),
    ],
)
def test_wrong(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(*overrides)
    assert message in str(caught.value)


def test_default_schedule_is_checked_too() -> None:
    class Falling(AlgorithmConfig):
        clip: Scheduled[float] = Schedule(1.0, 0.0)  # type: ignore[assignment]

    source = {"name": "x", "env": {"id": "E"}, "algorithm": {"name": "f"}, "stop": {"updates": 5}}
    with pytest.raises(ConfigError, match=r"algorithm\.clip has a schedule over: run, but stop\.env_steps is not set"):
        check_algorithm(load_config(source), Falling)


@pytest.mark.parametrize(
    ("old", "new"),
    [("critic", "value_coef"), ("entropy", "entropy_coef"), ("old", "old_logp"), ("reward.parts", "reward.components")],
)
def test_renamed_keys_are_refused_with_the_new_name(old: str, new: str) -> None:
    keys = [*known_keys(), f"algorithm.{new}"]
    message = str(unknown_key(f"algorithm.{old}", keys))
    assert message == f"unknown key 'algorithm.{old}': it is now algorithm.{new}."
    assert RENAMED_KEYS[f"algorithm.{old}"] == f"algorithm.{new}"
