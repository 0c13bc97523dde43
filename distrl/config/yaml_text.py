"""YAML 1.2 scalars: `1e-3` is a number, `off` is text; duplicate keys are errors.

PyYAML follows YAML 1.1, where `1e-3` is text, `off` is false, `010` is 8 and `1:30` is 90. Here scalars follow the
core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), and digits may be grouped as in 100_000.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from distrl.base.errors import ConfigError

_SCALARS: list[tuple[str, str, list[str]]] = [  # tag, pattern, first characters
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
    ("merge", r"^(?:<<)$", ["<"]),
]


class Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 scalars that refuses duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key_node.value!r} is given twice, first in line {seen[key_node.value]}",
                    problem_mark=key_node.start_mark,
                )
            seen[key_node.value] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text, 10)


class Dumper(yaml.SafeDumper):
    """Safe dumper that quotes whatever YAML 1.1 or 1.2 would take for something other than text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def parse(text: str, source: str) -> Any:
    """Parse a YAML text; `source` is its name in messages."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        fix = "Indent with spaces, not tabs." if "'\\t'" in problem else ""
        raise ConfigError(f"{source}{place}: {problem}.", fix) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())}.") from None


def dump(value: object) -> str:
    """Write plain data as YAML, keys in their given order; `parse` reads it back equal."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120)
