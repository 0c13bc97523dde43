"""`distrl init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import say


def init(
    env_id: Annotated[str, typer.Argument(help="A Gymnasium id, or module:Class of your own.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default ENV_ALGORITHM.yaml.")] = None,
    algorithm: Annotated[str, typer.Option(help="See distrl methods --plug-point algorithm.")] = "ppo",
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="A module or file that registers the environment.")
    ] = None,
) -> None:
    """Write a starter config for an environment."""
    from distrl.base.errors import UserError
    from distrl.base.files import write_atomic
    from distrl.cli.starter_config import slug, starter_config

    path = out or Path(f"{slug(env_id)}_{slug(algorithm)}.yaml")
    if path.exists():
        raise UserError(f"{path} exists; it is not overwritten.", "Give another file: --out FILE.")
    write_atomic(path, starter_config(env_id, algorithm, str(path), imports or []))
    say(f"wrote {path}. See what follows from it: distrl train {path} --dry-run")
