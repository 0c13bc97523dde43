"""Language models as values: logits are Q functions, and learning makes them fit their Bellman equations."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word
from distrl.language.chain.tokens import masked
from distrl.language.models.token_features import each_chunk, spread, token_features


class WholeVocabulary(LanguageAlgorithm):
    """An algorithm that reads more of the logits than the chosen tokens' log-probabilities."""

    def begin(self, parts: Any, settings: Any) -> None:
        super().begin(parts, settings)
        if settings.top_p < 1.0 or settings.top_k > 0:
            raise ConfigError(
                f"algorithm {self.config.name} reads the logits of the whole vocabulary as values, but language.top_p "
                f"{settings.top_p:g} and top_k {settings.top_k} leave some tokens out.",
                "Set language.top_p=1 and language.top_k=0.",
            )

    def logit_columns(self, batch: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """logp of the tokens, logsumexp of the logits they were drawn from, mean logit less logsumexp; (N, L) each."""
        temperature = self.settings.temperature or 1.0

        def distribution(logits: Tensor, targets: Tensor, begin: int) -> tuple[Tensor, Tensor, Tensor]:
            logits = logits / temperature
            total = logits.logsumexp(-1)
            return logits.gather(-1, targets[:, None]).squeeze(-1) - total, total, logits.mean(-1) - total

        features = token_features(self.language, batch.tokens, batch.mask, self.packing)
        found = each_chunk(self.language, features, batch.tokens[batch.mask], distribution)
        logp, total, mean = (spread(column, batch.mask) for column in found)
        return logp, total, mean


class RoverConfig(LanguageAlgorithmConfig):
    """ROVER: values of the uniformly random policy, relative to those before the update."""

    objective: Word = {"name": "rover", "rho": 1.0, "next_q_coef": 1.0}
    """Squared Bellman residual of Q = rho (log pi - log pi_old). Usual: next_q_coef 0.2-1."""
    advantage: Word = "dr_grpo"
    """Reward - group mean: the reward of every token."""
    old_logp: str = Field("recompute", pattern="^recompute$")
    """The weights before the update: values are relative to them, over the whole vocabulary."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: the logits are values, and their spread is that of the values."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in a pass. The first one is Dr. GRPO's; the later ones regress, where others clip."""


@register.algorithm(
    "rover",
    paper="ROVER: Random Policy Valuation, 2025",
    entries=[62],
)
class Rover(WholeVocabulary):
    """Random policy valuation: in a tree with rewards at its leaves, what the random policy values, the best one does.

    The target bootstraps from the mean over the whole vocabulary at the next token, so float32 is needed.
    """

    Config: ClassVar[type[AlgorithmConfig]] = RoverConfig

    @torch.no_grad()
    def rescored(self, batch: Columns) -> Columns:
        rows = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        found = [self.logit_columns(batch[index]) for index in rows]
        logp, _, mean = (torch.cat(column) for column in zip(*found, strict=True))
        return batch.with_(old_logp=logp, old_mean_logp=mean)

    def learned(self, part: Columns) -> Columns:
        logp, _, mean = self.logit_columns(part)
        return part.with_(logp=logp, mean_logp=mean.detach())


class TBRMConfig(LanguageAlgorithmConfig):
    """TBRM: the squared Bellman residual of a whole answer."""

    group_size: int = Field(1, ge=1)
    """Answers to each prompt. The model's own value of the prompt is the baseline, so one is enough."""
    objective: Word = {"name": "tbrm", "beta": 0.002}
    """(V(prompt) + log pi - reward / beta - log pi_ref)^2, summed along the answer. `beta` is what a nat away from the
    reference costs. Usual: 0.001-0.002 for long answers, 0.05-0.5 for short ones."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: entropy is in the equation, weighted by `beta` of the objective."""
    advantage: Word = "reinforce"
    """Not read by the loss: shown in the curves."""


@register.algorithm("tbrm", paper="Trajectory Bellman Residual Minimization, 2025", entries=[65])
class TBRM(WholeVocabulary):
    """Trajectory Bellman residual minimization: one answer a prompt, from any policy, without ratio or clip.

    Raw logits are Q / beta and their logsumexp V / beta. Along an answer the values telescope, and only the first one
    stays: a baseline that the model learns in the place of its logits' free constant.
    """

    Config: ClassVar[type[AlgorithmConfig]] = TBRMConfig

    def learned(self, part: Columns) -> Columns:
        logp, total, _ = self.logit_columns(part)
        first = part.mask & (part.mask.cumsum(1) == 1)
        return part.with_(logp=logp, start_value=masked(total, first).sum(1))
