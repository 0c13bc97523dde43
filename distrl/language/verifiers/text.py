"""Verifiers of text: exact match, regular expressions, JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.verifiers.base import Verifier, make_verifier

FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@register.verifier("exact")
class Exact(Verifier):
    """The expected text, or one of a list of texts, up to surrounding spaces.

    Args:
        ignore_case: Compare without case.
        ignore_spaces: Count runs of white space as one space.
    """

    components = ("success",)

    def __init__(self, ignore_case: bool = False, ignore_spaces: bool = True):
        self.ignore_case, self.ignore_spaces = ignore_case, ignore_spaces

    def check(self, expected: object) -> None:
        texts = expected if isinstance(expected, list | tuple) else [expected]
        if not texts or not all(isinstance(text, str | int | float) for text in texts):
            raise ValueError(f"expects text or a list of texts, not {expected!r:.60}")

    def score(self, answer: str, expected: object) -> dict[str, float]:
        texts = expected if isinstance(expected, list | tuple) else [expected]
        return {"success": float(self._plain(answer) in {self._plain(str(text)) for text in texts})}

    def _plain(self, text: str) -> str:
        text = " ".join(text.split()) if self.ignore_spaces else text.strip()
        return text.casefold() if self.ignore_case else text


@register.verifier("regex")
class Regex(Verifier):
    """A piece of the answer, extracted by a pattern and compared by another verifier.

    Args:
        pattern: A regular expression of Python. The piece is its first group, or the match where it has no group.
        which: "last" or "first" match in the answer, or "only": the whole answer matches.
        compare: The verifier of the piece; None: any match is a success.
        options: Options of that verifier.
    """

    def __init__(
        self,
        pattern: str,
        which: str = "last",
        compare: str | None = "exact",
        options: Mapping[str, object] | None = None,
    ):
        if which not in ("last", "first", "only"):
            raise ConfigError(f"regex: which = {which!r} is not last, first or only.")
        try:
            self.pattern = re.compile(pattern, re.MULTILINE)
        except re.error as error:
            raise ConfigError(f"regex: {pattern!r} is no regular expression: {error}.", "Quote it in YAML.") from None
        self.which = which
        self.inner = None if compare is None else make_verifier(compare, options)

    def check(self, expected: object) -> None:
        if self.inner is not None:
            self.inner.check(expected)

    def score(self, answer: str, expected: object) -> dict[str, float]:
        piece = self.piece_of(answer)
        if piece is None:
            return {"success": 0.0, "form": 0.0}
        success = 1.0 if self.inner is None else self.inner.score(piece, expected)[self.inner.components[0]]
        return {"success": success, "form": 1.0}

    def piece_of(self, answer: str) -> str | None:
        """Extract the piece of an answer; None without a match."""
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


@register.verifier("json_schema")
class JsonSchema(Verifier):
    """A JSON document that fits a schema, in the last fenced block or as the whole answer.

    Needs the package jsonschema (`pip install 'distrl[llm]'`).

    Args:
        schema: The schema; None takes the one that each item expects.
        equals: With a `schema`: the document must equal the one that the item expects.
    """

    def __init__(self, schema: Mapping[str, object] | None = None, equals: bool = False):
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

    def check(self, expected: object) -> None:
        if self.schema is None:
            self._compiled(_document(expected))

    def score(self, answer: str, expected: object) -> dict[str, float]:
        try:
            said = json.loads(code_in(answer), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return {"success": 0.0, "form": 0.0}
        fits = self._compiled(_document(expected) if self.schema is None else self.schema).is_valid(said)
        if self.equals and self.schema is not None:
            fits = fits and said == _document(expected)
        return {"success": float(fits), "form": 1.0}

    def _compiled(self, schema: object) -> Any:
        if not isinstance(schema, Mapping | bool):
            raise ValueError(f"a schema is a JSON object, not {schema!r:.60}")
        kind = self.library.validators.validator_for(schema, default=self.library.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except self.library.SchemaError as error:
            raise ValueError(f"{error.json_path}: {error.message}") from None
        return kind(schema)


def code_in(answer: str) -> str:
    """Return the last fenced block of an answer, or all of it without one.

    >>> code_in("So: ```json\\n[1, 2]\\n``` Done.")
    '[1, 2]\\n'
    """
    blocks = FENCE.findall(answer)
    return blocks[-1][1] if blocks else answer


def _document(expected: object) -> object:
    return json.loads(expected) if isinstance(expected, str) else expected


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
