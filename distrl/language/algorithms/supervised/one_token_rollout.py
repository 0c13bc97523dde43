"""One-token rollout: supervised fine-tuning as a policy gradient of single tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.base.seeds import seed_for
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import ComponentConfig
from distrl.language.algorithms.supervised.sft import SFT, SFTConfig
from distrl.language.chain.aggregation import aggregate
from distrl.language.losses.supervised import draw_tokens
from distrl.language.models.token_features import each_chunk, spread, token_features


class OneTokenRolloutConfig(SFTConfig):
    """One-token rollout: the policy draws at every position, and the demonstration is the judge."""

    objective: ComponentConfig = {"name": "one_token_rollout", "other": -0.1}
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
    """Supervised fine-tuning as a policy gradient of one token."""

    Config = OneTokenRolloutConfig

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        objective = self.objective.objective
        if "logits" not in objective.reads:
            raise ConfigError(
                f"algorithm one_token_rollout cannot use objective {objective.name}.",
                "Choose one_token_rollout or one_token_rollout_exact, or algorithm.name=sft.",
            )
        self.draw_seed = 0

    def prepare(self, batch: Columns) -> Columns:
        self.draw_seed = int(self.rng.integers(2**31))
        return super().prepare(batch)

    def add_loss_weights(self, minibatch: Columns) -> Columns:
        self.draw_seed = seed_for(self.draw_seed, "next minibatch")
        return super().add_loss_weights(minibatch)

    def forward(self, part: Columns) -> Columns:
        """Add the loss of every token (N, L); draws are seeded by minibatch and first row."""
        objective = self.objective.objective
        first_row = int(part.number[0]) if len(part.number) else 0

        def distribution(logits: Tensor, targets: Tensor, begin: int) -> tuple[Tensor]:
            given = [targets]
            if "drawn" in objective.reads:
                generator = torch.Generator(logits.device).manual_seed(
                    seed_for(self.draw_seed, "draws", first_row, begin)
                )
                given.append(draw_tokens(logits, self.config.draws, self.config.draw_temperature, generator))
            everything = torch.ones_like(targets, dtype=torch.bool)
            return (objective.function(logits, *given, everything, **objective.options),)

        features = token_features(self.language, part.tokens, part.mask, self.packing)
        (loss,) = each_chunk(self.language, features, part.tokens[part.mask], distribution)
        return part.with_(token_loss=spread(loss, part.mask))

    def loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        return aggregate(part.token_loss, part.sum_weight), []
