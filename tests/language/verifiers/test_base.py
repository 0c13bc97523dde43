"""Verifiers: right, wrong, malformed and malicious answers."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError, ResourceError
from distrl.language.sandbox.time_limit import call_within
from distrl.language.verifiers import unit_tests
from distrl.language.verifiers.base import make_verifier, number_in

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
ADD = ["assert add(1, 2) == 3", "assert add(0, 5) == 5"]


def successes(name: str, answers: list[tuple[str, object]], **options: object) -> list[float]:
    verifier = make_verifier(name, options)
    for _, expected in answers:
        verifier.check(expected)
    return [verifier.score(answer, expected)["success"] for answer, expected in answers]


def test_exact():
    assert successes("exact", [(" two  words\n", "two words"), ("two", "two words"), ("Two", "two"), ("", "x")]) == [
        1, 0, 0, 0,
    ]  # fmt: skip
    assert successes("exact", [("YES", "yes"), ("b", ["a", "B"]), ("12", 12)], ignore_case=True) == [1, 1, 1]
    assert successes("exact", [("a  b", "a b")], ignore_spaces=False) == [0]
    with pytest.raises(ValueError, match="expects text"):
        make_verifier("exact").check({"a": 1})


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


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("def add(a, b): return a + b", (1.0, 1.0, 1.0)),
        ("Sure!\n```python\nprint('hello')\ndef add(a, b):\n    return b\n```\nDone.", (0.0, 0.5, 1.0)),
        ("def add(a, b:", (0.0, 0.0, 0.0)),
        ("import os; os._exit(0)", (0.0, 0.0, 1.0)),
        ("def add(a, b): raise SystemExit(0)", (0.0, 0.0, 1.0)),
        ("for i in range(9): print(i)", (0.0, 0.0, 1.0)),
    ],
)
def test_unit_tests_by_assertion(answer: str, parts: tuple[float, ...]):
    verifier = make_verifier("unit_tests", {"seconds": 60.0})
    verifier.check(ADD)
    assert tuple(verifier.score(answer, ADD).values()) == parts


def test_unit_tests_before_a_crash_count():
    verifier = make_verifier("unit_tests", {"seconds": 60.0})
    answer = "import os\ndef add(a, b):\n    if a == 0: os.abort()\n    return a + b"
    assert verifier.score(answer, ADD) == {"success": 0.0, "passed": 0.5, "form": 1.0}


def test_unit_tests_by_output():
    verifier = make_verifier("unit_tests", {"seconds": 60.0})
    tables = [{"stdin": "abc\n", "stdout": "cba  \n"}, {"stdin": "x", "stdout": "y"}]
    verifier.check(tables)
    assert verifier.score("print(input()[::-1])", tables) == {"success": 0.0, "passed": 0.5, "form": 1.0}


@pytest.mark.parametrize("tests", [[], "assert True", ["assert True", {"stdin": "", "stdout": ""}], [{"stdin": ""}]])
def test_unit_tests_that_are_none(tests: object):
    with pytest.raises(ValueError):
        make_verifier("unit_tests").check(tests)


def test_an_open_box_is_told_once_or_refused(monkeypatch):
    outcome = unit_tests.run_program("pass", limits=unit_tests.Limits(seconds=60.0, network=True))
    assert "network" in outcome.open_to
    monkeypatch.setattr(unit_tests, "run_program", lambda *_: outcome)
    with pytest.warns(UserWarning, match="network"):
        make_verifier("unit_tests").score("x = 1", ["assert x"])
    with pytest.raises(ResourceError, match="network"):
        make_verifier("unit_tests", {"insist": True}).score("x = 1", ["assert x"])


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
