"""RiskPO: value at risk of the scores of bundles of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.advantages.bundles import paper_scores, track_quantile
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.chain.groups import Groups


class RiskPOConfig(LanguageAlgorithmConfig):
    """RiskPO: value at risk of the scores of bundles of prompts; the worst papers count most."""

    advantage: ComponentConfig = "riskpo_mvar"
    """Mixed value at risk, with the options `tail_weight`, `credit`, `natural_baseline`, `risk_seeking`."""
    bundle_size: int = Field(4, ge=1)
    """Prompts in a bundle; the batch's prompts are a multiple of it. The paper: 5."""
    levels: tuple[float, float] = (0.2, 0.8)
    """Lower tail and upper end of the range, as levels of the scores' distribution. Usual: 0.2 and 0.8 or 0.9."""
    mode: Literal["track", "batch", "mix"] = "track"
    """Source of the quantiles: tracked over training, the batch's own, or the means of both."""
    quantile_rate: float = Field(0.1, gt=0, le=1)
    """Step size of the tracked quantiles. Usual: 0.1."""


@register.algorithm("riskpo", paper="RiskPO: Risk-based Policy Optimization, 2025", entries=[94])
class RiskPO(LanguageAlgorithm):
    """Mixed value at risk over bundles of prompts, with quantiles tracked over training."""

    Config = RiskPOConfig
    supplied = ("a", "b", "low_quantile", "high_quantile", "batch_share")

    quantiles: tuple[float, float] | None = None  # tracked; None before the first batch
    extra_state = ("quantiles",)

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        config = self.schedules
        if not 0.0 < config.levels[0] < config.levels[1] < 1.0:
            raise ConfigError(f"algorithm.levels is {config.levels}; expected 0 < low < high < 1.", "Set [0.2, 0.8].")

    def add_columns(self, batch: Columns) -> Columns:
        groups, size = Groups(batch.group), self.config.bundle_size
        if len(groups) % size or bool((groups.count != groups.count[0]).any()):
            sizes = sorted(set(groups.count.tolist()))
            raise ConfigError(
                f"riskpo: {len(groups)} prompts with {sizes} answers do not make bundles of {size} prompts with as many"
                " answers each.",
                "Set algorithm.bundle_size to a divisor of task.prompts x algorithm.rollout_steps.",
            )
        return batch.with_(bundle=groups.row // size, draw=groups.places())

    def component_arguments(self) -> dict[str, float | None]:
        low, high = self.quantiles if self.quantiles is not None and self.config.mode != "batch" else (None, None)
        a, b = self.config.levels
        share = 0.5 if self.config.mode == "mix" else 0.0
        return {"a": a, "b": b, "low_quantile": low, "high_quantile": high, "batch_share": share}

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        """Move the quantiles towards those of the batch's scores; the first batch's own begin."""
        scores, _ = paper_scores(batch.reward, batch.bundle, batch.draw)
        levels, rate = self.config.levels, self.config.quantile_rate
        if self.quantiles is None or self.config.mode == "batch":
            low, high = (float(scores.quantile(level)) for level in levels)
        else:
            low, high = (
                track_quantile(q, scores, level, rate) for q, level in zip(self.quantiles, levels, strict=True)
            )
        self.quantiles = low, high
        return {"policy/score_low": low, "policy/score_high": high}
