"""Registry of methods by plug point and name.

A method is a function or class, registered by a decorator::

    @register.advantage("median_centered", paper="Author et al. 2025, arXiv:2501.00000")
    def median_centered(reward): ...

and selected by its name in the config. A plug point's files are imported at its first lookup, so `import distrl` stays
cheap; a user's file (config key `imports`) registers in the same way.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from distrl.base.errors import ConfigError, unknown

T = TypeVar("T")

#: Plug point -> modules and packages whose files register into it.
HOMES: dict[str, list[str]] = {
    "algorithm": [
        *(f"distrl.control.algorithms.{family}" for family in ("on_policy", "value_based", "actor_critic")),
        *(f"distrl.language.algorithms.{family}" for family in ("group_relative", "value_based", "supervised")),
    ],
    "torso": ["distrl.models.layers"],
    "wrapper": ["distrl.control.envs.wrappers", "distrl.control.envs.library.atari"],
    "return_distribution": ["distrl.functional.distributions"],
    "risk": ["distrl.functional.risk"],
    "next_action": ["distrl.functional.bellman"],
    # components of a language algorithm, in the order of language/chain/objective.py
    "reward": ["distrl.language.rewards"],
    "component_transform": ["distrl.language.rewards"],
    "combination": ["distrl.language.rewards"],
    "gate": ["distrl.language.rewards"],
    "length_reward": ["distrl.language.rewards"],
    "shaping": ["distrl.language.rewards"],
    "credit": ["distrl.language.credit"],
    "advantage": ["distrl.language.advantages"],
    "token_loss": ["distrl.language.losses"],
    "row_loss": ["distrl.language.losses"],
    "group_loss": ["distrl.language.losses"],
    "behavior_correction": ["distrl.language.chain.corrections"],
    "divergence": ["distrl.language.chain.divergences"],
    "aggregation": ["distrl.language.chain.aggregation"],
    "engine": ["distrl.language.engines"],
    "callback": ["distrl.runtime.run.callbacks"],
    # text tasks, verifiers of answers, curricula
    "task": ["distrl.language.tasks"],
    "verifier": ["distrl.language.verifiers"],
    "curriculum": ["distrl.language.curricula.base"],
}

#: old name of a method -> its present name, for the message
RENAMED = {"bnpo_parts": "bnpo_components", "iqn_iterated": "iterated_q"}


@dataclass(frozen=True)
class Method:
    """Registered method; `entries` are its numbers in the index of methods."""

    name: str
    plug_point: str
    target: Any = field(repr=False)
    paper: str = ""
    entries: tuple[int, ...] = ()

    @property
    def line(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.target) or "").split("\n")[0]


class Registry:
    """Methods by plug point; `register.PLUG_POINT(name, paper=...)` is a decorator."""

    def __init__(self) -> None:
        self._methods: dict[str, dict[str, Method]] = {}

    def __getattr__(self, plug_point: str) -> Callable[..., Callable[[T], T]]:
        if plug_point.startswith("_"):
            raise AttributeError(plug_point)

        def named(name: str, *, paper: str = "", entries: Sequence[int] = ()) -> Callable[[T], T]:
            def add(target: T) -> T:
                methods = self._methods.setdefault(plug_point, {})
                old = methods.get(name)
                if old is not None and _place(old.target) != _place(target):
                    raise ConfigError(
                        f"{plug_point} {name!r} is registered twice: by {_place(old.target)} and {_place(target)}.",
                        "Rename one of them.",
                    )
                methods[name] = Method(name, plug_point, target, paper, tuple(entries))
                return target

            return add

        return named

    def get(self, plug_point: str, name: str) -> Any:
        """Return the method `name`, or the object `module:attribute`; ConfigError names the nearest."""
        if ":" in name:
            return resolve(name)
        self.load(plug_point, name)
        methods = self._methods.get(plug_point, {})
        if name not in methods:
            self.load(plug_point)
            methods = self._methods.get(plug_point, {})
        if name in RENAMED:
            raise ConfigError(f"{plug_point} {name!r} is called {RENAMED[name]!r} now.")
        if name not in methods:
            raise ConfigError(unknown(plug_point, name, methods))
        return methods[name].target

    def methods(self, plug_point: str | None = None) -> list[Method]:
        """List registered methods by plug point and name."""
        for point in [plug_point] if plug_point else list(HOMES):
            self.load(point)
        points = [plug_point] if plug_point else sorted(self._methods)
        return [method for point in points for _, method in sorted(self._methods.get(point, {}).items())]

    def load(self, plug_point: str, name: str | None = None) -> None:
        """Import the modules of a plug point, of packages only the file called `name` if given."""
        for home in HOMES.get(plug_point, []):
            spec = importlib.util.find_spec(home)
            if spec is not None and spec.submodule_search_locations is None:
                importlib.import_module(home)
                continue
            if name is not None:
                if spec is not None and importlib.util.find_spec(f"{home}.{name}"):
                    importlib.import_module(f"{home}.{name}")
                continue
            package = importlib.import_module(home)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{home}.{module.name}")


def _place(target: object) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)}"


def resolve(path: str) -> Any:
    """Return the object that `module:attribute` names; ConfigError where there is none."""
    module_name, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # an import of the user's module is missing: show the traceback
        raise ConfigError(
            f"no module {module_name!r} for {path!r}.", "Install it, or name its file under `imports:`."
        ) from None
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise ConfigError(f"module {module_name!r} has no {part!r}: {unknown('name', part, vars(target))[:300]}")
        target = getattr(target, part)
    return target


def user_sources(imports: Sequence[str]) -> dict[str, str]:
    """Read the Python files that `imports` names, to send them to other machines."""
    return {entry: Path(entry).read_text() for entry in imports if entry.endswith(".py") and Path(entry).is_file()}


def import_user_code(imports: Sequence[str], sources: Mapping[str, str] | None = None) -> None:
    """Import the modules and Python files of the config key `imports`; called in every process.

    A file is imported under its stem, so that `stem:Class` names its definitions.

    Args:
        imports: The config's list.
        sources: Texts of files that may be missing on this machine.

    Raises:
        ConfigError: A file or module does not exist.
    """
    for entry in imports:
        if not entry.endswith(".py"):
            resolve_module(entry)
            continue
        path, name = Path(entry), Path(entry).stem
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
            continue
        text = path.read_text() if path.is_file() else (sources or {}).get(entry)
        if text is None:
            raise ConfigError(f"imports: no file {entry!r}.", "Give a path relative to the working folder.")
        module = ModuleType(name)
        module.__file__ = str(path.resolve())
        sys.modules[name] = module
        exec(compile(text, module.__file__, "exec"), module.__dict__)


def resolve_module(name: str) -> ModuleType:
    """Import a module by name, or raise ConfigError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise
        raise ConfigError(
            f"imports: no module {name!r}.", "Install it, or give the path of its file (ending in .py)."
        ) from None


register = Registry()
