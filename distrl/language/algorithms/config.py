"""Config keys of every language-model algorithm: components and numbers of the update."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.chain.component import ComponentConfig


class LanguageAlgorithmConfig(AlgorithmConfig):
    """Keys of every language-model algorithm."""

    rollout_steps: int = Field(1, ge=1)
    """Items of each prompt line (`task.prompts` of them) in one batch. Usual: 1."""
    group_size: int = Field(8, ge=1)
    """Answers to each prompt, compared with each other. More give a steadier baseline. Usual: 4-64."""
    reward: dict[str, Any] = {}
    """Combination of reward components into one reward: `components: {NAME: {weight, transform, gate}}`, `combination`,
    `gates`, `length`, `shaping`. Default: the first component, success. A weighted sum:
    `components: {success: {}, placed: {weight: 0.5}}`."""
    credit: ComponentConfig | None = None
    """Spreads the reward over tokens, for advantages that read token rewards: `outcome`, `kl_penalized_outcome`, ..."""
    advantage: ComponentConfig = "grpo"
    """Advantage of an answer in its group: a name of `distrl methods`, or `{name: NAME, option: ...}`."""
    objective: ComponentConfig = "token_ppo"
    """The loss of a token, a row or a group."""
    aggregation: ComponentConfig = "token_mean"
    """Weights of token losses in the sum: `token_mean`, `seq_mean_token_mean`, `seq_mean_token_sum_norm`, ..."""
    divergence: ComponentConfig | None = None
    """Distance to the reference model, the first weights: `k1`, `k2`, `k3`, ...; with `beta`."""
    beta: float = Field(0.0, ge=0)
    """Weight of the divergence. Usual: 0 to 0.04."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of an entropy bonus. More keeps answers varied. Usual: 0 to 0.01."""
    correction: ComponentConfig | None = None
    """Weight of tokens whose behavior differs from the policy before the update: `tis`, `icepop`."""
    old_logp: str = Field("behavior", pattern="^(behavior|recompute)$")
    """Log-probabilities that ratios are taken to: those that the sampler recorded, or computed again by the learner,
    with the weights before the update."""
    epochs: int = Field(1, ge=1)
    """Passes over a batch. Usual: 1-2."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps in a pass; groups are not split. Usual: 1-4."""
    micro_batch: int = Field(64, ge=1)
    """Rows that go through the model at once: less memory, same gradient."""
    packing: bool = True
    """Compute what the answers of a group begin with once, and rows of different lengths side by side without padding:
    the same gradient for less work. Off for models without support."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay. Usual: 0-0.1."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off."""

    @model_validator(mode="after")
    def _corrected(self) -> LanguageAlgorithmConfig:
        if self.correction is not None and self.old_logp != "recompute":
            raise ConfigError(
                "algorithm.correction compares the sampler's log-probabilities with the learner's, but "
                "algorithm.old_logp is behavior, so both are the same.",
                "Set algorithm.old_logp=recompute.",
            )
        if self.beta and self.divergence is None:
            raise ConfigError(
                f"algorithm.beta is {self.beta}, but no divergence is chosen.", "Set algorithm.divergence=k3."
            )
        return self
