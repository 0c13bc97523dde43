"""Truncated quantile critics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distrl.base.registry import register
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.actor_critic.sac import SAC, SACConfig


class TQCConfig(SACConfig):
    """SAC with quantile critics whose pooled targets lose their largest atoms.

    The paper takes five critics of three layers of 512 units; two of 256-256 are close at a third of the cost.
    """

    critic_head: ReturnHeadConfig = Field(default_factory=lambda: ReturnHeadConfig(name="quantile", size=25))
    """What a critic says about the return: atoms are what is truncated. Usual: `{name: quantile, size: 25}`."""
    ensemble: Literal["min", "mean", "truncate", "quantile_min", "subset"] = "truncate"
    """How the critics' laws make one target. TQC is `truncate`, with `drop` atoms per critic."""


@register.algorithm(
    "tqc",
    paper="Controlling Overestimation Bias with Truncated Mixture of Continuous Distributional Quantile Critics, "
    "Kuznetsov et al. 2020",
    entries=[77],
)
class TQC(SAC):
    """Truncated quantile critics. Kuznetsov et al. 2020, eq. 10-14: the actor sees the mean of all atoms."""

    Config = TQCConfig
