"""The verifier of programs: right, wrong, malformed and malicious answers."""

from __future__ import annotations

import pytest

from distrl.base.errors import ResourceError
from distrl.language.verifiers import unit_tests
from distrl.language.verifiers.base import make_verifier

ADD = ["assert add(1, 2) == 3", "assert add(0, 5) == 5"]


@pytest.mark.parametrize(
    ("answer", "components"),
    [
        ("def add(a, b): return a + b", (1.0, 1.0, 1.0)),
        ("Sure!\n```python\nprint('hello')\ndef add(a, b):\n    return b\n```\nDone.", (0.0, 0.5, 1.0)),
        ("def add(a, b:", (0.0, 0.0, 0.0)),
        ("import os; os._exit(0)", (0.0, 0.0, 1.0)),
        ("def add(a, b): raise SystemExit(0)", (0.0, 0.0, 1.0)),
        ("for i in range(9): print(i)", (0.0, 0.0, 1.0)),
    ],
)
def test_unit_tests_by_assertion(answer: str, components: tuple[float, ...]):
    verifier = make_verifier("unit_tests", {"seconds": 60.0})
    verifier.check(ADD)
    assert tuple(verifier.score(answer, ADD).values()) == components


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
