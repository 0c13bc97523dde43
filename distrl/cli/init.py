"""`distrl init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import say


def init(
    env_id: Annotated[
        str | None, typer.Argument(help="A Gymnasium id, or module:Class of your own.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="A text task for a language model, in place of an environment.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default ENV_ALGORITHM.yaml.")] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="See distrl methods. Default: ppo; for text tasks grpo.", show_default=False)
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="A module or file that registers the environment or task.")
    ] = None,
) -> None:
    """Write a starter config for an environment or a text task."""
    from distrl.base.errors import UserError
    from distrl.base.files import write_atomic
    from distrl.cli.starter import control_config, language_config, slug

    subject = env_id or task
    if subject is None or (env_id and task):
        raise UserError(
            "init needs an environment or a text task, and not both.",
            "For example: distrl init CartPole-v1, or: distrl init --task sort_digits",
        )
    chosen = algorithm or ("ppo" if task is None else "grpo")
    path = out or Path(f"{slug(subject)}_{slug(chosen)}.yaml")
    if path.exists():
        raise UserError(f"{path} exists; it is not overwritten.", "Give another file: --out FILE.")
    make = control_config if task is None else language_config
    write_atomic(path, make(subject, chosen, str(path), imports or []))
    say(f"wrote {path}. See what follows from it: distrl train {path} --dry-run")
