"""Entry points of jobs on the cluster: `python -m distrl.runtime.jobs.entry ACTION ...`.

`check` compares the node's packages before a run. For machines that reach only the job server, `ask` sends a command to
an active run, and `watch` prints its status every second; both answer in lines that start with `MARK`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distrl.base.errors import ConfigError, UserError
from distrl.runtime.jobs.shipment import SUBMITTER_FILE
from distrl.runtime.jobs.versions import differences, require_node

if TYPE_CHECKING:
    from distrl.runtime.commands.control_actor import ActorRun

MARK = "distrl-answer: "
START_SECONDS = 90.0  # a submitted run imports torch first


def check() -> None:
    """Compare this node's packages with the requirements and the submitting machine."""
    require_node()
    found = differences(json.loads(Path(SUBMITTER_FILE).read_text()))
    print("versions: " + ("; ".join(found) if found else "as on the submitting machine"), flush=True)


def ask(run: str, command: dict[str, object] | None) -> None:
    """Print the answer to a command, or the status."""
    from distrl.runtime.commands.files import Command

    found = _find(run)
    record = next(found.watch())  # with a status, the run reads commands
    send({"text": found.send(Command.parse(command))} if command else {"status": record})


def watch(run: str) -> None:
    """Print the status every second until the run ends."""
    for record in _find(run).watch():
        send({"status": record})


def _find(run: str) -> ActorRun:
    from distrl.runtime.backends.cluster import connect
    from distrl.runtime.commands.control_actor import ActorRun

    connect("auto")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return ActorRun(run)
        except ConfigError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def send(value: dict[str, object]) -> None:
    """Print an answer for the requesting machine."""
    print(MARK + json.dumps(value), flush=True)


def main(words: list[str] | None = None) -> None:
    """Parse the arguments and act; a `UserError` of `ask` and `watch` is sent as an answer."""
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
        send({"problem": error.problem, "fix": error.fix})


if __name__ == "__main__":
    main()
