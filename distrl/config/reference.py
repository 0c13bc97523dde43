"""Write docs/config.md from the models: `python -m distrl.config.reference [FILE]`."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distrl.base.files import write_atomic
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.messages import section_model
from distrl.config.schedule import Schedule, ScheduleOrNumber
from distrl.config.schema import RunConfig
from distrl.config.sections.base import DERIVED

INTRODUCTION = """\
# Config reference

Made from the models by `python -m distrl.config.reference`; edit the models, not this page.

A run is one YAML file; `distrl train FILE key=value ...` overrides any key by its dotted name. Values are YAML 1.2
(`1e-3` is a number, `off` is a word), whole numbers may be written `1e5`, and a mistake is answered with one line.

## Schedules

A key marked *may be scheduled* takes a number, or a number that changes over the run:

    learning_rate: {from: 1e-3, to: 0, over: run}

| key | default | meaning |
|--|--|--|
| `from`, `to` | | first and last value |
| `over` | `run` | environment steps or tokens that the change takes; `run`: until `stop.env_steps` or `stop.tokens` |
| `shape` | `linear` | `linear`, `cosine` (slow at both ends), `exponential` (equal factors in equal times) |
| `after` | 0 | environment steps or tokens before the change begins |

The value is set at each update, from the environment steps or tokens consumed before it.
"""

RESUME = """\
## What a resumed run may change

`stop.*`, `samplers.*`, `learner.device`, `learner.threads`, `learner.processes`, `learner.compile`,
`learner.prefetch`, `logging.*`, `checkpoint.*`, `ray.*`, `backend`. Any other change is named and refused.
A schedule `over: run` follows a changed `stop.env_steps` or `stop.tokens`.
"""


def render(algorithms: Mapping[str, type[AlgorithmConfig]] = types.MappingProxyType({})) -> str:
    """Render the reference page, with a table for the own keys of each named algorithm."""
    parts = [INTRODUCTION, "## Top level\n\n" + table(RunConfig, sections=False)]
    for name, info in RunConfig.model_fields.items():
        if (model := section_model(info.annotation)) is not None:
            parts += _section(name, model, "##")
        elif name == "algorithm":
            parts.append(f"## algorithm\n\n{_first_line(AlgorithmConfig)}\n\n{table(AlgorithmConfig)}")
            parts.extend(_own_keys(*algorithm) for algorithm in algorithms.items())
    return "\n".join([*parts, RESUME])


def _section(title: str, model: type[BaseModel], mark: str) -> list[str]:
    """Render a section's table and those of its subsections."""
    parts = [f"{mark} {title}\n\n{_first_line(model)}\n\n{table(model)}"]
    for name, info in model.model_fields.items():
        if (inside := section_model(info.annotation)) is not None:
            parts += _section(f"{title}.{name}", inside, "###")
    return parts


def table(model: type[BaseModel], sections: bool = True, skip: Sequence[str] = ()) -> str:
    """Render a model's keys as a Markdown table; `sections=False` omits nested models."""
    lines = ["| key | type | default | meaning |", "|--|--|--|--|"]
    for name, info in model.model_fields.items():
        nested = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        if name in skip or ((nested or name == "algorithm") and not sections):
            continue
        meaning = " ".join((info.description or "").split())
        scheduled = any(isinstance(mark, ScheduleOrNumber) for mark in info.metadata)
        kind = _words(info.annotation) + (", may be scheduled" if scheduled else "")
        cells = (f"`{name}`", kind, default_text(info), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _words(annotation: object) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(kind) for kind in inside)
    if origin is list:
        return f"list of {_words(inside[0])}"
    if origin is dict or annotation is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys of its own"
    names: dict[object, str] = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(info: FieldInfo) -> str:
    """Format a field's default as YAML."""
    if info.is_required():
        return "required"
    if info.default is DERIVED and info.annotation is int:
        return "derived"
    return f"`{_yaml_text(info.get_default(call_default_factory=True))}`"


def _yaml_text(value: object) -> str:
    if isinstance(value, Schedule):
        return "{" + ", ".join(f"{key}: {_yaml_text(child)}" for key, child in value.to_dict().items()) + "}"
    if isinstance(value, BaseModel):
        changed = {key: child for key, child in value if child != type(value).model_fields[key].default}
        return "{" + ", ".join(f"{key}: {_yaml_text(child)}" for key, child in changed.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _own_keys(title: str, algorithm: type[AlgorithmConfig]) -> str:
    """Render the keys that an algorithm adds, and the common ones with other defaults."""
    common = AlgorithmConfig.model_fields
    same = [
        name
        for name, info in algorithm.model_fields.items()
        if name == "name" or (name in common and info.default == common[name].default)
    ]
    return f"### algorithm: {title}\n\n{_first_line(algorithm)}\n\n{table(algorithm, skip=same)}"


def _first_line(model: type) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def algorithm_configs() -> dict[str, type[AlgorithmConfig]]:
    """Return the `Config` model of every registered algorithm by name; imports torch."""
    return {method.name: method.target.Config for method in register.methods("algorithm")}


def main(path: str = "docs/config.md") -> None:
    """Write the page, with the keys of every registered algorithm."""
    write_atomic(Path(path), render(algorithm_configs()))


if __name__ == "__main__":
    main(*sys.argv[1:2])
