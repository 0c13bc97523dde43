"""Every registered component of a language algorithm is built from a config."""

from __future__ import annotations

from typing import Any

import pytest

from distrl.base.registry import Method, register
from distrl.config.load import load_config
from distrl.language.chain.objective import LOSS_LEVELS
from distrl.runtime.plan.make import make_plan
from tests.support.text_worlds import world_config

#: Plug point -> keys of the algorithm that name a method, with the method in the place of WORD.
WORD = "WORD"
KEYS: dict[str, dict[str, Any]] = {
    "reward": {"name": "ttrv", "label_free": WORD},
    "component_transform": {"reward": {"components": {"success": {"transform": WORD}}}},
    "combination": {"reward": {"components": {"success": {}, "placed": {}}, "combination": WORD}},
    "gate": {"reward": {"components": {"success": {}, "placed": {"gate": WORD}}}},
    "length_reward": {"reward": {"length": WORD}},
    "shaping": {"reward": {"shaping": WORD}},
    "credit": {"credit": WORD, "advantage": "reinforce_plus_plus"},
    "advantage": {"advantage": WORD},
    **{plug_point: {"objective": WORD} for plug_point in LOSS_LEVELS},
    "behavior_correction": {"correction": WORD, "old_logp": "recompute"},
    "divergence": {"divergence": WORD, "beta": 0.1},
    "aggregation": {"aggregation": WORD},
}
#: Options of methods that need some.
OPTIONS: dict[str, dict[str, Any]] = {"require": {"on": "success"}, "conditioned": {"on": "success"}}
#: Methods that an algorithm supplies with numbers, and that algorithm.
OWNERS = {"riskpo_mvar": "riskpo", "dcpo_entropy": "dcpo", "pipo": "pipo"}
#: Methods that their algorithm calls itself, without a config word.
CALLED = ("pipo",)


def filled(keys: Any, word: Any) -> Any:
    if isinstance(keys, dict):
        return {key: filled(value, word) for key, value in keys.items()}
    return word if keys == WORD else keys


METHODS = [method for plug_point in KEYS for method in register.methods(plug_point)]


@pytest.mark.parametrize("method", METHODS, ids=[f"{m.plug_point}-{m.name}" for m in METHODS])
def test_a_config_reaches_the_method(method: Method) -> None:
    word = {"name": method.name, **OPTIONS.get(method.name, {})}
    name = OWNERS.get(method.name, "grpo")
    keys = {} if method.name in CALLED else filled(KEYS[method.plug_point], word)
    run = world_config("sort_digits", {"name": name, **keys})
    run["language"] = {**run["language"], "warm_start": None}
    make_plan(load_config(run)).build_learner()
