"""DCPO: entropy held at a target by the policy's own distribution at another temperature."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.advantages.token import correct_share_weight, virtual_temperature
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig


class DCPOConfig(LanguageAlgorithmConfig):
    """DCPO: correct answers also train the policy at another temperature."""

    advantage: ComponentConfig = "dcpo_entropy"
    """GRPO's, mixed with how much likelier a right answer's token is at the other temperature."""
    target_entropy: float = Field(0.25, ge=0)
    """Mean entropy of a token's distribution that is held, in nats. Usual: 0.25 to 1."""


@register.algorithm("dcpo", paper="Distribution-Centric Policy Optimization, 2025", entries=[209])
class DCPO(LanguageAlgorithm):
    """Entropy control by the policy's own distribution at a higher or lower temperature.

    Sampling stays at the run's temperature; the other distribution enters by its ratio alone.
    """

    Config = DCPOConfig
    supplied = ("entropy", "target")
    measures_entropy = True

    last_entropy: float | None = None  # of the last update; None before the first, which is GRPO's
    extra_state = ("last_entropy",)

    def component_arguments(self) -> dict[str, float | None]:
        target = self.config.target_entropy
        return {"entropy": target if self.last_entropy is None else self.last_entropy, "target": target}

    def add_columns(self, batch: Columns) -> Columns:
        if "tempered_ratio" not in self.reads:
            return batch
        entropy, target = self.component_arguments().values()
        assert entropy is not None
        assert target is not None
        now = batch.old_logp if self.config.old_logp == "recompute" else self.scored(batch)
        change = self.scored(batch, virtual_temperature(entropy, target)) - now
        return batch.with_(tempered_ratio=change.exp())

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        used = self.component_arguments()["entropy"]
        assert used is not None
        self.last_entropy = metrics["policy/entropy"]
        share = float((batch.reward > 0.05).double().mean())
        return {"policy/tempered_share": correct_share_weight(used, self.config.target_entropy, share)}
