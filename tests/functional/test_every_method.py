"""Every registered return distribution, risk measure and next-action rule is built from a config."""

from __future__ import annotations

from typing import Any

import pytest

from distrl.base.registry import Method, register
from distrl.config.load import load_config
from distrl.runtime.plan.make import make_plan

#: Plug point -> configs of an algorithm that name a method, which replaces NAME.
WORDS: dict[str, list[dict[str, Any]]] = {
    "return_distribution": [{"name": "ppo", "critic_head": "NAME"}, {"name": "dqn", "head": "NAME"}],
    "risk": [
        {"name": "ppo", "critic_head": "quantile", "risk": "NAME"},
        {"name": "dqn", "head": "quantile", "risk": "NAME"},
    ],
    "next_action": [{"name": "dqn", "next_action": "NAME"}],
}
#: Methods that need other configs.
OTHER_WORDS = {"joint": [{"name": "md3qn"}]}
CASES = [
    pytest.param(method, words, id=f"{method.plug_point}-{method.name}-{words['name']}")
    for plug_point, every in WORDS.items()
    for method in register.methods(plug_point)
    for words in OTHER_WORDS.get(method.name, every)
]


def build(method: Method, words: dict[str, Any]) -> Any:
    """Build the algorithm of a tiny run with the words of a method."""
    env = "distrl/TwoChannels-v0" if method.name == "joint" else "CartPole-v1"
    algorithm = {key: word if word != "NAME" else method.name for key, word in words.items()}
    run = {"env": {"id": env, "num_envs": 2}, "model": {"hidden": [4]}, "algorithm": algorithm}
    return make_plan(load_config({"name": "tiny", "backend": "serial", "stop": {"updates": 1}, **run})).build_learner()


def found(algorithm: Any, plug_point: str) -> Any:
    """Return the object of a plug point that an algorithm uses."""
    if plug_point == "next_action":
        return algorithm.next_action
    if plug_point == "risk":
        critic = getattr(algorithm.model, "critic", None)
        return critic.risk if critic else algorithm.policy.score.keywords["measure"]
    return algorithm.distribution if hasattr(algorithm, "distribution") else algorithm.model.critic.distribution


@pytest.mark.parametrize(("method", "words"), CASES)
def test_a_config_reaches_the_method(method: Method, words: dict[str, Any]) -> None:
    algorithm = build(method, words).algorithm
    if method.name == "scalar" and words["name"] == "ppo":
        assert not hasattr(algorithm.model.critic, "distribution")  # a plain value network
        return
    if method.name == "mean" and words["name"] == "dqn":
        assert algorithm.policy.score == algorithm.distribution.mean
        return
    used = found(algorithm, method.plug_point)
    assert used is method.target or type(used) is method.target
