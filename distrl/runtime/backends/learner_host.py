"""`LearnerHost`: a learner in its own process, with exceptions as values, and recovery."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from distrl.base.errors import CheckpointError, ResourceError
from distrl.base.pack import State, load_state, pack, unpack
from distrl.experience.fragment import FragmentData
from distrl.experience.schema import SchemaCheck
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Learner, Progress, Report
from distrl.runtime.protocol.events import Failure
from distrl.runtime.run.checkpoint import LEARNER_FILE, REPLAY_FOLDER, SHARED


class LearnerHost:
    """Makes updates, and repeats those of a dead predecessor."""

    def __init__(self, learner: Learner, check: SchemaCheck):
        self.learner, self.check = learner, check
        self.version: int | None = None  # after a recovery: updates made, so that none is skipped
        self.failure: Failure | None = None  # of a recovery; the next update returns it

    def update(self, progress: Progress, *fragments: FragmentData) -> tuple[Report | Failure, Weights | None]:
        """Make an update; return report and weights, or a failure and None."""
        if self.failure is None and self.version not in (None, progress.update):
            # Ray skips a call whose arguments are lost.
            problem = f"the learner was rebuilt, but the data of update {self.version} is gone with its node."
            self.failure = Failure(ResourceError(problem, "Start again with --resume."), "")
        if self.failure is not None:
            return self.failure, None
        try:
            self.check(fragments)
            made = self.learner.update(fragments, progress)
        except Exception as error:
            return Failure.of(error), None
        if self.version is not None:
            self.version += 1
        return made

    def keep(self) -> tuple[float, State]:
        """Return the seconds that this costs, and the packed state."""
        began = time.perf_counter()
        with self.learner.phases("keep"):
            packed = pack(self.learner.state())
        # Returning the arrays copies them once more, which takes as long.
        return 2 * (time.perf_counter() - began), packed

    def recover(self, version: int, packed: State, folder: Path | None) -> None:
        """Load a dead learner's state after `version` updates, from `keep` or a checkpoint."""
        self.version = version
        try:
            if folder is None:
                self.learner.load_state(unpack(*packed))
                return
            self.learner.load_state(load_state(folder / LEARNER_FILE))
            self._load_files(folder / REPLAY_FOLDER)
        except Exception as error:
            self.failure = Failure.of(error)

    def repeat(self, progress: Progress, *fragments: FragmentData) -> Weights | None:
        """Repeat an update of a predecessor; a failure is returned by the next new update."""
        report, weights = self.update(progress, *fragments)
        if isinstance(report, Failure):
            self.failure = report
        return weights

    def call(self, method: str, *args: Any) -> object:
        """Call a method of `LEARNER_CALLS`; return its result or a failure."""
        try:
            if method == "load_files":
                self._load_files(*args)
                return None
            return getattr(self.learner, method)(*args)
        except Exception as error:
            return Failure.of(error)

    def _load_files(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not there on {platform.node()}, where the learner runs.", SHARED)
        self.learner.load_files(folder)
