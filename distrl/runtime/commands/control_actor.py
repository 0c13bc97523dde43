"""The command channel of a run on a shared Ray cluster: a named actor that holds its status and its mailbox.

The actor `distrl:RUN` lives in the namespace `distrl`, so it is found by the run's name from any machine that reaches
the cluster, and two runs of one name cannot be at work on one cluster. It ends with the run's process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from distrl.base.errors import ConfigError, ResourceError
from distrl.runtime.commands.files import ANSWER_SECONDS, Answer, Command

NAMESPACE = "distrl"
PREFIX = "distrl:"
START_SECONDS = 60.0
NAME_SECONDS = 15.0  # what Ray takes to notice that the run's earlier process is dead
GOODBYE_SECONDS = 2.0  # what a sender may take to read the last answer


class RunActor:
    """Holds what the loop shows, what others ask of it, and the answers."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] | None = None
        self.commands: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}

    def exchange(self, status: dict[str, Any], answers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The loop's call: gives status and answers, takes commands."""
        self.shown = status
        self.answers.update(answers)
        commands, self.commands = self.commands, []
        return commands

    def post(self, command: dict[str, Any]) -> None:
        self.commands.append(command)

    def take_answer(self, command_id: str) -> dict[str, Any] | None:
        return self.answers.pop(command_id, None)

    def status(self) -> dict[str, Any] | None:
        return self.shown

    def unread(self) -> int:
        """Answers that nobody has read yet."""
        return len(self.answers)


class ActorBox:
    """The loop's end of the channel. One call a second is under way, and none is waited for.

    Args:
        run: Name of the run.

    Raises:
        ConfigError: A run of this name is at work on the cluster.
    """

    def __init__(self, run: str):
        self.actor = self._create(run)
        self._answers: dict[str, dict[str, Any]] = {}
        self._sent: dict[str, dict[str, Any]] = {}
        self._call: Any = None

    @staticmethod
    def _create(run: str) -> Any:
        make = ray.remote(num_cpus=0, max_restarts=-1)(RunActor).options(name=PREFIX + run, namespace=NAMESPACE)
        deadline = time.monotonic() + NAME_SECONDS
        while True:
            try:
                return make.remote()
            except ValueError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"a run named {run!r} is at work on this cluster.",
                        f"Take another name, or end it first: distrl stop {run} --address ADDRESS.",
                    ) from None
                time.sleep(0.5)

    def take(self) -> list[Command]:
        """What the last call brought, if it is back."""
        if self._call is None or not ray.wait([self._call], timeout=0)[0]:
            return []
        call, self._call = self._call, None
        try:
            commands = ray.get(call)
        except RayError:
            self._answers = {**self._sent, **self._answers}  # its node died: Ray starts it again elsewhere, empty
            return []
        return [Command.parse(command) for command in commands]

    def answer(self, command: Command, answer: Answer) -> None:
        self._answers[command.id] = asdict(answer)

    def show(self, status: dict[str, Any]) -> None:
        if self._call is None:
            self._sent, self._answers = self._answers, {}
            self._call = self.actor.exchange.remote(status, self._sent)

    def close(self) -> None:
        """Give senders a moment to read their answers, then free the name."""
        deadline = time.monotonic() + GOODBYE_SECONDS
        with contextlib.suppress(RayError):
            ray.get(self.actor.exchange.remote({}, self._answers), timeout=GOODBYE_SECONDS)
            while ray.get(self.actor.unread.remote(), timeout=GOODBYE_SECONDS) and time.monotonic() < deadline:
                time.sleep(0.05)
        ray.kill(self.actor)


class ActorRun:
    """A run on the cluster that this process is connected to, seen from outside.

    Args:
        run: Its name.

    Raises:
        ConfigError: No such run is at work there; the others are named.
    """

    def __init__(self, run: str):
        self.run = run
        try:
            self.actor = ray.get_actor(PREFIX + run, namespace=NAMESPACE)
        except ValueError:
            raise ConfigError(
                f"no run named {run!r} is at work on this cluster.", f"At work: {', '.join(running()) or 'none'}."
            ) from None

    def status(self) -> dict[str, Any] | None:
        """The newest record; None before the first."""
        return self._get(self.actor.status.remote()) or None

    def watch(self, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
        """The status again and again, until the run ends."""
        with contextlib.suppress(ResourceError):
            while True:
                record = self.status()
                if record:
                    yield record
                time.sleep(seconds)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        """Give the run a command and wait for its answer.

        Raises:
            ConfigError: The run refused it.
            ResourceError: It ended, or does not answer.
        """
        self._get(self.actor.post.remote(asdict(command)))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._get(self.actor.take_answer.remote(command.id))
            if answer is not None:
                return Answer(**answer).read()
            time.sleep(0.05)
        raise ResourceError(
            f"no answer from {self.run} within {seconds:g} s; it reads commands between two of its turns and obeys "
            "when the present one ends."
        )

    def _get(self, ref: Any) -> Any:
        try:
            return ray.get(ref, timeout=START_SECONDS)
        except RayActorError:
            raise ResourceError(f"the run {self.run} has ended.", "distrl ps lists the runs.") from None


def running() -> list[str]:
    """Names of the runs that are at work on the cluster that this process is connected to."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"].removeprefix(PREFIX)
        for actor in actors
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX)
    )
