"""Errors that tell the user what was found, what was expected and what to type.

A `UserError` is printed without a traceback; every other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend.

    Args:
        problem: What was found and what was expected, one sentence.
        fix: What to type or change.
    """

    exit_code = 2

    def __init__(self, problem: str, fix: str = ""):
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()


class ConfigError(UserError):
    """A wrong config: unknown key, clashing numbers, value outside the allowed ones."""


class EnvError(UserError):
    """An environment that raises, hangs, or breaks its own contract."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is truncated, corrupted, foreign, or does not fit this run."""

    exit_code = 4


class NonFiniteError(UserError):
    """A NaN or an infinity, with the place where it was first seen."""

    exit_code = 5


class ResourceError(UserError):
    """Not enough of something: disk, memory, CPUs, time."""

    exit_code = 6


def nearest(word: str, options: Iterable[str]) -> str:
    """The option closest to a misspelt word, or an empty string.

    >>> nearest("learning_rat", ["gamma", "learning_rate"])
    'learning_rate'
    """
    found = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return found[0] if found else ""


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """One line that names an unknown word, its nearest valid neighbor and the rest.

    >>> unknown("algorithm", "pppo", ["a2c", "ppo"])
    "unknown algorithm 'pppo': did you mean 'ppo'? Known: a2c, ppo."
    """
    options = sorted(options)
    guess = nearest(word, options)
    hint = f" did you mean {guess!r}?" if guess else ""
    return f"unknown {kind} {word!r}:{hint} Known: {', '.join(options)}."
