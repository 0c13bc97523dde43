"""A learner that others talk to from another process: errors as values, a state to keep, and a beginning from there."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from distrl.base.errors import CheckpointError, ResourceError
from distrl.base.pack import load_state, pack, unpack
from distrl.control.learner.learner import Learner, Progress
from distrl.experience.fragment import FragmentData
from distrl.runtime.protocol.events import Failure
from distrl.runtime.run.checkpoint import LEARNER_FILE, REPLAY_FOLDER, SHARED


class LearnerHost:
    """Makes updates, and makes those of a predecessor again.

    Args:
        learner: Fresh, or as its owner set it up.
    """

    def __init__(self, learner: Learner):
        self.learner = learner
        self.version: int | None = None  # after a recovery: updates made, so that none can be left out
        self.failure: Failure | None = None  # why a recovery went wrong

    def update(self, progress: Progress, *fragments: FragmentData) -> tuple[Any, Any]:
        """Report and weights; or a failure."""
        if self.failure is None and self.version not in (None, progress.update):
            # Ray leaves out a call whose arguments are lost.
            problem = f"the learner was built again, but the data of update {self.version} is gone with its node."
            self.failure = Failure(ResourceError(problem, "Start again with --resume."), "")
        if self.failure is not None:
            return self.failure, None
        try:
            made = self.learner.update(fragments, progress)
        except Exception as error:
            return Failure.of(error), None
        if self.version is not None:
            self.version += 1
        return made

    def keep(self) -> tuple[float, Any]:
        """Seconds that this takes, and the state as plain arrays."""
        began = time.perf_counter()
        with self.learner.phases("keep"):
            packed = pack(self.learner.state())
        # On its way out the arrays are copied once more, which takes as long.
        return 2 * (time.perf_counter() - began), packed

    def recover(self, version: int, packed: Any, folder: str | None) -> None:
        """Begin with the state that a learner had after `version` updates, which died since.

        Args:
            packed: What `keep` gave, where there is no `folder`.
            folder: A checkpoint, with replay.
        """
        self.version = version
        try:
            if folder is None:
                self.learner.load_state(unpack(*packed))
                return
            self.learner.load_state(load_state(Path(folder) / LEARNER_FILE))
            self.failure = self.load_replay(str(Path(folder) / REPLAY_FOLDER))
        except Exception as error:
            self.failure = Failure.of(error)

    def make_again(self, progress: Progress, *fragments: FragmentData) -> Any:
        """An update that a predecessor made; its weights. What goes wrong is told by the next new update."""
        report, weights = self.update(progress, *fragments)
        if isinstance(report, Failure):
            self.failure = report
        return weights

    def load_replay(self, folder: str) -> Failure | None:
        """Take the replay that was written into a folder."""
        try:
            if not Path(folder).is_dir():
                raise CheckpointError(f"{folder} is not there on {platform.node()}, where the learner runs.", SHARED)
            self.learner.load_files(Path(folder))
        except Exception as error:
            return Failure.of(error)
        return None
