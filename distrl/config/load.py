"""Loading of run configs, overrides, and YAML output."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from distrl.base.errors import ConfigError, nearest
from distrl.config.algorithm import known_keys
from distrl.config.messages import nearest_key, translate
from distrl.config.schema import RunConfig
from distrl.config.yaml_text import dump, parse

#: Keys that `--resume` may change: how long, where and how fast a run goes, and what is shown; never what is computed.
RESUMABLE = (
    "debug", "stop.", "samplers.", "learner.device", "learner.threads", "learner.processes", "learner.compile",
    "learner.prefetch", "learner.recover_every", "logging.", "checkpoint.", "ray.", "backend",
)  # fmt: skip


def load_config(source: str | Path | Mapping[str, object] | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Load and check a config.

    Args:
        source: Path of a YAML file, nested dict, or a config (its defaults are derived again after the overrides).
        overrides: Words like `env.num_envs=16`; the value is YAML. Later ones win.
    """
    raw = read_source(source)
    for word in overrides:
        apply_override(raw, word)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise translate(error, known_keys()) from None


def read_source(source: str | Path | Mapping[str, object] | RunConfig) -> dict[str, object]:
    """Read a config as an unchecked nested dict that the caller may change."""
    if isinstance(source, RunConfig):
        return source.model_dump(exclude_unset=True)
    if isinstance(source, Mapping):
        return copy.deepcopy(dict(source))
    raw = parse(_read_text(Path(source)), str(source))
    if raw is None:
        raise ConfigError(f"{source} is empty.", "See examples/ for whole configs, or run `distrl init ENV_ID`.")
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} holds a {type(raw).__name__}; expected keys and values, like `name: my-run`.")
    return raw


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; expected a YAML file.")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        files = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        guess = nearest(path.name, files)
        raise ConfigError(f"no file {path}.", f"Did you mean {path.parent / guess}?" if guess else "") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None


def apply_override(raw: dict[str, object], word: str) -> None:
    """Set one `dotted.key=value` in a raw config, making sections as needed.

    >>> raw = {"env": {"id": "CartPole-v1"}}
    >>> apply_override(raw, "env.num_envs=4")
    >>> raw["env"]["num_envs"]
    4
    """
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        guess = nearest_key(key, known_keys()) or "env.num_envs"
        raise ConfigError(f"override {word!r} is not of the form key=value.", f"For example: {guess}=VALUE.")
    *sections, leaf = key.split(".")
    inner = raw
    for depth, section in enumerate(sections, start=1):
        child = inner.setdefault(section, {})
        if child is None:
            child = inner[section] = {}
        if not isinstance(child, dict):
            place = ".".join(sections[:depth])
            raise ConfigError(f"override {word!r}: {place} is {child!r}, not keys and values.", f"Set {place}=...")
        inner = child
    inner[leaf] = parse(text, f"override {word!r}")


def dump_config(config: RunConfig) -> str:
    """Write the config as YAML with defaults; it loads back equal."""
    return dump(config.model_dump(mode="json"))


def changed_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """List the dotted keys in which two configs differ, in the order of the schema."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def _differences(old: dict[str, object], new: dict[str, object], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict) and prefix.count(".") < 1:
            found.extend(_differences(one, other, f"{prefix}{key}."))
        elif one != other or (key in old) != (key in new):
            found.append(prefix + key)
    return found


def resume_allowed(old: RunConfig, new: RunConfig) -> list[str]:
    """Check that a resumed run computes the same; return the changed keys."""
    changed = changed_keys(old, new)
    refused = [key for key in changed if not key.startswith(RESUMABLE)]
    if refused:
        named = ", ".join(f"{key} ({_value(old, key)} -> {_value(new, key)})" for key in refused)
        raise ConfigError(
            f"--resume cannot change {named}.",
            "It may change stop, samplers, learner resources, logging, checkpoint, ray and backend. For anything else "
            "start a new run, with init_from to keep the weights.",
        )
    return changed


def _value(config: RunConfig, key: str) -> str:
    value: object = config.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part, "default") if isinstance(value, dict) else value
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
