"""Distributional soft actor-critic with Gaussian critics."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.actor_critic.sac import SAC, SACConfig
from distrl.functional.distributions.gaussian import Gaussian, gaussian_loss
from distrl.models.parameters.trained import TrainedModule

#: Added to the denominators of both gradients, and to their scale (the authors' code).
EPSILON = 0.1


class DSACConfig(SACConfig):
    """Keys of `sac` and the refinements of DSAC-T.

    The first version has `critics: 1`, `clip_sigmas: null`, `scale_gradients: false` and
    `critic_head: {name: gaussian, sigma_min: 1, clip: 10}`.
    """

    critic_head: ReturnHeadConfig = Field(default_factory=lambda: ReturnHeadConfig(name="gaussian"))
    """Return distribution of the critics: always `gaussian`; its keys may be set."""
    clip_sigmas: float | None = Field(3.0, gt=0)
    """Bound on target errors in the gradient of sigma, in running means of sigma; null takes the head's `clip`.
    Usual: 3."""
    scale_gradients: bool = True
    """Multiply both gradients by the running mean of sigma, squared: step sizes no longer depend on the scale of
    rewards."""

    @model_validator(mode="after")
    def _gaussian_only(self) -> DSACConfig:
        if self.critic_head.name != "gaussian":
            raise ConfigError(
                f"algorithm.critic_head is {self.critic_head.name}; dsac learns Gaussian critics.",
                "Use dsac_quantile, tqc, or sac with any head.",
            )
        return self


@register.algorithm(
    "dsac",
    paper="Distributional Soft Actor-Critic, Duan et al. 2021, and with three refinements, Duan et al. 2023",
    entries=[100],
)
class DSAC(SAC):
    """Distributional soft actor-critic. Duan et al. 2021 and 2023 (DSAC-T).

    The expectation over the target distribution takes the place of one drawn return: the same mean, with less noise.
    """

    Config = DSACConfig
    distribution: Gaussian

    def make_modules(self) -> dict[str, TrainedModule]:
        modules = super().make_modules()
        # zero: nothing seen yet
        self.model.register_buffer("sigma", torch.zeros(self.config.critics, 1, device=self.device))
        self.sigma: Tensor = self.model.sigma
        self._sigma_before = self.sigma.clone()
        return modules

    def critic_losses(self, params: Tensor, values: Tensor, probs: Tensor) -> Tensor:
        mean, sigma = self.distribution.split(params)
        self._track_sigma(sigma.detach().mean(1, keepdim=True))
        clip: float | Tensor | None = self.distribution.clip
        scale: float | Tensor = 1.0
        if self.config.clip_sigmas is not None:
            clip = self.config.clip_sigmas * self.sigma
        if self.config.scale_gradients:
            scale = self.sigma.square() + EPSILON
        return gaussian_loss(mean, sigma, values, probs, clip=clip, scale=scale, eps=EPSILON)

    def _track_sigma(self, newest: Tensor) -> None:
        """Update the running mean (E, 1) of each critic's sigma; the first batch initializes it."""
        moved = torch.lerp(self.sigma, newest, self.config.tau)
        self.sigma.copy_(torch.where(self.sigma > 0, moved, newest))

    def begin_steps(self) -> None:
        super().begin_steps()
        self._sigma_before.copy_(self.sigma)

    def rollback(self) -> None:
        super().rollback()
        self.sigma.copy_(self._sigma_before)

    def reset_networks(self, seed: int) -> None:
        super().reset_networks(seed)
        self.sigma.zero_()

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        return super().diagnose(rollout) | {"policy/sigma": float(np.mean(self.sigma.tolist()))}
