"""Base of algorithms that read the logits of the whole vocabulary as values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.models.token_features import each_chunk, spread, token_features


class WholeVocabulary(LanguageAlgorithm):
    """An algorithm that reads more of the logits than the chosen tokens' log-probabilities."""

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        if settings.top_p < 1.0 or settings.top_k > 0:
            raise ConfigError(
                f"algorithm {self.config.name} reads the logits of the whole vocabulary as values, but language.top_p "
                f"{settings.top_p:g} and top_k {settings.top_k} leave some tokens out.",
                "Set language.top_p=1 and language.top_k=0.",
            )

    def logit_columns(self, batch: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """Compute logp, logsumexp of the logits, and mean logit less logsumexp; (N, L) each."""
        temperature = self.settings.temperature or 1.0

        def distribution(logits: Tensor, targets: Tensor, begin: int) -> tuple[Tensor, Tensor, Tensor]:
            logits = logits / temperature
            total = logits.logsumexp(-1)
            return logits.gather(-1, targets[:, None]).squeeze(-1) - total, total, logits.mean(-1) - total

        features = token_features(self.language, batch.tokens, batch.mask, self.packing)
        found = each_chunk(self.language, features, batch.tokens[batch.mask], distribution)
        logp, total, mean = (spread(column, batch.mask) for column in found)
        return logp, total, mean
