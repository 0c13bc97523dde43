"""`TextLearner`: fragments of episodes in, weights of a language model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distrl.algorithms.language import LanguageAlgorithm
from distrl.algorithms.supervised_start import supervised_start
from distrl.base.columns import Columns
from distrl.base.phases import Phases
from distrl.experience.episodes import cat_episodes, pad_episodes
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learner.learner import Learner, Progress, Report
from distrl.learner.mismatch import Mismatch, MismatchGate, mismatch_metrics
from distrl.learner.text_watch import TextWatch
from distrl.models.weights import load_weights

#: Token ids and counts that torch wants as int64; float64 rewards stay.
WIDENED = (np.int32, np.uint8)


class TextLearner(Learner):
    """Updates one language-model algorithm.

    Args:
        algorithm: The chain of links with its model.
        task: Of its reward parts, and of the demonstrations that a fresh model begins with.
        seed: The run's seed.
        settings: The run's `language` section.
    """

    algorithm: LanguageAlgorithm

    def __init__(self, algorithm: LanguageAlgorithm, task: Any, seed: int, settings: Any, phases: Phases | None = None):
        super().__init__(algorithm, seed, phases=phases)
        self.task = task
        self.settings = settings
        self.begun = False  # has its first weights
        self.watch = TextWatch()
        algorithm.begin(task.parts, settings)
        self.gate = MismatchGate(algorithm, settings.gate)
        self.version = 0  # of the present weights
        self._found: Mismatch | None = None  # by the gate, in the present batch

    def update(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[Report, Weights]:
        """As `Learner.update`; says where verifiers fail, and where nothing can be learned."""
        self._found = None
        report, weights = super().update(fragments, progress)
        if self._found is not None:
            report.metrics = {**report.metrics, **mismatch_metrics(self._found)}
            report.warnings += [str(self._found)] if self._found.cause else []
        report.warnings += self.watch.warnings(report.metrics)
        return report, weights

    def weights(self, version: int) -> Weights:
        """The current weights as version `version`; a fresh learner gets its supervised start first."""
        if not self.begun:
            self._begin()
        self.version = version
        return super().weights(version)

    def _begin(self) -> None:
        self.begun = True
        if self.settings.warm_start is not None:
            options = self.settings.warm_start.model_dump()
            supervised_start(self.algorithm.model, self.task, self.seed, **options)
        self.algorithm.remember_reference()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.begun = True
        super().load_state(state)

    def warm_start(self, weights: Weights) -> None:
        """Begin with other weights; they are the reference model too, and the optimizer begins anew."""
        load_weights(self.published, weights)
        self.begun = True
        self.algorithm.remember_reference()

    def stage(self, units: Sequence[Unit], fragments: Sequence[FragmentData]) -> None:
        """Batches of tokens are small: nothing is moved ahead of time."""

    def _batch(self, fragments: Sequence[FragmentData], units: tuple[Unit, ...]) -> Columns:
        """Padded rows on the learner's device."""
        padded = pad_episodes(cat_episodes([fragment.rollout for fragment in fragments]))
        batch = padded.map(lambda leaf: torch.from_numpy(_widened(leaf)).to(self.algorithm.device))
        if self.gate.due(self.version):
            self._found = self.gate.look(batch, self.version)
        self.gate.remember(self.version)
        return batch

    def _take_back(self, *before: Any) -> None:
        """There are no normalizers."""


def _widened(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.int64) if leaf.dtype.type in WIDENED else np.ascontiguousarray(leaf)
