"""`TextLearner`: fragments of episodes in, weights of a language model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from distrl.base.columns import Columns, Tree
from distrl.base.phases import Phases
from distrl.config.sections.language import LanguageConfig
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.token_episodes import TEMPERATURE_SCALE, cat_episodes, pad_episodes
from distrl.experience.weights import Weights
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.supervised.warm_start import supervised_start
from distrl.language.curricula.base import Curriculum
from distrl.language.learner.answer_files import TextKeeper
from distrl.language.learner.mismatch import Mismatch, MismatchGate, cache_metrics, mismatch_metrics
from distrl.language.learner.warnings import TextWatch
from distrl.language.tasks.base import Task
from distrl.learning.learner_base import Learner, Progress, Report

#: Token ids and counts that torch wants as int64; float64 rewards stay.
WIDENED = (np.int32, np.uint8)


class TextLearner(Learner):
    """Updates one language-model algorithm.

    Args:
        task: Of its reward components, and of the demonstrations that a fresh model begins with.
        curriculum: Learns from every batch which items to ask, if the run has one.
        keeper: Writes answers into the run folder, if there is one.
        post: Tells samplers at once of the weights of every update.
    """

    algorithm: LanguageAlgorithm

    def __init__(
        self,
        algorithm: LanguageAlgorithm,
        task: Task,
        seed: int,
        settings: LanguageConfig,
        *,
        curriculum: Curriculum | None = None,
        keeper: TextKeeper | None = None,
        post: Callable[[Weights], None] | None = None,
        phases: Phases | None = None,
    ):
        super().__init__(algorithm, seed, phases=phases)
        self.task = task
        self.settings = settings
        self.curriculum, self.keeper, self.post = curriculum, keeper, post
        self._successes: dict[int, list[float]] = {}  # by item, of the batch that is being learned from
        self._episodes: Columns | None = None  # the batch itself
        self._updated_at: float | None = None  # when the last update was done
        self.begun = False  # has its first weights
        self.watch = TextWatch()
        algorithm.begin(task.components, settings)
        algorithm.begin_task(task)
        self.gate = MismatchGate(algorithm, settings.gate)
        self.version = 0  # of the present weights
        self._found: Mismatch | None = None  # by the gate, in the present batch
        self._cache: Mismatch | None = None  # the same, of answers that new weights went on with

    def update(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[Report, Weights]:
        """Update as `Learner.update`; warn about failed verifiers and batches without differences."""
        if not self.begun:  # in a group the loop asks process 0 alone for the first weights
            self._begin()
        self._found = self._cache = None
        self.version = progress.update
        report, weights = super().update(fragments, progress)
        if self.post is not None:
            self.post(weights)
        if self._found is not None:
            report.metrics = {**report.metrics, **mismatch_metrics(self._found)}
            report.warnings += [str(self._found)] if self._found.cause else []
        if self._cache is not None:
            report.metrics = {**report.metrics, **cache_metrics(self._cache)}
            report.warnings += [str(self._cache)] if self._cache.cause else []
        episodes, self._episodes = self._episodes, None
        assert episodes is not None
        report.metrics = {**report.metrics, **age_metrics(episodes, progress.update), **self._speed(episodes)}
        if self.curriculum is not None:
            report.metrics["text/curriculum_share"] = float((self.curriculum.weights() > 0).mean())
        report.warnings += self.watch.warnings(report.metrics)
        if self.keeper is not None:
            with self.phases("texts"):
                report.warnings += self.keeper.keep(episodes, progress.update + 1)
        return report, weights

    def _speed(self, episodes: Columns) -> dict[str, float]:
        """Tokens that were learned from, per second since the update before."""
        before, self._updated_at = self._updated_at, time.monotonic()
        if before is None:
            return {}
        return {"throughput/tokens_per_s": int(episodes.mask.sum()) / max(self._updated_at - before, 1e-6)}

    def weights(self, version: int) -> Weights:
        """The current weights as version `version`, with all that samplers need besides; a fresh learner gets its
        supervised start first."""
        if not self.begun:
            self._begin()
        self.version = version
        successes, self._successes = self._successes, {}
        extras = self.algorithm.extras()
        if self.curriculum is not None:
            if successes:  # an update has just been made
                self.curriculum.update(successes)
            extras = {**extras, **self.curriculum.to_extras()}
        self.algorithm.language.extras = extras
        return super().weights(version)

    def _begin(self) -> None:
        self.begun = True
        if self.settings.warm_start is not None:
            options = self.settings.warm_start.model_dump()
            supervised_start(self.algorithm.model, self.task, self.seed, **options)
        self.algorithm.remember_reference()

    def state(self) -> dict[str, Tree]:
        curriculum = None if self.curriculum is None else self.curriculum.state_dict()
        bf16 = self.algorithm.language.dtype == torch.bfloat16
        return {**super().state(), "curriculum": curriculum, "bf16": bf16}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        self.begun = True
        super().load_state(state)
        self.algorithm.language.dtype = torch.bfloat16 if state["bf16"] else torch.float32
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])

    def warm_start(self, weights: Weights) -> None:
        """Begin with other weights; they are the reference model too, and the optimizer state is reset."""
        precision = self.algorithm.language.dtype
        super().warm_start(weights)
        self.algorithm.language.dtype = precision  # of this run and machine
        self.begun = True
        self.algorithm.remember_reference()

    def _batch(self, fragments: Sequence[FragmentData], units: tuple[Unit, ...]) -> Columns:
        """Padded rows on the learner's device."""
        episodes = cat_episodes([fragment.rollout for fragment in fragments])
        self._successes, self._episodes = successes_by_item(episodes), episodes
        padded = pad_episodes(episodes)
        batch = padded.map(lambda leaf: torch.from_numpy(_widened(leaf)).to(self.algorithm.device))
        if self.algorithm.demonstrations:
            return batch  # nobody sampled, so there is nothing to compare
        batch = batch.with_(
            age=(self.version - batch.version).clamp(min=0)
        )  # in weight versions, of the model's tokens
        if self.gate.due(self.version):
            usual = batch[batch.temperature_scale == 1.0] if TEMPERATURE_SCALE in batch else batch
            self._cache = self.gate.check_cache(usual, self.version)
            self._found = self.gate.check(usual, self.version)
        self.gate.remember(self.version)
        return batch

    def _rollback(self) -> None:
        """Keep a refused batch out of the curriculum."""
        self._successes, self._episodes = {}, None


def age_metrics(episodes: Columns, version: int) -> dict[str, float]:
    """Compute the age of tokens in versions against `version`: mean, and share of answers that
    more than one version wrote."""
    rows = np.repeat(np.arange(len(episodes.group)), np.diff(episodes.offsets))[episodes.mask]
    versions = episodes.version[episodes.mask].astype(np.int64)
    if not len(versions):
        return {}
    newest = np.full(len(episodes.group), -1)
    np.maximum.at(newest, rows, versions)
    mixed = np.unique(rows[versions != newest[rows]])
    ages = {"staleness/tokens_mean": float((version - versions).mean())}
    return {**ages, "staleness/mixed_answers": len(mixed) / len(episodes.group)}


def successes_by_item(episodes: Columns) -> dict[int, list[float]]:
    """The first reward component of every answer by item, before any shaping."""
    found: dict[int, list[float]] = {}
    usual = episodes.temperature_scale == 1.0 if TEMPERATURE_SCALE in episodes else slice(None)
    for item, success in zip(episodes.item[usual].tolist(), episodes.components[usual, 0].tolist(), strict=True):
        found.setdefault(item, []).append(success)
    return found


def _widened(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.int64) if leaf.dtype.type in WIDENED else np.ascontiguousarray(leaf)
