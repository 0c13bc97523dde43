"""Verifiers of numbers and expressions."""

from __future__ import annotations

from fractions import Fraction

import pytest

from distrl.language.sandbox.time_limit import call_within
from distrl.language.verifiers.base import make_verifier
from distrl.language.verifiers.numbers import number_in
from tests.language.verifiers.test_base import successes


@pytest.mark.parametrize(
    ("text", "which", "number"),
    [
        ("1,234.5", "only", Fraction(2469, 2)),
        ("it is 3.5.", "last", Fraction(7, 2)),
        ("10-5", "last", 5),
        ("x = −5", "last", -5),
        ("-3 / 4", "only", Fraction(-3, 4)),
        ("from 1 to 2", "first", 1),
        ("from 1 to 2", "only", None),
        ("2e3", "only", 2000),
        ("1e999", "last", None),
        ("1/0", "last", None),
        ("9" * 5000, "last", None),
        ("nan", "last", None),
        ("٣", "last", None),
    ],
)
def test_numbers_are_read_exactly(text: str, which: str, number: object):
    assert number_in(text, which) == number


def test_numeric():
    assert successes("numeric", [("so 0.3333", "1/3"), ("0.34", "1/3")], tolerance=1e-3) == [1, 0]
    assert successes("numeric", [("101", 100), ("102", 100), ("-101", -100)], relative=0.01) == [1, 0, 1]
    assert successes("numeric", [("1 or 2", 1), ("1 or 2", 2)], which="first") == [1, 0]
    with pytest.raises(ValueError, match="expects a number"):
        make_verifier("numeric").check("many")


def test_math():
    pytest.importorskip("math_verify", reason="math-verify belongs to the extra llm")
    cases = [
        (r"so $\frac{1}{2}$", "0.5"),
        ("0.5", r"\frac{1}{2}"),
        (r"\boxed{x^2 + 2x + 1}", "(x+1)^2"),
        ("50%", "1/2"),
        (r"$\{2, 1\}$", r"\{1, 2\}"),
        (r"$\frac{1}{3}$", "0.5"),
        ("", "2"),
        ("}{$\\frac{", "2"),
    ]
    assert successes("math", cases) == [1, 1, 1, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="expects a mathematical expression"):
        make_verifier("math").check("")


def test_math_leaves_a_limit_around_it_alone():
    pytest.importorskip("math_verify", reason="math-verify belongs to the extra llm")
    verifier = make_verifier("math")

    def verify_and_hang():
        assert verifier.score("$2$", "2")["success"] == 1.0
        while True:
            pass

    with pytest.raises(TimeoutError):
        call_within(0.5, verify_and_hang)
