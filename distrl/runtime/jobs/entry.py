"""What a job runs on the cluster, in the unpacked shipment: `python -m distrl.runtime.jobs.entry WHAT ...`.

`check` looks at the node's packages before the run begins. `ask` gives a command to a run that is at work, and `watch`
prints its status again and again, for machines that reach the job server only; both answer in lines that begin with
`MARK`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distrl.base.errors import ConfigError, UserError
from distrl.runtime.jobs.shipment import SUBMITTER_FILE
from distrl.runtime.jobs.versions import differences, require_node

MARK = "distrl-answer: "
START_SECONDS = 90.0  # a run that was submitted a moment ago still imports torch


def check() -> None:
    """Compare this node's packages with what the shipped run needs, and with the submitting machine's.

    Raises:
        ResourceError: Something is not there, or too old.
    """
    require_node()
    found = differences(json.loads(Path(SUBMITTER_FILE).read_text()))
    print("versions: " + ("; ".join(found) if found else "as on the submitting machine"), flush=True)


def ask(run: str, command: dict[str, Any] | None) -> None:
    """Print the answer to a command, or the status."""
    from distrl.runtime.commands.files import Command

    found = _find(run)
    record = next(found.watch())  # the run has come so far that it reads commands
    say({"text": found.send(Command.parse(command))} if command else {"status": record})


def watch(run: str) -> None:
    """Print the status every second until the run ends or this job is stopped."""
    for record in _find(run).watch():
        say({"status": record})


def _find(run: str) -> Any:
    """The run, once it is there.

    Raises:
        ConfigError: It does not come.
    """
    from distrl.runtime.backends.cluster import connect
    from distrl.runtime.commands.control_actor import ActorRun

    connect(SimpleNamespace(address="auto"))
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return ActorRun(run)
        except ConfigError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def say(value: dict[str, Any]) -> None:
    """One line for the asking machine."""
    print(MARK + json.dumps(value), flush=True)


def main(words: list[str] | None = None) -> None:
    """Parse the words and act; a `UserError` of `ask` and `watch` is an answer too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["check", "ask", "watch"])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--command", type=json.loads)
    given = parser.parse_args(words)
    try:
        if given.what == "check":
            check()
        elif given.what == "ask":
            ask(given.run, given.command)
        else:
            watch(given.run)
    except UserError as error:
        if given.what == "check":
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)
        say({"problem": error.problem, "fix": error.fix})


if __name__ == "__main__":
    main()
