"""FlowRL: a policy in proportion to the exponential of the reward.

pi*(y | x) = pi_ref(y | x) exp(beta r(x, y)) / Z(x). A small network on the prompt learns log Z while the policy learns
to balance the equation on every answer, with log-probabilities per token.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.language.algorithms.base import ComponentConfig
from distrl.language.algorithms.heads import TokenHeadAlgorithm, TokenHeadConfig
from distrl.language.chain.aggregation import aggregate
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_features import preceding
from distrl.language.models.token_logp import token_logp


class FlowRLConfig(TokenHeadConfig):
    """FlowRL: trajectory balance against the first weights.

    Rows go through the model padded, whatever `packing` says: log Z reads the hidden states of whole prompts.
    """

    objective: ComponentConfig = {"name": "flowrl", "beta": 15.0, "clip_low": 0.2, "clip_high": 0.28}
    """Squared imbalance, weighted by the clipped ratio of the whole answer. `beta`: how sharply reward counts."""
    advantage: ComponentConfig = "grpo"
    """The reward as the flow sees it, normalized in its group."""
    head_learning_rate: Scheduled[float] = Field(1e-3, ge=0)
    """Step size of the partition network; `learning_rate` is that of the language model. Usual: 1e-4 to 1e-3."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: the balance itself keeps answers varied, by `beta` of the objective."""
    partition_trunk: bool = True
    """The partition's gradient reaches the trunk; false: only its own network learns from it."""


class Partition(nn.Module):
    """log Z from the mean hidden state of a prompt, (N, D) to (N,); 0 at the start.

    The published network has dropout between the layers; here sampler and learner must agree, and there is none.
    """

    def __init__(self, width: int):
        super().__init__()
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            *(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)),
            *(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)),
            last,
        )

    def forward(self, prompt: Tensor) -> Tensor:
        return self.layers(prompt).squeeze(-1)


@register.algorithm("flowrl", paper="FlowRL: Matching Reward Distributions for LLM Reasoning, 2025", entries=[82])
class FlowRL(TokenHeadAlgorithm):
    """Flow matching of the reward's distribution with a learned partition function."""

    Config = FlowRLConfig
    loss_terms = ("policy/log_z",)

    @classmethod
    def build_model(cls, *described: Any, **options: Any) -> LanguageModel:
        language = super().build_model(*described, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options["seed"])
            language.partition = Partition(language.config.hidden_size)
        return language

    def forward(self, part: Columns) -> Columns:
        """Log-probabilities (N, L) and log Z (N,), of one forward pass."""
        hidden = self.language.hidden(part.tokens)
        features = preceding(hidden, part.mask)
        logp, _ = token_logp(self.language, part.tokens, part.mask, self.scoring(part), features=features)
        prompt = prompt_mean(hidden if self.config.partition_trunk else hidden.detach(), part.mask)
        partition: Any = self.language.partition
        return part.with_(logp=logp, log_z=partition(prompt))

    def loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        return self.objective.loss(part), [aggregate(part.log_z, part.row_weight)]


def prompt_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean hidden state (N, D) of the tokens before the first trainable one."""
    before = (mask.cumsum(1) == 0) & mask.any(1, keepdim=True)
    total = (hidden * before[..., None]).sum(1)
    return total / before.sum(1, keepdim=True).clamp(min=1)
