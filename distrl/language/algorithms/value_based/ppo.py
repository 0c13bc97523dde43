"""PPO for tokens: a critic on the language model's trunk estimates the value of every prefix.

A state is a prefix, an action the next token. The critic is evaluated before each token that the policy
chose; advantages are generalized ones from one such token to the next; the critic learns from lambda-targets. Both
losses are one backward pass through the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.config.sections.language import LanguageConfig
from distrl.functional.distributions.base import ReturnDistribution
from distrl.functional.policy.objectives import clipped_value_loss
from distrl.functional.returns.lambda_targets import lambda_atoms, replacement_size
from distrl.functional.returns.state_values import Steps
from distrl.functional.statistics import explained_variance
from distrl.language.algorithms.base import ComponentConfig
from distrl.language.algorithms.heads import TokenHeadAlgorithm, TokenHeadConfig
from distrl.language.chain.aggregation import aggregate, token_mean
from distrl.language.chain.tokens import last_token, lengths, masked, masked_standardize
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_features import compact_mask, spread, token_features
from distrl.language.models.token_logp import token_logp
from distrl.learning.support_watch import SupportWatch

#: Weights of a fresh head, relative to those of other heads.
SMALL = 0.01


class TokenPPOConfig(TokenHeadConfig):
    """PPO with a critic; its head is `language.critic_head`: `scalar` (default), `quantile`, ..."""

    group_size: int = Field(1, ge=1)
    """Answers to each prompt. The critic is the baseline, so one is enough."""
    credit: ComponentConfig | None = "outcome"
    """The reward stands on the last token; `{name: kl_penalized_outcome, beta: 0.05}` puts the reference inside."""
    advantage: ComponentConfig = {"name": "token_gae", "gamma": 1.0, "lam": 0.95}
    """Generalized advantages. Usual: gamma 1; lam 0.95, or 1 where only the outcome pays."""
    normalize_advantage: bool = True
    """Center and scale advantages over all tokens of the batch."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in a pass. Usual: 1-8."""
    value_coef: Scheduled[float] = Field(0.5, ge=0)
    """Weight of the value loss, which also moves the trunk. Usual: 0.1-0.5."""
    critic_trunk: bool = True
    """The value loss's gradient reaches the trunk; false: only the head learns from it."""
    clip_value: float | None = Field(None, gt=0)
    """Clip the value's change to this; for a scalar head. Usual: 0.2-0.5."""
    bootstrap_truncated: bool = False
    """After an answer that was cut at its budget comes the critic's value, not 0. Off, because a cut answer has its
    reward like any other, and a value that nothing ever pays would reward answers without an end."""


@register.algorithm("ppo_tokens", paper="PPO, Schulman et al. 2017; InstructGPT, Ouyang et al. 2022")
class TokenPPO(TokenHeadAlgorithm):
    """Proximal policy optimization of tokens with a critic on the trunk."""

    Config = TokenPPOConfig
    loss_terms: tuple[str, ...] = ("loss/policy", "loss/value")

    @classmethod
    def build_model(cls, *described: Any, **options: Any) -> LanguageModel:
        language = options.get("language")
        if language is not None and language.critic_head is None:
            options["language"] = language.model_copy(update={"critic_head": ReturnHeadConfig()})
        built = super().build_model(*described, **options)
        assert built.critic is not None
        with torch.no_grad():  # an untrained critic gives about the same value to all prefixes
            for layer in built.critic.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(SMALL)
        return built

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        if self.advantage.name != "token_gae":
            raise ConfigError(
                f"algorithm {self.config.name} learns a critic for token_gae, but algorithm.advantage is "
                f"{self.advantage.name}.",
                "Set algorithm.advantage={name: token_gae, lam: 0.95}, or choose an algorithm without a critic: grpo.",
            )
        replacement_size(self.distribution)  # refuses distributions of several rewards
        if self.head.noise_size:
            assert settings.critic_head is not None
            raise ConfigError(
                f"language.critic_head {settings.critic_head.name} learns at random levels, which tokens do not draw.",
                "Use scalar, categorical, two_hot, quantile or gaussian.",
            )
        self.support = SupportWatch(self.distribution, "language.critic_head")
        if self.config.clip_value is not None and self.distribution.param_size != 1:
            raise ConfigError(
                f"algorithm.clip_value is {self.config.clip_value:g}, and the critic is distributional: only values "
                "can be clipped.",
                "Set algorithm.clip_value=null, or language.critic_head=scalar.",
            )

    @property
    def head(self) -> Any:
        return self.language.critic

    @property
    def distribution(self) -> ReturnDistribution:
        """The family of the critic's distributions."""
        return self.head.distribution

    def add_columns(self, batch: Columns) -> Columns:
        """Add the critic's distributions (N, T + 1, P), value (N, L) and bootstrap (N,).

        T counts trainable tokens; one more place is the prefix after the last of them.
        """
        rows = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        distributions = spread(
            torch.cat([self._critic_forward(batch[index]) for index in rows]), compact_mask(_with_end(batch.mask))
        )
        value = self.distribution.mean(distributions)
        count = lengths(batch.mask)
        after = value.gather(1, count[:, None]).squeeze(1)
        goes_on = (
            batch.truncated & (count > 0) if self.config.bootstrap_truncated else torch.zeros_like(batch.truncated)
        )
        return batch.with_(
            distributions=distributions,
            value=spread(value[:, :-1][compact_mask(batch.mask)], batch.mask),
            bootstrap=after.masked_fill(~goes_on, 0.0),
            goes_on=goes_on,
        )

    def _critic_forward(self, batch: Columns) -> Tensor:
        """Distribution parameters (K + N, P) before trainable tokens and after each row's last."""
        ended = _with_end(batch.mask)
        return self.language.value_params(token_features(self.language, batch.tokens, ended, self.packing))

    @torch.no_grad()
    def prepare(self, batch: Columns) -> Columns:
        batch = super().prepare(batch)
        batch = batch.with_(returns=masked(batch.advantage + batch.value, batch.mask))
        if self.support.watching:
            self.support.observe(batch.returns[batch.mask])
        batch = self._with_targets(batch).without("distributions")
        if self.config.normalize_advantage:
            batch = batch.with_(advantage=masked_standardize(batch.advantage, batch.mask))
        return batch

    def _with_targets(self, batch: Columns) -> Columns:
        """Add target_values and target_probs (N, T, M): the critic's lambda-targets.

        Trainable tokens are the time steps, (T, N); what stands after a row's last one is cut off by its end.
        """
        inside = compact_mask(batch.mask)
        places = torch.arange(inside.shape[1], device=inside.device)
        at_end = places >= lengths(batch.mask)[:, None] - 1
        truncated = at_end & batch.goes_on[:, None]
        size = replacement_size(self.distribution)
        uniform = self.rng.random((*inside.T.shape, size), dtype="float32") if size else None
        numbers = {"gamma": 1.0, "lam": 0.95, **self.advantage.options}
        steps = Steps(
            reward=spread(batch.token_reward[batch.mask].float(), inside).T.contiguous(),
            value=batch.distributions[:, :-1].transpose(0, 1).contiguous(),
            next_value=batch.distributions[:, 1:].transpose(0, 1).contiguous(),
            terminated=(at_end & ~truncated).T.contiguous(),
            truncated=truncated.T.contiguous(),
        )
        targets = lambda_atoms(
            self.distribution,
            steps,
            numbers["gamma"],
            numbers["lam"],
            None if uniform is None else torch.from_numpy(uniform).to(self.device),
        )
        values, probs = torch.broadcast_tensors(*targets)
        return batch.with_(target_values=values.transpose(0, 1), target_probs=probs.transpose(0, 1))

    def add_loss_weights(self, minibatch: Columns) -> Columns:
        return super().add_loss_weights(minibatch).with_(token_weight=token_mean(minibatch.mask))

    def forward(self, part: Columns) -> Columns:
        """Log-probabilities (N, L) and the critic's parameters (K, P), of one forward pass."""
        features = token_features(self.language, part.tokens, part.mask, self.packing)
        scoring = self.scoring(part, entropy=self.entropies)
        logp, entropy = token_logp(self.language, part.tokens, part.mask, scoring, features=features)
        critic_output = self.language.value_params(features if self.config.critic_trunk else features.detach())
        part = part.with_(logp=logp, critic_output=critic_output)
        return part if entropy is None else part.with_(entropy=entropy)

    def loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        policy = self.objective.loss(part)
        critic = aggregate(self.value_losses(part), part.token_weight[part.mask])
        return policy + self.config.value_coef * critic, [policy, critic]

    def value_losses(self, part: Columns) -> Tensor:
        """Compute the critic's loss (K,): squared error, cross-entropy, quantile loss ..."""
        inside = compact_mask(part.mask)
        width = part.target_values.shape[1] - inside.shape[1]
        inside = F.pad(inside, (0, width))  # a part may have shorter rows than the batch that targets were made for
        values, probs = part.target_values[inside], part.target_probs[inside]
        if self.config.clip_value is None:
            return self.distribution.loss(part.critic_output, values, probs)
        return clipped_value_loss(
            part.critic_output.squeeze(-1), part.value[part.mask], values.squeeze(-1), self.config.clip_value
        )

    def batch_metrics(self, batch: Columns) -> dict[str, float]:
        explained = explained_variance(batch.value[batch.mask], batch.returns[batch.mask])
        return {**super().batch_metrics(batch), "policy/explained_variance": float(explained)}


def _with_end(mask: Tensor) -> Tensor:
    """(N, L + 1): the mask, and the place after each row's last trainable token."""
    return F.pad(mask, (0, 1)) | F.pad(last_token(mask), (1, 0))
