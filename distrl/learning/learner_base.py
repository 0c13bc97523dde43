"""Base of the learners: an update from fragments to published weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distrl.base.columns import Columns
from distrl.base.errors import NonFiniteError
from distrl.base.pack import State
from distrl.base.phases import Phases
from distrl.base.seeds import generator
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.algorithm import Algorithm
from distrl.models.parameters.published import load_weights, pack_weights


@dataclass
class Progress:
    """State of the run when an update begins.

    Attributes:
        update: Updates before this one; the published weights have version update + 1.
        env_steps: Consumed valid steps before this batch.
        total: The run's `stop.env_steps`, for schedules `over: run`.
        diagnose: Measure policy movement after the update.
        units: Names of the batch's fragments.
    """

    update: int
    env_steps: int
    total: int | None = None
    diagnose: bool = False
    units: tuple[Unit, ...] = ()


@dataclass
class Report:
    """Result of an update for the loop."""

    version: int
    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Learner:
    """Updates of one algorithm, with random numbers from (seed, update).

    A subclass defines `_batch` or `_learn`, and `_begin_update` and `_rollback` for further state.

    Args:
        phases: Timers of the process; None: the learner's own, reported with each update.
    """

    algorithm: Algorithm

    def __init__(self, algorithm: Algorithm, seed: int, *, phases: Phases | None = None):
        self.algorithm = algorithm
        self.published = algorithm.acting_model(algorithm.model)  # shares its tensors with the model
        self.seed = seed
        self.phases = phases or Phases()
        self.own_phases = phases is None

    def update(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[Report, Weights]:
        """Learn from fragments in (sequence, stream) order, and publish weights.

        Raises:
            NonFiniteError: A loss, gradient or column is not finite; nothing has changed.
        """
        self._begin_update()
        try:
            metrics, batch = self._learn(fragments, progress)
        except NonFiniteError:
            self._rollback()
            raise
        with self.phases("diagnose"):
            if progress.diagnose:
                metrics = {**metrics, **self._diagnose(batch)}
        with self.phases("publish"):
            weights = self.weights(progress.update + 1)
        seconds = self.phases.reset() if self.own_phases else {}
        if self.own_phases:
            self.phases.switch("wait")  # until the next batch
        return Report(progress.update + 1, metrics, seconds, self._warnings()), weights

    def _begin_update(self) -> None:
        """Copy what `_rollback` restores."""

    def _rollback(self) -> None:
        """Undo the effects of a refused batch on the learner; the algorithm has undone its own."""

    def _learn(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[dict[str, float], Columns | None]:
        """Update the algorithm; returns metrics and the batch for `_diagnose`."""
        with self.phases("prepare"):
            batch = self._batch(fragments, progress.units)
        with self.phases("learn"):
            self.algorithm.resolve(progress.env_steps, progress.total)
            update = self.algorithm.update(batch, generator(self.seed, "learner", progress.update))
        return update.metrics, batch

    def _batch(self, fragments: Sequence[FragmentData], units: tuple[Unit, ...]) -> Columns:
        """Join fragments into one batch on the learner's device."""
        raise NotImplementedError(f"{type(self).__name__} must define _batch() or _learn()")

    def _diagnose(self, batch: Columns | None) -> dict[str, float]:
        """Return metrics of the algorithm, and the present values of scheduled config keys."""
        metrics = {} if batch is None else self.algorithm.diagnose(batch)
        names = sorted({"learning_rate", *self.algorithm.schedules.schedules})
        return {**metrics, **{f"schedule/{name}": float(getattr(self.algorithm.config, name)) for name in names}}

    def _warnings(self) -> list[str]:
        """Return the warnings since the previous update."""
        warnings, self.algorithm.warnings = self.algorithm.warnings, []
        return warnings

    def weights(self, version: int) -> Weights:
        """Return the current weights as version `version`."""
        return pack_weights(self.published, version)

    def warm_start(self, weights: Weights) -> None:
        """Begin with other weights; the optimizer starts fresh."""
        load_weights(self.published, weights)

    def state(self) -> State:
        """Return everything that later updates depend on, except the files of `save_files`."""
        return {"algorithm": self.algorithm.state()}

    def load_state(self, state: State) -> None:
        """Load what `state` returned."""
        self.algorithm.load_state(state["algorithm"])

    def save_files(self, folder: Path) -> None:
        """Write what is too large for `state` into a new folder: a replay, where there is one."""

    def files_saved(self, folder: Path) -> None:
        """Note the final place of the files of the last `save_files`."""

    def load_files(self, folder: Path) -> None:
        """Load what `save_files` wrote."""

    def stage(self, units: Sequence[Unit], fragments: Sequence[FragmentData]) -> None:
        """Move the probable next batch to the device during an update; from another thread."""
