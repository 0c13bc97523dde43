"""Supervised fine-tuning in the same loop: fragments hold a task's demonstrations instead of the model's answers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.base.seeds import seed_for
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word
from distrl.language.chain.aggregation import aggregate
from distrl.language.losses.supervised import draw_tokens
from distrl.language.models.token_features import each_chunk, spread, token_features
from distrl.language.models.token_logp import token_logp


class SFTConfig(LanguageAlgorithmConfig):
    """Supervised fine-tuning on a task's demonstrations; of `file`, on prompts and answers of files."""

    group_size: int = Field(1, ge=1, le=1)
    """A prompt has one demonstration."""
    objective: Word = "sft"
    """-log pi of the demonstration's tokens. Prompts are not learned."""
    micro_batch: int = Field(64, ge=1)
    """Rows that go through the model at once: less memory, same gradient."""


@register.algorithm("sft", paper="maximum likelihood on demonstrations")
class SFT(LanguageAlgorithm):
    """Supervised fine-tuning: maximum likelihood of right answers.

    A batch is `task.prompts * rollout_steps` items, in passes over the task's training items. Samplers do not generate,
    so data have no age; evaluation does. Streams, ledger, resume and deterministic mode are those of every run.
    """

    Config: ClassVar[type[AlgorithmConfig]] = SFTConfig
    demonstrations: ClassVar[bool] = True
    movement_curves = ()  # there is no behavior policy to have moved from

    def begin(self, parts: Any, settings: Any) -> None:
        config = self.schedules
        if config.beta or config.credit is not None or config.reward or config.old_logp != "behavior":
            raise ConfigError(
                f"algorithm {config.name} has demonstrations and no answers: there are no rewards, credits, "
                "divergences or old log-probabilities.",
                "Remove algorithm.reward, credit, beta and old_logp.",
            )
        super().begin(parts, settings)

    @torch.no_grad()
    def prepare(self, batch: Columns) -> Columns:
        return batch.with_(number=torch.arange(len(batch.tokens), device=batch.tokens.device))

    def token_logp_and_entropy(
        self, batch: Columns, temperature: float | Tensor = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """At temperature 1 over the whole vocabulary, however answers are drawn at evaluations."""
        return token_logp(self.language, batch.tokens, batch.mask, packing=self.packing, entropy=entropy)

    def movement_sums(self, part: Columns) -> list[Tensor]:
        return []

    def curves(self, batch: Columns) -> dict[str, float]:
        return {"text/length": float(batch.mask.sum(1).double().mean())}


class OneTokenRolloutConfig(SFTConfig):
    """One-token rollout: the policy draws at every position, and the demonstration is the judge."""

    objective: Word = {"name": "one_token_rollout", "other": -0.1}
    """Reward 1 for drawing the given token, `other` for any else. `{name: one_token_rollout_exact}` takes the
    expectation over all draws, for small vocabularies; then `temperature` is its own option."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: the loss reads tokens that were drawn for it, and no entropy of distributions."""
    draws: int = Field(256, ge=1)
    """K, tokens drawn at each position. Usual: 256."""
    draw_temperature: float = Field(1.3, gt=0)
    """kappa, temperature of the draws; log-probabilities are those at temperature 1."""


@register.algorithm("one_token_rollout", paper="One-Token Rollout: Guiding Supervised Fine-Tuning, 2025", entries=[248])
class OneTokenRollout(SFT):
    """Supervised fine-tuning as a policy gradient of one token: nothing is learned that the policy would hardly say."""

    Config: ClassVar[type[AlgorithmConfig]] = OneTokenRolloutConfig

    def begin(self, parts: Any, settings: Any) -> None:
        super().begin(parts, settings)
        link = self.objective.objective
        if "logits" not in link.reads:
            raise ConfigError(
                f"algorithm one_token_rollout cannot use objective {link.name}.",
                "Choose one_token_rollout or one_token_rollout_exact, or algorithm.name=sft.",
            )
        self.draw_seed = 0

    def prepare(self, batch: Columns) -> Columns:
        self.draw_seed = int(self.rng.integers(2**31))
        return super().prepare(batch)

    def weighted(self, minibatch: Columns) -> Columns:
        self.draw_seed = seed_for(self.draw_seed, "next minibatch")
        return super().weighted(minibatch)

    def learned(self, part: Columns) -> Columns:
        """The loss of every token (N, L). Draws are named by minibatch and first row: all processes make the same."""
        link = self.objective.objective
        first_row = int(part.number[0]) if len(part.number) else 0

        def distribution(logits: Tensor, targets: Tensor, begin: int) -> tuple[Tensor]:
            given = [targets]
            if "drawn" in link.reads:
                generator = torch.Generator(logits.device).manual_seed(
                    seed_for(self.draw_seed, "draws", first_row, begin)
                )
                given.append(draw_tokens(logits, self.config.draws, self.config.draw_temperature, generator))
            everything = torch.ones_like(targets, dtype=torch.bool)
            return (link.function(logits, *given, everything, **link.options),)

        features = token_features(self.language, part.tokens, part.mask, self.packing)
        (loss,) = each_chunk(self.language, features, part.tokens[part.mask], distribution)
        return part.with_(token_loss=spread(loss, part.mask))

    def part_loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        return aggregate(part.token_loss, part.sum_weight), []
