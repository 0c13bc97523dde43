"""From a config to the plan of its kind of run.

The language wing is imported inside functions: a run of environments does not load it.
"""

from __future__ import annotations

from distrl.config.algorithm import check_algorithm, fill_algorithm
from distrl.config.schema import RunConfig
from distrl.learning.lookup import algorithm_class
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.control import make_control_plan


def check_config(config: RunConfig) -> RunConfig:
    """Check the algorithm's own keys and fill in their defaults."""
    return fill_algorithm(config, check_algorithm(config, algorithm_class(config).Config))


def make_plan(config: RunConfig) -> Plan:
    """Check everything that needs an environment, or a task and its tokenizer."""
    config = check_config(config)
    if config.language is None:
        return make_control_plan(config)
    from distrl.runtime.plan.language import make_text_plan

    plan = make_text_plan(config)
    if config.learner.sharding is None:
        return plan
    from distrl.runtime.plan.sharded_language import sharded_plan

    return sharded_plan(plan)
