"""Base of config models: frozen, unknown keys refused, finite numbers, attribute docs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from distrl.base.errors import ConfigError

#: Default of a number that a validator derives from the other keys; typed so that readers see the number.
DERIVED: Any = None


class Section(BaseModel):
    """Base of every config model.

    The docstring below a field is its description on the reference page.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _bool_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        # Python counts True as 1, and pydantic follows; `num_envs: true` is still a mistake.
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value


def _kinds(annotation: object) -> set[object]:
    """Return the annotation and all types inside its brackets."""
    return {annotation}.union(*(_kinds(inner) for inner in get_args(annotation) if isinstance(inner, type)))


def plain(value: object, where: str) -> Any:
    """Copy plain data (as YAML can express), so that a config can be written and compared.

    Tuples become lists, numpy scalars become numbers; anything else is a `ConfigError` that names `where`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where} has the key {key!r}; expected text.", f'Quote it: "{key}".')
        return {key: plain(child, f"{where}.{key}") for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child, f"{where}[{i}]") for i, child in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    raise ConfigError(
        f"{where} is a {type(value).__name__}; a config holds only text, numbers, booleans, lists and keys.",
        "Build the object in your own code and name it as module:Class.",
    )
