"""Entropy control of the policy: a flattened reference (RAPO), and a target entropy (DCPO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.advantages.token import correct_share_weight, virtual_temperature
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word
from distrl.language.chain.divergences import rapo_trust


class RAPOConfig(LanguageAlgorithmConfig):
    """RAPO: a forward divergence to a reference that is flattened where the answer was bad."""

    divergence: Word | None = "rapo_forward_kl"
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
    """GRPO that covers what the reference can do: trusted where answers succeed, flattened where they fail."""

    Config: ClassVar[type[AlgorithmConfig]] = RAPOConfig

    def columns(self, batch: Columns) -> Columns:
        if "tempered_ref_logp" not in self.reads:
            return batch
        trust = rapo_trust(batch.value.clamp(0.0, 1.0), self.config.least_trust)
        with self.reference_weights():  # phi logits is the distribution at temperature 1 / phi
            return batch.with_(tempered_ref_logp=self.scored(batch, (1.0 / trust).float()))


class DCPOConfig(LanguageAlgorithmConfig):
    """DCPO: correct answers also train the policy at another temperature, which keeps its entropy."""

    advantage: Word = "dcpo_entropy"
    """GRPO's, mixed with how much likelier a right answer's token is at the other temperature."""
    target_entropy: float = Field(0.25, ge=0)
    """Mean entropy of a token's distribution that is held, in nats. Usual: 0.25 to 1."""


@register.algorithm("dcpo", paper="Distribution-Centric Policy Optimization, 2025", entries=[209])
class DCPO(LanguageAlgorithm):
    """Entropy control without an entropy term: a hotter self teaches while entropy is too low, else a colder one.

    Sampling stays at the run's temperature; the other distribution enters by its ratio alone.
    """

    Config: ClassVar[type[AlgorithmConfig]] = DCPOConfig
    supplied: ClassVar[tuple[str, ...]] = ("entropy", "target")
    measures_entropy: ClassVar[bool] = True

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        self.last_entropy: float | None = None  # of the last update; None before the first, which is GRPO's

    def numbers(self) -> dict[str, float | None]:
        target = self.config.target_entropy
        return {"entropy": target if self.last_entropy is None else self.last_entropy, "target": target}

    def columns(self, batch: Columns) -> Columns:
        if "tempered_ratio" not in self.reads:
            return batch
        entropy, target = self.numbers().values()
        assert entropy is not None
        assert target is not None
        now = batch.old_logp if self.config.old_logp == "recompute" else self.scored(batch)
        change = self.scored(batch, virtual_temperature(entropy, target)) - now
        return batch.with_(tempered_ratio=change.exp())

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        used = self.numbers()["entropy"]
        assert used is not None
        self.last_entropy = metrics["policy/entropy"]
        share = float((batch.reward > 0.05).double().mean())
        return {"policy/tempered_share": correct_share_weight(used, self.config.target_entropy, share)}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "last_entropy": self.last_entropy}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.last_entropy = state["last_entropy"]
