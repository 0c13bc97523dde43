"""Every registered curriculum is built from the config of a run."""

from __future__ import annotations

import pytest

from distrl.base.registry import register
from distrl.config.load import load_config
from distrl.runtime.plan.make import make_plan
from tests.runtime.test_text_curricula import curriculum_run


@pytest.mark.parametrize("name", [method.name for method in register.methods("curriculum")])
def test_a_config_reaches_the_curriculum(name: str) -> None:
    plan = make_plan(load_config(curriculum_run(curriculum={"name": name, "size": 16})))
    curriculum = plan.curriculum(plan.task())
    assert type(curriculum) is register.get("curriculum", name)
