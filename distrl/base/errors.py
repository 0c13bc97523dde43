"""Errors with the problem found and the fix to type.

A `UserError` is printed without a traceback; every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Error that the user can fix.

    Args:
        problem: One sentence with the value found and the values expected.
        fix: Command or change that helps.
    """

    exit_code = 2

    def __init__(self, problem: str, fix: str = ""):
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()


class ConfigError(UserError):
    """Invalid config: unknown key, inconsistent numbers, value out of range."""


class EnvError(UserError):
    """Environment that raises, hangs, or violates the Gymnasium API."""

    exit_code = 3


class CheckpointError(UserError):
    """Checkpoint that is truncated, corrupted, of another format, or of another run."""

    exit_code = 4


class NonFiniteError(UserError):
    """NaN or infinity, with the place of its first occurrence."""

    exit_code = 5


class ResourceError(UserError):
    """Shortage of disk, memory, CPUs or time."""

    exit_code = 6


def nearest(word: str, options: Iterable[str]) -> str:
    """Return the option closest to a misspelled word, or an empty string.

    >>> nearest("learning_rat", ["gamma", "learning_rate"])
    'learning_rate'
    """
    found = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return found[0] if found else ""


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """Describe an unknown word in one line, with its nearest valid neighbor and all options.

    >>> unknown("algorithm", "pppo", ["a2c", "ppo"])
    "unknown algorithm 'pppo': did you mean 'ppo'? Known: a2c, ppo."
    """
    options = sorted(options)
    guess = nearest(word, options)
    hint = f" did you mean {guess!r}?" if guess else ""
    return f"unknown {kind} {word!r}:{hint} Known: {', '.join(options)}."
