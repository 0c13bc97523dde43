"""Verifiers of answers against an item's expected value.

    verifier = make_verifier("numeric", {"tolerance": 0.01})
    verifier.check("3.14")                 # once, when the file is read
    verifier.score("It is 3.141", "3.14")  # {"success": 1.0, "form": 1.0}

`success` is 0 or 1 unless documented otherwise; `form` is 1 if the answer could be parsed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from distrl.base.errors import ConfigError, nearest
from distrl.base.registry import register


class Verifier:
    """Base class of verifiers, registered with `@register.verifier("name")`.

    Attributes:
        components: Names of the numbers of `score`; the first is success, in [0, 1].
        seconds: Time limit of one `score`, wall time.
        checks_quickly: `check` is cheap enough for every row of a large file.
    """

    components: tuple[str, ...] = ("success", "form")
    seconds: float = 5.0
    checks_quickly: bool = True

    def check(self, expected: object) -> None:
        """Raise ValueError for an expected value that no answer could match."""

    def score(self, answer: str, expected: object) -> dict[str, float]:
        """Compute a finite number for each of `components`. May raise or hang: callers guard."""
        raise NotImplementedError


def make_verifier(name: str, options: Mapping[str, object] | None = None) -> Verifier:
    """Make a verifier by name or `module:Class`; ConfigError for an unknown one or option."""
    factory = register.get("verifier", name)
    known = inspect.signature(factory).parameters
    for word in options or {}:
        if word not in known:
            guess = nearest(word, known)
            hint = f"Did you mean {guess!r}?" if guess else "Remove it."
            raise ConfigError(f"verifier {name!r} has no option {word!r}; it has {', '.join(known) or 'none'}.", hint)
    return factory(**(options or {}))
