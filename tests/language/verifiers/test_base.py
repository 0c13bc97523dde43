"""Verifiers made by name, and answers of any kind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.verifiers.base import make_verifier

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def successes(name: str, answers: list[tuple[str, object]], **options: object) -> list[float]:
    verifier = make_verifier(name, options)
    for _, expected in answers:
        verifier.check(expected)
    return [verifier.score(answer, expected)["success"] for answer, expected in answers]


def test_wrong_words():
    with pytest.raises(ConfigError, match="did you mean 'numeric'"):
        make_verifier("numerical")
    with pytest.raises(ConfigError, match="Did you mean 'tolerance'"):
        make_verifier("numeric", {"tolerence": 1})


@settings(max_examples=60)
@given(st.text(alphabet=st.sampled_from('0123456789.,-+/eE $\\{}^()x"[]:`\n−٣'), max_size=30))
def test_any_answer_gets_a_score(answer: str):
    for verifier, expected in (
        (make_verifier("exact"), "x"),
        (make_verifier("numeric"), "1/3"),
        (make_verifier("regex", {"pattern": r"(\d+)", "compare": "numeric"}), "3"),
        (make_verifier("json_schema", {"schema": SCHEMA}), None),
    ):
        assert set(verifier.score(answer, expected).values()) <= {0.0, 1.0}
