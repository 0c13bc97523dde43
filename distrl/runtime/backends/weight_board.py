"""Newest weights for samplers that are in the middle of a batch (`language.in_flight`).

The loop gives weights to a sampler with its next order. This is a second road beside it, for text runs that are not
deterministic: the learner posts every version on a board, a small actor that holds a reference to the newest one, and a
sampler asks the board while it generates. Versions are objects of Ray's store, which never change, so nobody reads a
torn one. Whatever fails here is no fault: then there is no news, and the next order brings the weights.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray.exceptions import RayError

from distrl.experience.weights import Weights

LOOK_SECONDS = 0.01  # between two questions: a token of a small model takes as long
AGAIN_SECONDS = 1.0  # after something failed


class WeightBoard:
    """The actor: one reference, and everybody who waits for a newer one."""

    def __init__(self) -> None:
        self.version = -1
        self.refs: list[Any] = []
        self._news = asyncio.Event()

    async def post(self, version: int, refs: list[Any]) -> None:
        """`refs` holds the reference of this version: inside a list Ray does not fetch it."""
        if version > self.version:
            self.version, self.refs = version, refs
            self._news.set()
            self._news = asyncio.Event()

    async def newer(self, version: int) -> list[Any]:
        """The newest reference, as soon as there is one newer than `version`."""
        while self.version <= version:
            await self._news.wait()
        return self.refs


class WeightPost:
    """The learner's side. The board lives as long as the learner's process.

    Args:
        name: Of the board's actor.
    """

    def __init__(self, name: str):
        self.name = name
        self._board: Any = None
        self._last: Any = None  # answer to the newest post

    def __call__(self, weights: Weights) -> None:
        """Post a version."""
        try:
            if self._board is None:
                options: dict[str, Any] = {"num_cpus": 0, "name": self.name}
                self._board = ray.remote(**options)(WeightBoard).remote()
            elif ray.wait([self._last], timeout=0)[0]:
                ray.get(self._last)
            self._last = self._board.post.remote(weights.version, [ray.put(weights)])
        except (RayError, ValueError):  # it died; or that of a learner that has just died still has the name
            self._board = None


class WeightWatch:
    """A sampler's side.

    Args:
        name: Of the board's actor.
    """

    def __init__(self, name: str):
        self.name = name
        self._board: Any = None
        self._answer: Any = None  # of the board, under way
        self._coming: Any = None  # the reference it gave
        self._next = 0.0

    def __call__(self, version: int) -> Weights | None:
        """Weights newer than `version`, once they are here; never waits."""
        now = time.monotonic()
        if now < self._next or not ray.is_initialized():
            return None
        self._next = now + LOOK_SECONDS
        try:
            return self._look(version)
        except (RayError, ValueError):  # there is no board (yet), or it or the learner has died
            self._board = self._answer = self._coming = None
            self._next = now + AGAIN_SECONDS
            return None

    def _look(self, version: int) -> Weights | None:
        if self._board is None:
            self._board = ray.get_actor(self.name)
        if self._coming is None:
            if self._answer is None:
                self._answer = self._board.newer.remote(version)
            if not ray.wait([self._answer], timeout=0)[0]:
                return None
            [self._coming] = ray.get(self._answer)
            self._answer = None
        if not ray.wait([self._coming], timeout=0)[0]:
            return None
        weights: Weights = ray.get(self._coming)
        self._coming = None
        return weights if weights.version > version else None
