"""The index of methods: current, complete, and its config words select what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.base.registry import HOMES, Method, register
from distrl.config.algorithm import check_algorithm
from distrl.config.load import load_config
from distrl.config.methods_page import SECTIONS, WORDS, render, words
from distrl.config.yaml_text import parse
from distrl.learning.lookup import algorithm_class
from distrl.runtime.plan.make import make_plan
from tests.helpers import merged

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
CONTROL: dict[str, Any] = {"env": {"id": "CartPole-v1", "num_envs": 2}, "model": {"hidden": [4]}}
TEXT: dict[str, Any] = {
    "task": {"name": "sort_digits", "prompts": 16, "streams": 2},
    "language": {"source": "tiny", "layers": 1, "width": 16, "heads": 2, "dtype": "fp32", "max_new_tokens": 4},
}
#: Environments of algorithms that do not act in CartPole.
BOX = {"env": {"id": "Pendulum-v1"}}
ENVS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("aro_ddpg", "ddpg", "dsac", "dsac_quantile", "redq", "sac", "td3", "tqc"), BOX),
    "cesor": {"env": {"id": "distrl.control.envs.wrappers.context:GuardedPath", "wrappers": ["choose_context"]}},
    "md3qn": {"env": {"id": "distrl/TwoChannels-v0"}},
    "stock_dqn": {
        "env": {"id": "distrl/RiskyChoice-v0", "wrappers": [{"stock": {"gamma": 1.0, "start": [0, 10], "scale": 10}}]},
        "algorithm": {"gamma": 1.0, "stock_scale": 10},
    },
}
METHODS = register.methods()
ALGORITHMS = [method for method in METHODS if method.plug_point == "algorithm"]


def run_of(method: Method) -> dict[str, Any]:
    """A small run with the words of a method."""
    chosen = parse(words(method), "words")
    text = not {"task", "language"}.isdisjoint(chosen) or ".language." in method.target.__module__
    run = {"name": "index", "backend": "serial", "algorithm": {"name": "grpo" if text else "ppo"}}
    run |= {"stop": {"updates": 1}, **(TEXT if text else CONTROL)}
    return merged(merged(run, ENVS.get(method.name, {})), chosen)


def test_every_plug_point_has_words_and_a_section() -> None:
    shown = {point.partition(":")[0] for points in SECTIONS.values() for point in points}
    assert set(WORDS) == shown == set(HOMES)


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "docs/methods.md is old; run: make docs"


@pytest.mark.parametrize("method", METHODS, ids=[f"{m.plug_point}-{m.name}" for m in METHODS])
def test_words_are_a_config(method: Method) -> None:
    config = load_config(run_of(method))
    check_algorithm(config, algorithm_class(config).Config)


@pytest.mark.parametrize("method", ALGORITHMS, ids=[method.name for method in ALGORITHMS])
def test_every_algorithm_is_built(method: Method) -> None:
    make_plan(load_config(run_of(method))).build_learner()
