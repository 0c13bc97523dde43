"""RAPO: forward divergence from a reference that is flattened where answers fail."""

from __future__ import annotations

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.chain.divergences import rapo_trust


class RAPOConfig(LanguageAlgorithmConfig):
    """RAPO: a forward divergence to a reference that is flattened where the answer was bad."""

    divergence: ComponentConfig | None = "rapo_forward_kl"
    """KL(reweighted reference || policy)."""
    beta: float = Field(1e-2, ge=0)
    """Weight of the divergence. Usual: 1e-3 to 1e-2."""
    entropy_coef: float = Field(1e-3, ge=0)
    """Weight of the entropy bonus. Usual: 1e-3."""
    least_trust: float = Field(0.5, ge=0, le=1)
    """The reference's logits are multiplied by this for answers with reward 0, by 1 for those with reward 1, and by
    what lies between for others. 1: the reference as it is; 0: all tokens alike."""


@register.algorithm("rapo", paper="RAPO: RL exploration for reasoning, 2025", entries=[142])
class RAPO(LanguageAlgorithm):
    """GRPO with a forward KL to a reference that is flattened where answers fail."""

    Config = RAPOConfig

    def add_columns(self, batch: Columns) -> Columns:
        if "tempered_ref_logp" not in self.reads:
            return batch
        trust = rapo_trust(batch.value.clamp(0.0, 1.0), self.config.least_trust)
        with self.reference_weights():  # phi logits is the distribution at temperature 1 / phi
            return batch.with_(tempered_ref_logp=self.scored(batch, (1.0 / trust).float()))
