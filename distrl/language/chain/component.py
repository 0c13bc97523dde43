"""Components: registered functions of columns (positional) and options (keyword-only).

See objective.py for the chain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.language.chain.groups import Groups

#: Config of a component: its registered name, or `{name: ..., option: ...}`.
ComponentConfig = str | dict[str, Any]
#: Values of options, by name.
Options: TypeAlias = Mapping[str, Any]
UNITS = ("row", "episode")


@dataclass(frozen=True)
class Component:
    """A registered function with its options, called on columns.

    Attributes:
        reads: Columns that it needs.
        may_read: Columns that it uses where the batch has them.
        options: Values of its keyword-only parameters.
        supplied: Keyword-only parameters that get their values at the call.
        unit: Unit of its statistics, `row` or `episode`.
    """

    plug_point: str
    name: str
    function: Callable[..., Tensor] = field(repr=False)
    reads: tuple[str, ...]
    may_read: tuple[str, ...]
    options: Options
    supplied: tuple[str, ...] = ()
    unit: str = "row"

    def __call__(self, batch: Columns, **numbers: float | None) -> Tensor:
        """Call the function on a batch.

        Args:
            numbers: Values of `supplied` parameters; others are ignored, so one algorithm can call any component.

        Raises:
            ConfigError: The batch lacks a column that the component reads.
        """
        needed = (*self.reads, "episode") if self.unit == "episode" else self.reads
        missing = [name for name in needed if name not in batch]
        if missing:
            raise ConfigError(
                f"{self.plug_point} {self.name!r} reads {', '.join(missing)}, and the batch has {', '.join(batch)}.",
                "Configure what makes these columns, or choose another method.",
            )
        options = {**self.options, **{name: numbers[name] for name in self.supplied if name in numbers}}
        if self.unit == "row":
            return self.function(*self._arguments(batch), **options)
        episodes = Groups(batch.episode)
        return episodes.spread(self.function(*self._arguments(batch, episodes.first_rows()), **options))

    def _arguments(self, batch: Columns, rows: Tensor | None = None) -> list[Tensor | None]:
        columns = batch.only(*self.reads, *self.may_read)
        columns = columns if rows is None else columns[rows]
        return [columns.get(name) for name in (*self.reads, *self.may_read)]


def component(plug_point: str, word: ComponentConfig, supplied: Sequence[str] = ()) -> Component:
    """Build a component from its config: a name, or a mapping of `name` and options.

    >>> component("advantage", {"name": "grpo", "ddof": 0}).reads
    ('reward', 'group')
    """
    name, given = _word(plug_point, word)
    function = register.get(plug_point, name)
    unit = given.pop("unit", "row")
    if unit not in UNITS:
        raise ConfigError(unknown(f"unit of {plug_point} {name}", str(unit), UNITS))
    reads, may_read, known = _checked(plug_point, name, function, given, supplied)
    if unit == "episode" and (plug_point != "advantage" or "mask" in reads):
        raise ConfigError(
            f"{plug_point} {name} works on tokens; unit: episode is for advantages of rows.", "Leave unit out."
        )
    return Component(plug_point, name, function, reads, may_read, given, tuple(n for n in supplied if n in known), unit)


def configured(plug_point: str, word: ComponentConfig) -> Callable[..., Tensor]:
    """A registered function with the options of its config word, to be called by position."""
    name, given = _word(plug_point, word)
    function = register.get(plug_point, name)
    _checked(plug_point, name, function, given)
    return partial(function, **given)


def _word(plug_point: str, word: ComponentConfig) -> tuple[str, dict[str, Any]]:
    """Name and options of a config word."""
    given = {"name": word} if isinstance(word, str) else dict(word)
    name = given.pop("name", None)
    if name is None:
        raise ConfigError(f"{plug_point}: {given} does not say which.", "Add name: METHOD.")
    return name, given


def _checked(
    plug_point: str, name: str, function: Callable[..., Tensor], given: Options, supplied: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Columns needed, columns used if there, options known; after checking the options given."""
    reads, may_read, needed, known = _signature(function)
    for option in given:
        if option not in known:
            raise ConfigError(unknown(f"option of {plug_point} {name}", option, known))
    absent = [option for option in needed if option not in given and option not in supplied]
    if absent:
        raise ConfigError(f"{plug_point} {name} needs {', '.join(absent)}.", f"Add {absent[0]}: VALUE.")
    return reads, may_read, known


def _signature(function: Callable[..., Tensor]) -> tuple[tuple[str, ...], tuple[str, ...], list[str], list[str]]:
    """Columns needed, columns used if there, options needed, options known."""
    parameters = inspect.signature(function).parameters.values()
    columns = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return (
        tuple(p.name for p in columns if p.default is p.empty),
        tuple(p.name for p in columns if p.default is not p.empty),
        [p.name for p in options if p.default is p.empty],
        [p.name for p in options],
    )
