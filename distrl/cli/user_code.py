"""Error messages for user files that fail to import."""

from __future__ import annotations

import traceback

from distrl.base import registry

#: Functions of `base/registry.py` that run a user's file, and the local name of what the config calls it.
_IMPORTS = {"import_user_code": "entry", "resolve_module": "name", "resolve": "path"}


def import_fault(error: BaseException) -> str | None:
    """Describe an error raised by the import of a user file; None for other errors."""
    entry = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = _IMPORTS.get(frame.f_code.co_name)
        if name is not None and frame.f_code.co_filename == registry.__file__:
            entry = frame.f_locals.get(name)
    if entry is None:
        return None
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = last.filename, last.lineno
    reason = str(error).split("\n")[0]
    return f"{entry} does not import: {type(error).__name__}: {reason} ({file}, line {line}). Fix the file."
