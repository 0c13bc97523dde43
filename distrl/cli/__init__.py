"""The command line. Commands import lazily, so that `distrl --help` is quick."""

from __future__ import annotations

import os
import sys

import typer

from distrl.base.errors import ConfigError, UserError
from distrl.cli import doctor, evaluate, export, jobs, methods, serve, status, train
from distrl.cli import init as starter
from distrl.cli import tensorboard as board
from distrl.cli.user_code import import_fault

__all__ = ["app", "main"]

app = typer.Typer(
    name="distrl",
    help="Distributed and distributional reinforcement learning: one loop from a laptop to a Ray cluster.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: importing rich would double the time of `distrl --help`
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("submit")(jobs.submit)
app.command("ps")(jobs.ps)
app.command("status")(status.status)
app.command("logs")(jobs.logs)
app.command("scale")(jobs.scale)
app.command("stop")(jobs.stop)
app.command("eval")(evaluate.evaluate)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("init")(starter.init)
app.command("doctor")(doctor.doctor)
app.command("methods")(methods.methods)
app.command("tensorboard")(board.tensorboard)


def main(words: list[str] | None = None) -> None:
    """Run one command and exit: 0, 130 after Ctrl-C, or a `UserError`'s code with one line.

    `words` is the command line; by default that of this process.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # `env.id: my_module:MyEnv` means a file of the folder one works in
    try:
        app(args=words, prog_name="distrl")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        message = import_fault(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
