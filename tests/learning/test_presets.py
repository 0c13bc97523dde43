"""Algorithms that are other algorithms with other defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from distrl.base.registry import register
from distrl.control.algorithms.value_based.dqn import DQN
from distrl.learning.presets import preset


def test_a_preset_is_the_algorithm_with_other_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    register.load("algorithm")  # modules that are imported later would register in the copy
    monkeypatch.setitem(register._methods, "algorithm", dict(register._methods["algorithm"]))
    found = preset("slow_dqn", of=DQN, paper="Nobody 2025", line="DQN with small steps.", learning_rate=1e-5, n_step=3)
    assert register.get("algorithm", "slow_dqn") is found
    assert issubclass(found, DQN)
    config, base = found.Config(name="slow_dqn"), DQN.Config(name="dqn")
    assert (config.learning_rate, config.n_step) == (1e-5, 3)
    assert DQN.Config.model_fields["n_step"].default == 1
    assert config.model_dump(exclude={"name", "learning_rate", "n_step"}) == base.model_dump(
        exclude={"name", "learning_rate", "n_step"}
    )
    assert found.Config.model_fields["n_step"].description == DQN.Config.model_fields["n_step"].description
    with pytest.raises(ValidationError):
        found.Config(name="slow_dqn", n_step=0)
    (method,) = (method for method in register.methods("algorithm") if method.name == "slow_dqn")
    assert (method.paper, method.line) == ("Nobody 2025", "DQN with small steps.")


def test_a_key_that_the_algorithm_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match="preset wrong: DQNConfig has no keys nstep"):
        preset("wrong", of=DQN, paper="", line="", nstep=3)
