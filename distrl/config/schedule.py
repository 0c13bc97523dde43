"""Numbers that change over a run: `{from: 1e-3, to: 0, over: run}`.

A field annotated `Scheduled[float]` holds a plain number or a `Schedule`; `AlgorithmConfig.at(env_steps, total)` turns
every schedule into the number that holds at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from distrl.base.errors import ConfigError, nearest

Shape = Literal["linear", "cosine", "exponential"]
KEYS = ("from", "to", "over", "shape", "after")


@dataclass(frozen=True)
class Schedule:
    """A number that moves from `start` to `end` and then stays there.

    It moves for `over` environment steps or tokens (None: until the end of the run), beginning after `after` of them.
    Against a number, a schedule compares by all its values: `schedule >= 0` holds when no value is below 0. That lets
    the bounds of a field (`Field(ge=0)`) hold for numbers and schedules alike.
    """

    start: float
    end: float
    over: int | None = None
    shape: Shape = "linear"
    after: int = 0

    def __post_init__(self) -> None:
        if self.shape == "exponential" and self.start * self.end <= 0:
            raise ValueError(
                f"an exponential schedule cannot go from {self.start:g} to {self.end:g}; "
                "both must be of one sign and not 0"
            )

    def at(self, env_steps: int, total: int | None = None) -> float:
        """Return the value after `env_steps` steps of a run of `total`."""
        over = self.over
        if over is None:
            if total is None:
                raise ConfigError(
                    "a schedule with over: run needs stop.env_steps.", "Set it, or stop.tokens of a text task."
                )
            over = max(total - self.after, 1)
        progress = (env_steps - self.after) / over
        if progress <= 0.0:
            return self.start
        if progress >= 1.0:
            return self.end
        value = _SHAPES[self.shape](self.start, self.end, progress)
        return min(max(value, self.low), self.high)  # rounding must not step over an endpoint

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.start, self.end)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.start, self.end)

    def __ge__(self, bound: float) -> bool:
        return self.low >= bound

    def __gt__(self, bound: float) -> bool:
        return self.low > bound

    def __le__(self, bound: float) -> bool:
        return self.high <= bound

    def __lt__(self, bound: float) -> bool:
        return self.high < bound

    def to_dict(self) -> dict[str, object]:
        """Return the form of a config file; `parse` reads it back."""
        plain: dict[str, object] = {"from": self.start, "to": self.end, "over": self.over or "run"}
        if self.shape != "linear":
            plain["shape"] = self.shape
        if self.after:
            plain["after"] = self.after
        return plain

    @classmethod
    def parse(cls, value: Mapping[Any, Any]) -> Schedule:
        """Read `{from, to, over, shape, after}`.

        >>> Schedule.parse({"from": 1, "to": 0, "over": 100}).at(25)
        0.75
        """
        for key in value:
            if key not in KEYS:
                guess = nearest(str(key), KEYS)
                hint = f"did you mean {guess!r}? " if guess else ""
                raise ValueError(f"unknown schedule key {key!r}: {hint}Known: {', '.join(KEYS)}")
        for key in ("from", "to"):
            if key not in value:
                raise ValueError(f"a schedule needs `{key}`, like {{from: 1e-3, to: 0, over: run}}")
        shape = value.get("shape", "linear")
        if shape not in get_args(Shape):
            raise ValueError(f"schedule shape is {shape!r}; allowed: {', '.join(get_args(Shape))}")
        over = value.get("over", "run")
        expected = "`run` or a number of environment steps, at least 1"
        return cls(
            start=_number("from", value["from"]),
            end=_number("to", value["to"]),
            over=None if over == "run" else _steps("over", over, 1, expected),
            shape=shape,
            after=_steps("after", value.get("after", 0), 0, "a number of environment steps, at least 0"),
        )


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _exponential(start: float, end: float, progress: float) -> float:
    # In logarithms: the quotient end / start may overflow where both numbers are fine.
    log_start, log_end = math.log(abs(start)), math.log(abs(end))
    return math.copysign(math.exp(_linear(log_start, log_end, progress)), start)


_SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"schedule `{key}` is {value!r}; expected a finite number")
    return float(value)


def _steps(key: str, value: object, least: int, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise ValueError(f"schedule `{key}` is {value!r}; expected {expected}")
    return int(value)


def looks_like_schedule(value: object) -> bool:
    """Return True if a raw value is meant as a schedule, valid or not."""
    return isinstance(value, Mapping) and ("from" in value or "to" in value)


class ScheduleOrNumber:
    """Tells pydantic to take a schedule wherever it would take the annotated number."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: object, number: core_schema.ValidatorFunctionWrapHandler) -> object:
            if not isinstance(value, Schedule | Mapping):
                return number(value)
            schedule = value if isinstance(value, Schedule) else Schedule.parse(value)
            # pydantic may keep a field's bounds inside `number` or put them around us; both ends obey either way.
            number(schedule.start)
            number(schedule.end)
            return schedule

        def write(value: object) -> object:
            return value.to_dict() if isinstance(value, Schedule) else value

        return core_schema.no_info_wrap_validator_function(
            read, handler(source), serialization=core_schema.plain_serializer_function_ser_schema(write)
        )


Number = TypeVar("Number", bound=float)

#: `Scheduled[float]` or `Scheduled[int]`: a number for the type checker, a number or a `Schedule` until `.at`.
Scheduled = Annotated[Number, ScheduleOrNumber()]
