"""Supervised fine-tuning in the same loop, on fragments of demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.models.token_logp import Scoring, token_logp


class SFTConfig(LanguageAlgorithmConfig):
    """Supervised fine-tuning on a task's demonstrations; of `file`, on those of files."""

    group_size: int = Field(1, ge=1, le=1)
    """A prompt has one demonstration."""
    objective: ComponentConfig = "sft"
    """-log pi of the demonstration's tokens. Prompts are not learned."""
    micro_batch: int = Field(64, ge=1)
    """Rows that go through the model at once: less memory, same gradient."""


@register.algorithm("sft", paper="maximum likelihood on demonstrations")
class SFT(LanguageAlgorithm):
    """Supervised fine-tuning: maximum likelihood of right answers.

    A batch is `task.prompts * rollout_steps` items, in passes over the task's training items. Samplers do not generate,
    so data have no age; evaluation does. Streams, ledger, resume and deterministic mode are those of every run.
    """

    Config = SFTConfig
    demonstrations = True
    policy_metric_names = ()  # there is no behavior policy to have moved from

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        config = self.schedules
        if config.beta or config.credit is not None or config.reward or config.old_logp != "behavior":
            raise ConfigError(
                f"algorithm {config.name} has demonstrations and no answers: there are no rewards, credits, "
                "divergences or old log-probabilities.",
                "Remove algorithm.reward, credit, beta and old_logp.",
            )
        super().begin(components, settings)

    @torch.no_grad()
    def prepare(self, batch: Columns) -> Columns:
        return batch.with_(number=torch.arange(len(batch.tokens), device=batch.tokens.device))

    def token_logp_and_entropy(
        self, batch: Columns, temperature: float | Tensor = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """At temperature 1 over the whole vocabulary, however answers are drawn at evaluations."""
        return token_logp(self.language, batch.tokens, batch.mask, Scoring(entropy=entropy), packing=self.packing)

    def policy_metrics(self, part: Columns) -> list[Tensor]:
        return []

    def batch_metrics(self, batch: Columns) -> dict[str, float]:
        return {"text/length": float(batch.mask.sum(1).double().mean())}
