"""Verifiers of numbers and mathematical expressions."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.verifiers.base import Verifier

#: An integer, decimal or fraction, with thousands separated by commas or not.
NUMBER = re.compile(
    r"""(?:(?<![\w)])[-+−])?                                     # no sign after a digit: 10-5 holds 10 and 5
        (?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d*)?|\.\d+)
        (?:[eE][-+]?\d+)?
        (?:\s*/\s*\d+)?""",
    re.VERBOSE | re.ASCII,
)
LONGEST_NUMBER = 200


@register.verifier("numeric")
class Numeric(Verifier):
    """A number within a tolerance of the expected one; reads 1,234.5, -3e4 and 3/4.

    Args:
        tolerance: Largest absolute difference.
        relative: Largest difference relative to the expected number; the larger limit counts.
        which: "last" or "first" number of the answer, or "only": the answer is one number.
    """

    def __init__(self, tolerance: float = 1e-6, relative: float = 0.0, which: str = "last"):
        if which not in ("last", "first", "only"):
            raise ConfigError(f"numeric: which = {which!r} is not last, first or only.")
        self.tolerance, self.relative, self.which = tolerance, relative, which

    def check(self, expected: object) -> None:
        if number_in(str(expected), "only") is None:
            raise ValueError(f"expects a number, not {expected!r:.60}")

    def score(self, answer: str, expected: object) -> dict[str, float]:
        said, right = number_in(answer, self.which), number_in(str(expected), "only")
        if right is None:
            raise ValueError(f"expects a number, not {expected!r:.60}")
        if said is None:
            return {"success": 0.0, "form": 0.0}
        limit = max(Fraction(self.tolerance), Fraction(self.relative) * abs(right))
        return {"success": float(abs(said - right) <= limit), "form": 1.0}


def number_in(text: str, which: str) -> Fraction | None:
    """Return the last, first or only number of a text, exactly; None without one.

    >>> number_in("from 1,200 to 3/4", "first"), number_in("from 1,200 to 3/4", "last")
    (Fraction(1200, 1), Fraction(3, 4))
    """
    if which == "only":
        whole = NUMBER.fullmatch(text.strip())
        found = [whole.group()] if whole else []
    else:
        found = [match.group() for match in NUMBER.finditer(text)]
    if not found:
        return None
    word = re.sub(r"[\s,]", "", found[0 if which == "first" else -1]).replace("−", "-")
    if len(word) > LONGEST_NUMBER:
        return None
    top, _, bottom = word.partition("/")
    if not math.isfinite(float(top)) or (bottom and int(bottom) == 0):
        return None
    return Fraction(top) / int(bottom or 1)


@register.verifier("math")
class Math(Verifier):
    r"""Last expression equal to the expected one in any form: \frac{1}{2}, 0.5, 50%.

    Needs the package math-verify (`pip install 'distrl[llm]'`).

    Args:
        digits: Decimal places to which numbers must agree.
        strict: Variables and kinds (tuple, set, interval) must agree too.
    """

    checks_quickly = False

    def __init__(self, digits: int = 6, strict: bool = True):
        try:
            import math_verify
        except ModuleNotFoundError:
            raise ConfigError("the verifier 'math' needs math-verify.", "pip install 'distrl[llm]'") from None
        self.library, self.digits, self.strict = math_verify, digits, strict
        for name in ("math_verify.parser", "math_verify.grader"):
            logging.getLogger(name).addFilter(_not_about_time_limits)

    def check(self, expected: object) -> None:
        if not self._read(_in_dollars(str(expected))):
            raise ValueError(f"expects a mathematical expression, not {expected!r:.60}")

    def score(self, answer: str, expected: object) -> dict[str, float]:
        said = self._read(answer) or self._read(_in_dollars(answer))
        if not said:
            return {"success": 0.0, "form": 0.0}
        # the library's own time limits would use the process's alarm signal; the caller has a limit
        same = self.library.verify(
            self._read(_in_dollars(str(expected))), said, float_rounding=self.digits, strict=self.strict,
            timeout_seconds=None,
        )  # fmt: skip
        return {"success": float(same), "form": 1.0}

    def _read(self, text: str) -> Sequence[object]:
        return self.library.parse(text, parsing_timeout=None)


def _not_about_time_limits(record: logging.LogRecord) -> bool:
    return "Timeout is disabled" not in record.getMessage()


def _in_dollars(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text.strip()}$"
