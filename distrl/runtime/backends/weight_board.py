"""Newest weights for samplers that are in the middle of a batch (`language.in_flight`).

The learner posts every version to a board, a small actor with a reference to the newest one, and samplers poll it while
they generate. Every failure means "nothing new": the next order brings the weights.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray.exceptions import RayError

from distrl.experience.weights import Weights
from distrl.runtime.backends.cluster import Actor
from distrl.runtime.protocol.orders import Handle

POLL_SECONDS = 0.01  # between two polls: about the time of a token of a small model
RETRY_SECONDS = 1.0  # after a failure


class WeightBoard:
    """The actor: one reference, and the calls that wait for a newer one."""

    def __init__(self) -> None:
        self.version = -1
        self.refs: list[Handle] = []
        self._changed = asyncio.Event()

    async def post(self, version: int, refs: list[Handle]) -> None:
        """Set the reference of this version; in a list, so that Ray does not fetch the object."""
        if version > self.version:
            self.version, self.refs = version, refs
            self._changed.set()
            self._changed = asyncio.Event()

    async def newer(self, version: int) -> list[Handle]:
        """Return the newest reference as soon as it is newer than `version`."""
        while self.version <= version:
            await self._changed.wait()
        return self.refs


class WeightSender:
    """The learner's end. The board lives as long as the learner's process."""

    def __init__(self, name: str):
        self.name = name
        self._board: Actor = None
        self._last: Handle = None  # answer to the newest post

    def __call__(self, weights: Weights) -> None:
        try:
            if self._board is None:
                options: dict[str, Any] = {"num_cpus": 0, "name": self.name}
                self._board = ray.remote(**options)(WeightBoard).remote()
            elif ray.wait([self._last], timeout=0)[0]:
                ray.get(self._last)
            self._last = self._board.post.remote(weights.version, [ray.put(weights)])
        except (RayError, ValueError):  # it died, or the board of a dead learner still has the name
            self._board = None


class WeightReceiver:
    """A sampler's end."""

    def __init__(self, name: str):
        self.name = name
        self._board: Actor = None
        self._answer: Handle = None  # pending call of the board
        self._reference: Handle = None  # pending object that the board named
        self._next = 0.0

    def __call__(self, version: int) -> Weights | None:
        """Return weights newer than `version` if they have arrived; never waits."""
        now = time.monotonic()
        if now < self._next or not ray.is_initialized():
            return None
        self._next = now + POLL_SECONDS
        try:
            return self._poll(version)
        except (RayError, ValueError):  # there is no board (yet), or it or the learner died
            self._board = self._answer = self._reference = None
            self._next = now + RETRY_SECONDS
            return None

    def _poll(self, version: int) -> Weights | None:
        if self._board is None:
            self._board = ray.get_actor(self.name)
        if self._reference is None:
            if self._answer is None:
                self._answer = self._board.newer.remote(version)
            if not ray.wait([self._answer], timeout=0)[0]:
                return None
            [self._reference] = ray.get(self._answer)
            self._answer = None
        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        weights: Any = ray.get(self._reference)
        self._reference = None
        return weights if weights.version > version else None
