"""PIPO: every update is judged by the batch after it, and repeated or taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from distrl.base.columns import Columns, Tree, tree_map
from distrl.base.registry import register
from distrl.language.advantages.token import improvement_signal, pipo
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig


class PIPOConfig(LanguageAlgorithmConfig):
    """PIPO: before a batch is learned from, its mean reward judges the update that came before."""

    history: int = Field(5, ge=2)
    """Mean rewards of so many batches are what a new one is compared with. More: steadier, slower."""
    limit: float = Field(1.0, gt=0)
    """Bound of the factor on the previous batch's advantages. Usual: 1."""
    shape: Literal["clip", "relu"] = "clip"
    """`clip` takes an update back where rewards fell; `relu` only leaves it unrepeated."""
    verify_rate: float = Field(0.5, ge=0)
    """Step size of the verifying step, as a share of `learning_rate`. 0: GRPO."""


@register.algorithm("pipo", paper="Policy Improvement Reinforcement Learning, 2025", entries=[154])
class PIPO(LanguageAlgorithm):
    """Verify, then explore: one step on the previous batch, in its direction if rewards rose and against it if they
    fell, then the ordinary update. With another advantage or objective that one is verified.
    """

    Config = PIPOConfig

    means: Sequence[float] = ()  # mean rewards of the last batches, newest last
    previous: Columns | None = None  # the last batch, prepared with the weights before its update

    def improvement(self, batch: Columns) -> float:
        """Compute xi: the batch's mean reward against the last ones, in their standard deviations."""
        return improvement_signal(float(batch.reward.double().mean()), self.means)

    def verifying(self, batch: Columns) -> Columns | None:
        """Return the previous batch with phi(xi) times its advantages; None if all are 0."""
        if self.previous is None or not self.config.verify_rate:
            return None
        advantage = pipo(
            self.previous.advantage,
            improvement=self.improvement(batch),
            limit=self.config.limit,
            shape=self.config.shape,
        )
        return self.previous.with_(advantage=advantage) if bool((advantage != 0).any()) else None

    def text_minibatches(self, batch: Columns, rng: np.random.Generator) -> Iterator[Columns]:
        """The verifying step first. The ratios of both are to the weights that made their batch, so the explored
        batch's `old_logp` is that of before the verifying step."""
        verifying = self.verifying(batch)
        if verifying is not None:
            self._scale_learning_rate(self.config.verify_rate)
            yield verifying
            self.set_learning_rates()
        yield from super().text_minibatches(batch, rng)

    def _scale_learning_rate(self, factor: float) -> None:
        self.trained.set_learning_rates(factor * float(self.config.learning_rate))

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        improvement = self.improvement(batch)
        self.means = [*self.means, float(batch.reward.double().mean())][-self.config.history :]
        self.previous = batch
        return {"policy/reward_rise": improvement}

    def state(self) -> dict[str, Tree]:
        return {**super().state(), "means": list(self.means), "previous": self.previous}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        super().load_state(state)
        self.means = [float(mean) for mean in state["means"]]
        previous = state["previous"]
        if previous is not None:
            previous = tree_map(lambda leaf: torch.as_tensor(leaf).to(self.device), previous)
        self.previous = previous
