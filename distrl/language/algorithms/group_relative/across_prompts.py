"""Advantages that look beyond a prompt's own answers: bundles of prompts, and the prompt among the batch's prompts.

A group whose answers are all right, or all wrong, teaches nothing by comparison with itself. Both methods here let it
teach: RiskPO by the scores of several prompts together, COPO by the prompt's mean reward against that of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.advantages.batch import copo_global
from distrl.language.advantages.bundles import paper_scores, track_quantile
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word
from distrl.language.chain.groups import Groups
from distrl.language.losses.group import consistency_weight


class RiskPOConfig(LanguageAlgorithmConfig):
    """RiskPO: value at risk of the scores of bundles of prompts; the worst papers count most."""

    advantage: Word = "riskpo_mvar"
    """Mixed value at risk, with the options `tail_weight`, `credit`, `natural_baseline`, `risk_seeking`."""
    bundle_size: int = Field(4, ge=1)
    """Prompts in a bundle; the batch's prompts are a multiple of it. The paper: 5."""
    levels: tuple[float, float] = (0.2, 0.8)
    """Lower tail and upper end of the range, as levels of the scores' distribution. Usual: 0.2 and 0.8 or 0.9."""
    mode: Literal["track", "batch", "mix"] = "track"
    """Whose quantiles count: those tracked over training, the batch's own, or the means of both."""
    quantile_rate: float = Field(0.1, gt=0, le=1)
    """Step size of the tracked quantiles. Usual: 0.1."""


@register.algorithm("riskpo", paper="RiskPO: Risk-based Policy Optimization, 2025", entries=[94])
class RiskPO(LanguageAlgorithm):
    """Mixed value at risk over bundles of prompts, with quantiles that are tracked over training."""

    Config: ClassVar[type[AlgorithmConfig]] = RiskPOConfig
    supplied: ClassVar[tuple[str, ...]] = ("a", "b", "low_quantile", "high_quantile", "batch_share")

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        if not 0.0 < config.levels[0] < config.levels[1] < 1.0:
            raise ConfigError(f"algorithm.levels is {config.levels}; expected 0 < low < high < 1.", "Set [0.2, 0.8].")
        self.quantiles: tuple[float, float] | None = None  # tracked; None before the first batch

    def columns(self, batch: Columns) -> Columns:
        groups, size = Groups(batch.group), self.config.bundle_size
        if len(groups) % size or bool((groups.count != groups.count[0]).any()):
            sizes = sorted(set(groups.count.tolist()))
            raise ConfigError(
                f"riskpo: {len(groups)} prompts with {sizes} answers do not make bundles of {size} prompts with as many"
                " answers each.",
                "Set algorithm.bundle_size to a divisor of task.prompts x algorithm.rollout_steps.",
            )
        return batch.with_(bundle=groups.row // size, draw=groups.places())

    def numbers(self) -> dict[str, float | None]:
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

    def state(self) -> dict[str, Any]:
        return {**super().state(), "quantiles": self.quantiles}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.quantiles = state["quantiles"]


class COPOConfig(LanguageAlgorithmConfig):
    """COPO: the more a prompt's answers agree, the more its mean reward counts, against the batch's other prompts."""

    objective: Word = "copo"
    """Two clipped losses, blended by how much the answers agree."""
    aggregation: Word = "group_mean"
    """Every prompt counts alike."""
    steepness: float = Field(3.0, gt=0)
    """How sharply the blend goes from global to local. Large: a switch."""
    threshold: float = 1.0
    """Entropy of a prompt's answers, in nats, at which both count alike. Below 0 with a large steepness: GRPO."""
    forced: bool = False
    """Only the global loss where all answers of a prompt have one reward."""
    entropy_penalty: float = Field(0.0, ge=0)
    """Mean rewards are multiplied by 1 - this * entropy of the answers. Usual: 0."""


@register.algorithm("copo", paper="COPO: Consistency-Aware Policy Optimization, 2025", entries=[108])
class COPO(LanguageAlgorithm):
    """GRPO's loss blended with one of the prompt's place among the batch's prompts."""

    Config: ClassVar[type[AlgorithmConfig]] = COPOConfig

    def columns(self, batch: Columns) -> Columns:
        config = self.config
        return batch.with_(
            global_advantage=copo_global(
                batch.reward, batch.group, batch.answer, entropy_penalty=config.entropy_penalty
            ),
            local_weight=consistency_weight(
                batch.answer,
                batch.group,
                batch.reward,
                steepness=config.steepness,
                threshold=config.threshold,
                forced=config.forced,
            ),
        )

    def curves(self, batch: Columns) -> dict[str, float]:
        """Answers that teach nothing are those that both terms pass by."""
        found = super().curves(batch)
        found["text/zero_advantage_share"] = float((blended(batch) == 0).double().mean())
        found["text/local_weight"] = float(batch.local_weight.double().mean())
        return found


def blended(batch: Columns) -> Tensor:
    """The advantage that both of COPO's terms have together while the ratio is 1. (N,)."""
    weight = batch.local_weight
    return torch.lerp(batch.global_advantage.to(weight), batch.advantage.to(weight), weight)
