"""`distrl init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import say


def init(
    env_id: Annotated[str, typer.Argument(help="A Gymnasium id, module:Class of your own, or text/TASK.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default ENV_ALGORITHM.yaml.")] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(help="See distrl methods. Default: ppo; for text tasks grpo.", show_default=False),
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="A module or file that registers the environment.")
    ] = None,
) -> None:
    """Write a starter config for an environment."""
    from distrl.base.errors import UserError
    from distrl.base.files import write_atomic
    from distrl.cli.init_control import TEXT, slug, starter_config

    chosen = algorithm or ("grpo" if env_id.startswith(TEXT) else "ppo")
    path = out or Path(f"{slug(env_id)}_{slug(chosen)}.yaml")
    if path.exists():
        raise UserError(f"{path} exists; it is not overwritten.", "Give another file: --out FILE.")
    write_atomic(path, starter_config(env_id, chosen, str(path), imports or []))
    say(f"wrote {path}. See what follows from it: distrl train {path} --dry-run")
