"""The numbers of a dry run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig, check_algorithm
from distrl.config.derived import derive, format_bytes, streams_per_sampler, value_text
from distrl.config.load import load_config


class Example(AlgorithmConfig):
    epochs: int = Field(4, ge=1)
    """Epochs."""
    minibatches: int = Field(1, ge=1)
    """Minibatches."""


def derived(*overrides: str, **facts: Any) -> dict[str, dict[str, Any]]:
    source = {
        "name": "x",
        "env": {"id": "CartPole-v1", "num_envs": 8, "streams": 4},
        "algorithm": {"name": "example", "rollout_steps": 32, "minibatches": 4},
        "samplers": {"count": 3},
        "stop": {"env_steps": 1000},
    }
    config = load_config(source, overrides)
    return derive(config, check_algorithm(config, Example), **facts)


def test_numbers() -> None:
    found = derived("store.max_staleness=2", obs_bytes=16, num_parameters=1000)
    assert found["experience"]["environments per stream"] == 2
    assert found["experience"]["streams per sampler"] == [2, 1, 1]
    assert found["learning"]["batch (environment steps per update)"] == 256
    assert found["learning"]["minibatch (environment steps)"] == 64
    assert found["learning"]["gradient steps per update"] == 16
    assert found["learning"]["updates until the end"] == 4
    assert found["memory (bytes)"]["observations waiting, at most"] == 3 * 256 * 16
    assert found["memory (bytes)"]["weights sent to samplers"] == 4000
    assert found["memory (bytes)"]["parameters, gradients, optimizer"] == 16_000


def test_updates_end_first() -> None:
    assert derived("stop.updates=2")["learning"]["updates until the end"] == 2


def test_recurrent_minibatches_are_whole_sequences() -> None:
    found = derived("model.recurrent=gru", "algorithm.minibatches=2")
    assert found["learning"]["minibatch (environment steps)"] == 4 * 32


def test_cpus() -> None:
    assert derived(cluster_cpus=8)["cpus"]["verdict"] == "fits"
    assert derived(cluster_cpus=2)["cpus"]["verdict"] == "fits, but 4 busy threads share 2 CPUs"
    remote = derived("ray.address=auto", "eval.every=5", cluster_cpus=4)["cpus"]
    assert remote["reserved"] == 5
    assert remote["verdict"].startswith("does not fit: 5 CPUs reserved, 4 available")
    assert derived("samplers.cpus=0.5")["cpus"]["reserved"] == 1.5


def test_serial_has_one_sampler() -> None:
    found = derived("backend=serial")
    assert found["experience"]["streams per sampler"] == [4]
    assert found["cpus"] == {"busy threads": 1}


class Replayed(AlgorithmConfig):
    batch_size: int = 64
    """Rows."""
    replay_ratio: float = 0.5
    """Ratio."""
    learning_starts: int = 100
    """Start."""
    prioritized: bool = True
    """Priorities."""


def test_a_replay() -> None:
    source = {"name": "x", "env": {"id": "CartPole-v1", "num_envs": 2}, "algorithm": {"name": "x", "rollout_steps": 8}}
    config = load_config({**source, "store": {"capacity": 1000, "shards": 2}, "stop": {"updates": 5}})
    found = derive(config, check_algorithm(config, Replayed), transition_bytes=40)
    assert found["learning"]["gradient steps per update"] == 8.0
    assert found["learning"]["minibatch (transitions)"] == 64
    assert found["replay"] == {
        "capacity (transitions)": 1000,
        "shards": 2,
        "samples per insert": 32.0,
        "first gradient step after (environment steps)": 100,
        "drawn": "by priority",
    }
    assert found["memory (bytes)"]["replay"] == 40_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": {"capacity": 15}}, "less than one batch of fragments: 16 steps"),
        ({"store": {"capacity": 99}}, "less than algorithm.learning_starts 100"),
        ({"learner": {"shards": 2}}, "do not split"),
        ({"model": {"recurrent": "lstm"}}, "single steps without memory"),
        ({"store": {"shards": 3}}, "more than env.streams 2"),
    ],
)
def test_numbers_that_clash_with_a_replay(changes: dict[str, Any], words: str) -> None:
    source = {"name": "x", "env": {"id": "CartPole-v1", "num_envs": 2}, "algorithm": {"name": "x", "rollout_steps": 8}}
    config = load_config({**source, "stop": {"updates": 5}, **changes})
    with pytest.raises(ConfigError, match=words):
        check_algorithm(config, Replayed)


@given(st.integers(1, 100), st.integers(1, 100))
def test_streams_are_shared_evenly(streams: int, samplers: int) -> None:
    shares = streams_per_sampler(streams, samplers)
    assert sum(shares) == streams
    assert len(shares) == samplers
    assert max(shares) - min(shares) <= 1


def test_text() -> None:
    assert value_text("experience", [2, 1, 1]) == "2, 1, 1"
    assert value_text("memory (bytes)", 2**28) == "256.0 MiB"
    assert value_text("learning", 20480) == "20,480"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (2**30, "1.0 GiB"), (2**52, "4096.0 TiB")])
def test_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text
