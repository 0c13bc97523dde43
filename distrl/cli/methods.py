"""`distrl methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from distrl.cli.output import print_json, print_table


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, for programs.")] = False,
    plug_point: Annotated[str | None, typer.Option(help="Only this kind, such as algorithm.")] = None,
) -> None:
    """List what a config can name: algorithms, torsos, wrappers, returns."""
    from distrl.base.errors import ConfigError, unknown
    from distrl.base.registry import HOMES, register

    if plug_point is not None and plug_point not in HOMES:
        raise ConfigError(unknown("plug point", plug_point, HOMES))
    found = register.methods(plug_point)
    if as_json:
        keys = ("name", "plug_point", "paper", "entries", "line")
        print_json([{key: getattr(method, key) for key in keys} for method in found])
        return
    rows = [(method.plug_point, method.name, method.line) for method in found]
    print_table(("plug point", "name", "what it is"), rows)
