"""Command channel on a shared Ray cluster: a named actor with a run's status and mailbox.

Any machine that reaches the cluster finds the actor `distrl:RUN`, so two active runs cannot share a name.
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
from distrl.runtime.backends.cluster import Actor
from distrl.runtime.commands.files import ANSWER_SECONDS, Answer, Command, Json, await_answer
from distrl.runtime.protocol.orders import Handle

NAMESPACE = "distrl"
PREFIX = "distrl:"
START_SECONDS = 60.0
NAME_SECONDS = 15.0  # for Ray to notice that the run's earlier process is dead
CLOSE_SECONDS = 2.0  # for senders to read the last answers


class RunActor:
    """The actor: status, commands and answers."""

    def __init__(self) -> None:
        self.shown: Json | None = None
        self.commands: list[Json] = []
        self.answers: dict[str, Json] = {}

    def exchange(self, status: Json, answers: dict[str, Json]) -> list[Json]:
        self.shown = status
        self.answers.update(answers)
        commands, self.commands = self.commands, []
        return commands

    def post(self, command: Json) -> None:
        self.commands.append(command)

    def pop_answer(self, command_id: str) -> Json | None:
        return self.answers.pop(command_id, None)

    def status(self) -> Json | None:
        return self.shown

    def unread(self) -> int:
        return len(self.answers)


class ActorMailbox:
    """The loop's end of the channel, with one asynchronous call a second."""

    def __init__(self, run: str):
        self.actor = self._create(run)
        self._answers: dict[str, Json] = {}
        self._sent: dict[str, Json] = {}
        self._call: Handle = None

    @staticmethod
    def _create(run: str) -> Actor:
        make = ray.remote(num_cpus=0, max_restarts=-1)(RunActor).options(name=PREFIX + run, namespace=NAMESPACE)
        deadline = time.monotonic() + NAME_SECONDS
        while True:
            try:
                return make.remote()
            except ValueError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"a run named {run!r} is active on this cluster.",
                        f"Take another name, or end it first: distrl stop {run} --address ADDRESS.",
                    ) from None
                time.sleep(0.5)

    def pop(self) -> list[Command]:
        """Return the commands of the last call, if it has ended."""
        if self._call is None or not ray.wait([self._call], timeout=0)[0]:
            return []
        call, self._call = self._call, None
        try:
            commands = ray.get(call)
        except RayError:
            self._answers = {**self._sent, **self._answers}  # its node died: Ray restarts it elsewhere, empty
            return []
        return [Command.parse(command) for command in commands]

    def answer(self, command: Command, answer: Answer) -> None:
        self._answers[command.id] = asdict(answer)

    def show(self, status: dict[str, object]) -> None:
        if self._call is None:
            self._sent, self._answers = self._answers, {}
            self._call = self.actor.exchange.remote(status, self._sent)

    def close(self) -> None:
        """Let senders read their answers, then free the name."""
        deadline = time.monotonic() + CLOSE_SECONDS
        with contextlib.suppress(RayError):
            ray.get(self.actor.exchange.remote({}, self._answers), timeout=CLOSE_SECONDS)
            while ray.get(self.actor.unread.remote(), timeout=CLOSE_SECONDS) and time.monotonic() < deadline:
                time.sleep(0.05)
        ray.kill(self.actor)


class ActorRun:
    """A run on the cluster that this process is connected to."""

    def __init__(self, run: str):
        self.run = run
        try:
            self.actor = ray.get_actor(PREFIX + run, namespace=NAMESPACE)
        except ValueError:
            active = ", ".join(running()) or "none"
            raise ConfigError(f"no run named {run!r} is active on this cluster.", f"Active: {active}.") from None

    def status(self) -> Json | None:
        return self._get(self.actor.status.remote()) or None

    def watch(self, seconds: float = 1.0) -> Iterator[Json]:
        with contextlib.suppress(ResourceError):
            while True:
                record = self.status()
                if record:
                    yield record
                time.sleep(seconds)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        self._get(self.actor.post.remote(asdict(command)))
        return await_answer(lambda: self._get(self.actor.pop_answer.remote(command.id)), self.run, seconds)

    def _get(self, ref: Handle) -> Any:
        try:
            return ray.get(ref, timeout=START_SECONDS)
        except RayActorError:
            raise ResourceError(f"the run {self.run} has ended.", "distrl ps lists the runs.") from None


def running() -> list[str]:
    """Return the names of the active runs on the cluster that this process is connected to."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
