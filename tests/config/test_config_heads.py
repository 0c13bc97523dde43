"""Config of return heads and risk measures: a word, a mapping, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from distrl.base.errors import ConfigError
from distrl.config.sections.base import Section
from distrl.config.sections.heads import FAMILIES, RISKS, ReturnHeadConfig, RiskConfig


class Outer(Section):
    critic_head: ReturnHeadConfig = ReturnHeadConfig()
    risk: RiskConfig = RiskConfig()


def test_a_word_is_enough():
    config = Outer.model_validate({"critic_head": "quantile", "risk": "cvar"})
    assert config.critic_head.options() == {"size": 32, "kappa": 1.0, "monotone": False}
    assert config.risk.options() == {"level": 0.1}
    assert Outer().critic_head.name == "scalar"
    assert Outer().risk.name == "mean"


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_of_every_family(family):
    config = ReturnHeadConfig(name=family)
    assert config.options() | config.network_options() == FAMILIES[family]
    assert ReturnHeadConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("risk", RISKS)
def test_defaults_of_every_measure(risk):
    assert RiskConfig(name=risk).options() == RISKS[risk]


def test_set_keys_override():
    config = ReturnHeadConfig(name="iqn", size=16, embedding=32)
    assert config.options()["size"] == 16
    assert config.network_options() == {"embedding": 32}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "qantile"}, "did you mean 'quantile'"),
        ({"name": "quantile", "v_min": 0}, "return distribution quantile has no key 'v_min'. Its keys: size, kappa"),
        ({"name": "categorical", "v_min": 3, "v_max": 1}, "v_min is 3 and v_max 1"),
        ({"name": "categorical", "v_min": 11}, "v_min is 11 and v_max 10"),
        ({"name": "categorical", "size": 1}, "at least 2 atoms"),
        ({"name": "categorical", "spacing": "sym"}, "unknown spacing"),
        ({"name": "joint", "weights": [1.0]}, "1 weights for 2 channels"),
        ({"name": "joint", "kernel": "energetic"}, "did you mean 'energy'"),
    ],
)
def test_wrong_heads(config, message):
    with pytest.raises(ConfigError, match=message):
        ReturnHeadConfig.model_validate(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cvarr"}, "did you mean 'cvar'"),
        ({"name": "mean", "level": 0.1}, "risk measure mean has no key 'level'. It has none."),
        ({"name": "mixed_var", "low": 0.9}, "expected low < high"),
        ({"name": "mixed_var", "weight": -1}, "expected at least 0"),
    ],
)
def test_wrong_risks(config, message):
    with pytest.raises(ConfigError, match=message):
        RiskConfig.model_validate(config)


@pytest.mark.parametrize("level", [0, -1, 1.1])
def test_levels_outside_are_refused(level):
    with pytest.raises(ValidationError):
        RiskConfig(name="cvar", level=level)
