"""From pydantic's errors to one line: what was found, what was expected, what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distrl.base.errors import ConfigError, nearest

#: Words of other libraries for keys of ours; no spelling distance would find these.
ALIASES = {
    "lr": "algorithm.learning_rate",
    "discount": "algorithm.gamma",
    "n_steps": "algorithm.rollout_steps",
    "num_steps": "algorithm.rollout_steps",
    "rollout_length": "algorithm.rollout_steps",
    "rollout_fragment_length": "algorithm.rollout_steps",
    "total_timesteps": "stop.env_steps",
    "total_steps": "stop.env_steps",
    "max_steps": "stop.env_steps",
    "timesteps": "stop.env_steps",
    "num_workers": "samplers.count",
    "workers": "samplers.count",
    "num_samplers": "samplers.count",
    "gpu": "learner.device",
    "env_id": "env.id",
    "algo": "algorithm.name",
    "environment": "env.id",
    "pretrained": "init_from",
}

#: Renamed keys: old dotted key -> new one. Old keys are refused with the new name.
RENAMED_KEYS = {
    "algorithm.critic": "algorithm.value_coef",
    "algorithm.entropy": "algorithm.entropy_coef",
    "algorithm.old": "algorithm.old_logp",
    "algorithm.reward.parts": "algorithm.reward.components",
    "task.num_envs": "task.prompts",
    "task.id": "task.name",
}

#: Keys of control runs, counted in environment steps -> those of text runs, counted in tokens.
TEXT_KEYS = {
    "stop.env_steps": "stop.tokens",
    "eval.every": "eval.every_tokens",
    "checkpoint.every": "checkpoint.every_tokens",
}

#: pydantic's error type -> what was expected.
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values, like {{key: value}}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list, like [a, b]",
    "literal_error": "{expected}",
    "model_type": "keys and values, like {{key: value}}",
    "string_too_short": "some text",
    "string_type": "text",
}


def translate(error: ValidationError, keys: Sequence[str], prefix: tuple[str, ...] = ()) -> ConfigError:
    """Convert the most specific of pydantic's errors to a `ConfigError`.

    Suggestions come from `keys`; `prefix` is the place of the checked model in the config.
    """
    # A misspelt key also makes the right one missing: name the misspelling.
    details = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = dotted((*prefix, *details["loc"]))
    kind, found = details["type"], details["input"]
    if kind == "extra_forbidden":
        return unknown_key(where, keys)
    if kind == "missing":
        return ConfigError(f"{where} is missing.", f"Add it: {where}=...")
    if kind == "value_error":
        text = str(details["ctx"]["error"])
        return ConfigError(f"{where} {text}." if text.startswith("is ") else f"{where}: {text}.")
    return ConfigError(f"{where} is {_shown(found)}; expected {_expected(details)}.", _fix(where, details))


def dotted(location: Sequence[str | int]) -> str:
    """Format a location in the config as a dotted key.

    >>> dotted(("env", "wrappers", 0))
    'env.wrappers[0]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def unknown_key(where: str, keys: Sequence[str]) -> ConfigError:
    """Make the error for an unknown key, with its new name or the nearest known key."""
    section = where.rpartition(".")[0]
    if RENAMED_KEYS.get(where) in keys:
        return ConfigError(f"unknown key {where!r}: it is now {RENAMED_KEYS[where]}.")
    guess = nearest_key(where, keys)
    if guess:
        return ConfigError(f"unknown key {where!r}: did you mean {guess}?")
    inside = f"{section}." if section else ""
    known = sorted({key.removeprefix(inside).split(".")[0] for key in keys if key.startswith(inside)})
    place = section or "the top level"
    return ConfigError(f"unknown key {where!r}.", f"Keys of {place}: {', '.join(known)}." if known else "")


def nearest_key(where: str, keys: Sequence[str]) -> str:
    """Return the known dotted key closest to a wrong one, or an empty string.

    An equal last word in another section wins over a similar one in the same section.

    >>> nearest_key("num_envs", ["env.num_envs", "env.streams"])
    'env.num_envs'
    """
    section, _, word = where.rpartition(".")
    if word in ALIASES and ALIASES[word] in keys:
        return ALIASES[word]

    def score(key: str) -> float:
        home, _, leaf = key.rpartition(".")
        alike = SequenceMatcher(None, word.lower(), leaf).ratio()
        return alike + (0.1 if home == section else 0.0)

    best = max(keys, key=score, default="")
    return best if best and score(best) >= 0.75 else ""


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """List every dotted key of a model, sections before their keys."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if (inside := section_model(info.annotation)) is not None:
            keys.extend(keys_of(inside, f"{prefix}{name}."))
    return keys


def section_model(annotation: object) -> type[BaseModel] | None:
    """Return the model of a field that is a section, or a section or null."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return kinds[0]
    return None


def _expected(details: ErrorDetails) -> str:
    template = EXPECTED.get(details["type"])
    if template is None:
        return details["msg"]
    return template.format(**details.get("ctx", {}))


def _fix(where: str, details: ErrorDetails) -> str:
    found = details["input"]
    if details["type"] == "literal_error" and isinstance(found, str):
        guess = nearest(found, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
        return f"Did you mean {where}={guess}?" if guess else ""
    if details["type"] in ("model_type", "dict_type") and isinstance(found, str):
        leaf = {"env": "id", "task": "name", "algorithm": "name"}.get(where, "")
        return f"Did you mean {where}.{leaf}={found}?" if leaf else ""
    if details["type"] == "string_type" and isinstance(found, int | float):
        return f'Quote it: {where}: "{found}".'
    return ""


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
