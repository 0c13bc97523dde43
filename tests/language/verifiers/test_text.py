"""Verifiers of text: right, wrong and malformed answers."""

from __future__ import annotations

import json

import pytest

from distrl.base.errors import ConfigError
from distrl.language.sandbox.time_limit import call_within
from distrl.language.verifiers.base import make_verifier
from tests.language.verifiers.test_base import successes

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def test_exact():
    assert successes("exact", [(" two  words\n", "two words"), ("two", "two words"), ("Two", "two"), ("", "x")]) == [
        1, 0, 0, 0,
    ]  # fmt: skip
    assert successes("exact", [("YES", "yes"), ("b", ["a", "B"]), ("12", 12)], ignore_case=True) == [1, 1, 1]
    assert successes("exact", [("a  b", "a b")], ignore_spaces=False) == [0]
    with pytest.raises(ValueError, match="expects text"):
        make_verifier("exact").check({"a": 1})


def test_regex():
    tagged = r"<answer>(.*?)</answer>"
    cases = [("<answer>4</answer> <answer> 5 </answer>", "5"), ("5", "5"), ("<answer>5", "5")]
    assert successes("regex", cases, pattern=tagged) == [1, 0, 0]
    assert successes("regex", [("<answer>4.0</answer>", "4")], pattern=tagged, compare="numeric") == [1]
    assert successes("regex", [("ab12", None), ("ab", None)], pattern=r"\d+", compare=None) == [1, 0]
    assert successes("regex", [("12", "12"), ("12 x", "12")], pattern=r"\d+", which="only") == [1, 0]
    with pytest.raises(ConfigError, match="no regular expression"):
        make_verifier("regex", {"pattern": "("})
    slow = make_verifier("regex", {"pattern": r"(a+)+$"})
    with pytest.raises(TimeoutError):
        call_within(0.2, lambda: slow.score("a" * 40 + "b", "a"))


def test_json_schema():
    pytest.importorskip("jsonschema", reason="jsonschema belongs to the extra llm")
    cases = [
        ('{"age": 3}', None),
        ('```json\n{"age": 3}\n```', None),
        ('{"age": "3"}', None),
        ("{age: 3}", None),
        ("[" * 100000, None),
        ('{"age": NaN}', None),
    ]
    assert successes("json_schema", cases, schema=SCHEMA) == [1, 1, 0, 0, 0, 0]
    assert successes("json_schema", [('{"age": 3}', SCHEMA), ("3", json.dumps(SCHEMA))]) == [1, 0]
    same = [('{"age": 3, "b": [1]}', {"b": [1], "age": 3}), ('{"age": 4}', {"age": 3})]
    assert successes("json_schema", same, schema=SCHEMA, equals=True) == [1, 0]
    with pytest.raises(ConfigError, match="schema is wrong"):
        make_verifier("json_schema", {"schema": {"type": "objct"}})
    with pytest.raises(ValueError, match="a schema is a JSON object"):
        make_verifier("json_schema").check("[1]")
