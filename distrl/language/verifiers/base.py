"""Verifiers: is an answer what the item expects? Chosen by one word, used by tasks that read prompts from files.

    verifier = make_verifier("numeric", {"tolerance": 0.01})
    verifier.check("3.14")                        # when the file is read: is this something to compare with?
    verifier.score("It is 3.141", "3.14")         # {"success": 1.0, "form": 1.0}

`success` is 1 or 0 unless said otherwise; `form` says whether there was anything to compare.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from distrl.base.errors import ConfigError, nearest
from distrl.base.registry import register

#: An integer, decimal or fraction, with thousands separated by commas or not.
NUMBER = re.compile(
    r"""(?:(?<![\w)])[-+−])?                                     # no sign after a digit: 10-5 holds 10 and 5
        (?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d*)?|\.\d+)
        (?:[eE][-+]?\d+)?
        (?:\s*/\s*\d+)?""",
    re.VERBOSE | re.ASCII,
)
FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
LONGEST_NUMBER = 200


class Verifier:
    """Base class. Register with `@register.verifier("name")`.

    Attributes:
        parts: Names of what `score` gives; the first is success, in [0, 1].
        seconds: Wall time that one `score` may take.
        checks_quickly: `check` is cheap enough for every row of a large file.
    """

    parts: tuple[str, ...] = ("success", "form")
    seconds: float = 5.0
    checks_quickly: bool = True

    def check(self, expected: Any) -> None:
        """Look at what an item expects, before the run.

        Raises:
            ValueError: It is nothing that an answer could be compared with.
        """

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        """A finite number for each of `parts`. May raise or take long: callers guard."""
        raise NotImplementedError


def make_verifier(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """The verifier that a config names.

    Args:
        name: A registered name, or `module:Class`.
        options: Arguments of its constructor.

    Raises:
        ConfigError: No such verifier, or not one of its options.
    """
    factory = register.get("verifier", name)
    known = inspect.signature(factory).parameters
    for word in options or {}:
        if word not in known:
            guess = nearest(word, known)
            hint = f"Did you mean {guess!r}?" if guess else "Remove it."
            raise ConfigError(f"verifier {name!r} has no option {word!r}; it has {', '.join(known) or 'none'}.", hint)
    return factory(**(options or {}))


@register.verifier("exact")
class Exact(Verifier):
    """The answer is the expected text, or one of a list of texts. Spaces at both ends never count.

    Args:
        ignore_case: Letters match in either case.
        ignore_spaces: Runs of white space count as one space.
    """

    parts = ("success",)

    def __init__(self, ignore_case: bool = False, ignore_spaces: bool = True):
        self.ignore_case, self.ignore_spaces = ignore_case, ignore_spaces

    def check(self, expected: Any) -> None:
        texts = expected if isinstance(expected, list | tuple) else [expected]
        if not texts or not all(isinstance(text, str | int | float) for text in texts):
            raise ValueError(f"expects text or a list of texts, not {expected!r:.60}")

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        texts = expected if isinstance(expected, list | tuple) else [expected]
        return {"success": float(self._plain(answer) in {self._plain(str(text)) for text in texts})}

    def _plain(self, text: str) -> str:
        text = " ".join(text.split()) if self.ignore_spaces else text.strip()
        return text.casefold() if self.ignore_case else text


@register.verifier("numeric")
class Numeric(Verifier):
    """A number of the answer is within a tolerance of the expected one. Reads 1,234.5, -3e4 and 3/4.

    Args:
        tolerance: Largest absolute difference.
        relative: Largest difference as a share of the expected number; the larger limit counts.
        which: "last" or "first" number of the answer, or "only": the answer is nothing but the number.
    """

    def __init__(self, tolerance: float = 1e-6, relative: float = 0.0, which: str = "last"):
        if which not in ("last", "first", "only"):
            raise ConfigError(f"numeric: which = {which!r} is not last, first or only.")
        self.tolerance, self.relative, self.which = tolerance, relative, which

    def check(self, expected: Any) -> None:
        if number_in(str(expected), "only") is None:
            raise ValueError(f"expects a number, not {expected!r:.60}")

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        said, right = number_in(answer, self.which), number_in(str(expected), "only")
        if right is None:
            raise ValueError(f"expects a number, not {expected!r:.60}")
        if said is None:
            return {"success": 0.0, "form": 0.0}
        limit = max(Fraction(self.tolerance), Fraction(self.relative) * abs(right))
        return {"success": float(abs(said - right) <= limit), "form": 1.0}


def number_in(text: str, which: str) -> Fraction | None:
    """The last, first or only number of a text, exactly; None where there is none.

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


@register.verifier("regex")
class Regex(Verifier):
    """A pattern takes a piece out of the answer, and another verifier compares it with what is expected.

    Args:
        pattern: A regular expression of Python. The piece is its first group, or the match where it has no group.
        which: "last" or "first" match in the answer, or "only": the whole answer matches.
        compare: The verifier of the piece; None: a match is a success, whatever is expected.
        options: That verifier's options.
    """

    def __init__(
        self,
        pattern: str,
        which: str = "last",
        compare: str | None = "exact",
        options: Mapping[str, Any] | None = None,
    ):
        if which not in ("last", "first", "only"):
            raise ConfigError(f"regex: which = {which!r} is not last, first or only.")
        try:
            self.pattern = re.compile(pattern, re.MULTILINE)
        except re.error as error:
            raise ConfigError(f"regex: {pattern!r} is no regular expression: {error}.", "Quote it in YAML.") from None
        self.which = which
        self.inner = None if compare is None else make_verifier(compare, options)

    def check(self, expected: Any) -> None:
        if self.inner is not None:
            self.inner.check(expected)

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        piece = self.piece_of(answer)
        if piece is None:
            return {"success": 0.0, "form": 0.0}
        success = 1.0 if self.inner is None else self.inner.score(piece, expected)[self.inner.parts[0]]
        return {"success": success, "form": 1.0}

    def piece_of(self, answer: str) -> str | None:
        """What the pattern takes out of an answer."""
        if self.which == "only":
            match = self.pattern.fullmatch(answer.strip())
        elif self.which == "first":
            match = self.pattern.search(answer)
        else:
            match = None
            for match in self.pattern.finditer(answer):  # noqa: B007 the last one stays
                pass
        if match is None:
            return None
        return match.group(1 if self.pattern.groups else 0) or ""


@register.verifier("math")
class Math(Verifier):
    r"""The answer's last mathematical expression equals the expected one, whatever its form: \frac{1}{2}, 0.5, 50%.

    Needs the package math-verify (`pip install 'distrl[llm]'`).

    Args:
        digits: Decimal places to which numbers have to agree.
        strict: Variables and kinds (tuple, set, interval) have to agree too.
    """

    checks_quickly = False

    def __init__(self, digits: int = 6, strict: bool = True):
        try:
            import math_verify
        except ModuleNotFoundError:
            raise ConfigError("the verifier 'math' needs math-verify.", "pip install 'distrl[llm]'") from None
        self.library, self.digits, self.strict = math_verify, digits, strict
        for name in ("math_verify.parser", "math_verify.grader"):
            logging.getLogger(name).addFilter(_is_not_about_time_limits)

    def check(self, expected: Any) -> None:
        if not self._read(_in_dollars(str(expected))):
            raise ValueError(f"expects a mathematical expression, not {expected!r:.60}")

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        said = self._read(answer) or self._read(_in_dollars(answer))
        if not said:
            return {"success": 0.0, "form": 0.0}
        # the library's own time limits take over the process's alarm signal: the caller's limit is the only one
        same = self.library.verify(
            self._read(_in_dollars(str(expected))), said, float_rounding=self.digits, strict=self.strict,
            timeout_seconds=None,
        )  # fmt: skip
        return {"success": float(same), "form": 1.0}

    def _read(self, text: str) -> list[Any]:
        return self.library.parse(text, parsing_timeout=None)


def _is_not_about_time_limits(record: logging.LogRecord) -> bool:
    return "Timeout is disabled" not in record.getMessage()


def _in_dollars(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text.strip()}$"


@register.verifier("json_schema")
class JsonSchema(Verifier):
    """The answer is a JSON document that fits a schema. A fenced code block is looked into first.

    Needs the package jsonschema (`pip install 'distrl[llm]'`).

    Args:
        schema: The schema; None: each item expects its own.
        equals: Where the schema is the verifier's own: an item that expects a document wants just this one.
    """

    def __init__(self, schema: Mapping[str, Any] | None = None, equals: bool = False):
        try:
            import jsonschema
        except ModuleNotFoundError:
            raise ConfigError("the verifier 'json_schema' needs jsonschema.", "pip install 'distrl[llm]'") from None
        self.library, self.schema, self.equals = jsonschema, schema, equals
        if schema is not None:
            try:
                self._compiled(schema)
            except ValueError as error:
                raise ConfigError(f"json_schema: the schema is wrong: {error}.", "See json-schema.org.") from None

    def check(self, expected: Any) -> None:
        if self.schema is None:
            self._compiled(_document(expected))

    def score(self, answer: str, expected: Any) -> dict[str, float]:
        try:
            said = json.loads(code_in(answer), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return {"success": 0.0, "form": 0.0}
        fits = self._compiled(_document(expected) if self.schema is None else self.schema).is_valid(said)
        if self.equals and self.schema is not None:
            fits = fits and said == _document(expected)
        return {"success": float(fits), "form": 1.0}

    def _compiled(self, schema: Any) -> Any:
        if not isinstance(schema, Mapping | bool):
            raise ValueError(f"a schema is a JSON object, not {schema!r:.60}")
        kind = self.library.validators.validator_for(schema, default=self.library.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except self.library.SchemaError as error:
            raise ValueError(f"{error.json_path}: {error.message}") from None
        return kind(schema)


def code_in(answer: str) -> str:
    """The last fenced block of an answer, or all of it where there is none.

    >>> code_in("So: ```json\\n[1, 2]\\n``` Done.")
    '[1, 2]\\n'
    """
    blocks = FENCE.findall(answer)
    return blocks[-1][1] if blocks else answer


def _document(expected: Any) -> Any:
    return json.loads(expected) if isinstance(expected, str) else expected


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
