"""`distrl tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tensorboard(
    runs_dir: Annotated[Path, typer.Argument(help="A folder of runs, or one run.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 6006,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is seen by this machine only.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Show the curves of runs in a browser."""
    import subprocess
    import sys

    from distrl.base.errors import UserError

    if not runs_dir.is_dir():
        raise UserError(f"no folder {runs_dir}.", "Give the folder that holds your runs: distrl tensorboard RUNS_DIR.")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs_dir), "--host", host, "--port", str(port)]
    try:
        code = subprocess.call(command)
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)
