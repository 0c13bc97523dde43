"""A text learner whose model is spread over the processes of a group.

The loop asks process 0 alone for weights and states, and these need all processes. So every process but the first has a
thread that follows it: process 0 says what comes next, and the others do the same in the same order.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from distrl.base.columns import Tree
from distrl.base.errors import ResourceError
from distrl.experience.fragment import FragmentData
from distrl.experience.weights import Weights
from distrl.language.learner.learner import TextLearner
from distrl.language.models.model import LanguageModel
from distrl.learning.learner_base import Progress, Report

#: Limit of a wait for process 0: as long as a run lasts. The death of either process ends it at once.
PATIENCE = datetime.timedelta(days=365)
#: Orders of process 0: continue the call that the loop made in every process, do one of these, or end.
GO, WEIGHTS, STATE, END = range(4)


class Following:
    """Lets process 0 say in which order things are done. Made by all processes of the default group at once.

    Args:
        acts: What the others do at word of process 0, by word; given the number that comes with it.
    """

    def __init__(self, acts: Mapping[int, Callable[[int], object]], device: torch.device):
        self.acts = acts
        self.gpu = torch.cuda.current_device() if device.type == "cuda" else None
        self.rank = dist.get_rank()
        # exchanges of its own, so that they mix with no others; over sockets, so that waiting occupies no GPU
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.turn, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        """Follow from now on: whoever made this can do what process 0 asks for."""
        if self.rank > 0:
            self.thread = threading.Thread(target=self._follow, name="follows process 0", daemon=True)
            self.thread.start()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A call that the loop makes in every process: the others wait until process 0 has come to it."""
        if self.rank == 0:
            self.say(GO)
            yield
            return
        self.turn.acquire()
        if self.failure is not None:
            self.turn.release()  # nobody waits in vain
            raise ResourceError(f"the learner's process 0 cannot be followed: {self.failure}") from self.failure
        try:
            yield
        finally:
            self.done.release()

    def say(self, word: int, number: int = 0) -> None:
        """Process 0 only: what comes next."""
        dist.broadcast(torch.tensor([word, number]), 0, group=self.group)

    def close(self) -> None:
        """End the threads of the others, where processes end by themselves; those of Ray are killed."""
        if self.rank == 0:
            self.say(END)
        elif self.thread is not None:
            self.thread.join()

    def _follow(self) -> None:
        """In a thread of each other process: until process 0 is gone, or something here fails."""
        try:
            if self.gpu is not None:
                torch.cuda.set_device(self.gpu)
            while True:
                said = torch.zeros(2, dtype=torch.int64)
                dist.broadcast(said, 0, group=self.group)
                word, number = said.tolist()
                if word == END:
                    return
                if word == GO:
                    self.turn.release()
                    self.done.acquire()
                else:
                    self.acts[word](number)
        except BaseException as error:
            self.failure = error
            self.turn.release()


class ShardedLearner:
    """A `TextLearner` whose algorithm is a `ShardedLanguageAlgorithm`, as its actor sees it.

    Args:
        fresh_model: Makes the run's first model, whole, for a supervised start.
    """

    def __init__(self, learner: TextLearner, fresh_model: Callable[[], LanguageModel]):
        self.learner, self.fresh_model = learner, fresh_model
        self.following = Following(
            {WEIGHTS: self._weights, STATE: lambda number: self.learner.state()}, learner.algorithm.device
        )
        self.following.begin()  # not before: word of process 0 may have come, and `_weights` needs `following`

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)  # what needs no other process

    def update(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[Report, Weights]:
        """As `TextLearner.update`; only process 0 has weights to give."""
        with self.following.together():
            return self.learner.update(fragments, progress)

    def weights(self, version: int) -> Weights:
        """Process 0 only: the current weights; a fresh learner gets its supervised start first."""
        self.following.say(WEIGHTS, version)
        return self._weights(version)

    def state(self) -> dict[str, Tree]:
        """Process 0 only: the state of the whole."""
        self.following.say(STATE)
        return self.learner.state()

    def load_state(self, state: Mapping[str, Tree]) -> None:
        with self.following.together():
            self.learner.load_state(state)

    def warm_start(self, weights: Weights) -> None:
        with self.following.together():
            self.learner.warm_start(weights)

    def _weights(self, version: int) -> Weights:
        """In all processes."""
        if not self.learner.begun and self.learner.settings.warm_start is not None:
            self._supervised_start()
        return self.learner.weights(version)

    def _supervised_start(self) -> None:
        """Process 0 makes it with a whole model and lets the others have the weights."""
        made: list[Any] = [None]
        if self.following.rank == 0:
            made = [started(self.fresh_model(), self.learner)]
        dist.broadcast_object_list(made, 0, group=self.following.group)
        self.learner.warm_start(made[0])


def started(model: LanguageModel, learner: TextLearner) -> Weights:
    """The weights of a fresh whole model after the run's supervised start, in full precision."""
    from distrl.language.algorithms.supervised.warm_start import supervised_start
    from distrl.language.models.weights import pack_language_weights

    model.to(learner.algorithm.device)
    model.dtype = learner.algorithm.language.dtype
    assert learner.settings.warm_start is not None
    supervised_start(model, learner.task, learner.seed, **learner.settings.warm_start.model_dump())
    return pack_language_weights(model, 0, torch.float32)
