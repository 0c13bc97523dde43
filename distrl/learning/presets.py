"""Methods that are a choice of config words: an algorithm with other defaults."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import create_model

from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.learning.algorithm import Algorithm

A = TypeVar("A", bound=Algorithm)


def preset(
    name: str, *, of: type[A], paper: str, line: str, entries: Sequence[int] = (), **defaults: object
) -> type[A]:
    """Register another algorithm with these defaults of config keys; returns its class.

        preset("double_dqn", of=DQN, paper="van Hasselt et al. 2016", line="DQN with ...", next_action="double")

    Args:
        paper: Authors, year and title or arXiv id.
        line: One line on the method, for `distrl methods`.
        defaults: Key of `of.Config` -> new default. Types, bounds and descriptions stay.
    """
    unknown = sorted(defaults.keys() - of.Config.model_fields.keys())
    if unknown:
        raise TypeError(f"preset {name}: {of.Config.__name__} has no keys {', '.join(unknown)}.")
    module = sys._getframe(1).f_globals["__name__"]
    title = "".join(word.capitalize() for word in name.split("_"))
    fields: dict[str, Any] = {}
    for key, default in defaults.items():
        info = copy.copy(of.Config.model_fields[key])
        info.default, info.default_factory = default, None
        fields[key] = (info.annotation, info)
    config: type[AlgorithmConfig] = create_model(
        f"{title}Config", __base__=of.Config, __module__=module, __doc__=f"Keys of `{name}`: {line}", **fields
    )
    found = type(title, (of,), {"Config": config, "__doc__": line, "__module__": module})
    return register.algorithm(name, paper=paper, entries=entries)(found)
