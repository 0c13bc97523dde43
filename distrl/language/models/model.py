"""Causal language model with its tokenizer.

    model = load_language_model(config.language, seed=0, alphabet=task.alphabet)
    hidden = model.hidden(tokens)                            # (N, L, D), the trunk's last layer
    logp, entropy = token_logp(model, tokens, mask)          # language/models/token_logp.py

Full logits of a batch never exist: the head is applied to `hidden` in chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.language.models.tokenizers import TextTokenizer
from distrl.models.heads.base import ReturnHead
from distrl.models.heads.make import make_return_head

#: Objects of transformers and peft: their attributes depend on the model.
HubModule: TypeAlias = Any
HubConfig: TypeAlias = Any


class LanguageModel(nn.Module):
    """A causal language model of transformers with its tokenizer.

    Args:
        network: A model of transformers; dropout is switched off.
        context: Longest sequence in tokens.
        dtype: Precision of the layers, may be changed later; parameters, the residual stream, norms and distributions
            are in float32.
        critic_head: Return distribution of every token, computed from the trunk.

    Attributes:
        extras: Arrays published with the weights, for samplers (`language/models/weights.py`).
    """

    def __init__(
        self,
        network: HubModule,
        tokenizer: TextTokenizer,
        context: int,
        dtype: torch.dtype = torch.float32,
        critic_head: ReturnHeadConfig | str | None = None,
    ):
        super().__init__()
        self.network, self.tokenizer, self.context, self.dtype = network, tokenizer, context, dtype
        _no_dropout(network)
        self.extras: dict[str, np.ndarray] = {}
        self.critic: ReturnHead | None = None
        if critic_head is not None:
            self.critic = make_return_head(critic_head, network.config.hidden_size)

    @property
    def policy(self) -> LanguageModel:
        """The acting part: the whole model."""
        return self

    @property
    def config(self) -> HubConfig:
        """Config of transformers."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @property
    def head_weight(self) -> Tensor:
        """Weight (V, D) of the output layer."""
        return self.network.get_output_embeddings().weight

    @property
    def head_bias(self) -> Tensor | None:
        """Bias (V,) of the output layer, if any."""
        return getattr(self.network.get_output_embeddings(), "bias", None)

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Compute the trunk's last layer, after its norm: (N, L, D) float32.

        Args:
            tokens: (N, L) int64, padded on the right.
            positions: (N, L) int64. Default: 0, 1, 2, ...
            visible: (N, L, L) bool, the keys (last) that each query sees. Default: the past of its row.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        mask = None if visible is None else visible[:, None]
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.network.base_model(
                input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
            )
        return out.last_hidden_state.float()

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the output layer to hidden states (..., D), a few rows at a time: (..., V) float32."""
        weight, bias = self.head_weight, self.head_bias
        if self.dtype == torch.float32:
            return F.linear(hidden, weight, bias)
        return F.linear(
            hidden.to(self.dtype), weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        ).float()

    def value_params(self, hidden: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute parameters (..., P) of each token's return distribution (`critic.distribution`)."""
        if self.critic is None:
            raise ConfigError("the language model has no critic.", "Set language.critic_head, for example to scalar.")
        return self.critic(hidden, noise).squeeze(-2)

    @contextlib.contextmanager
    def reference(self) -> Iterator[LanguageModel]:
        """Switch the adapters off inside the block; raise ConfigError without adapters."""
        layers = adapter_layers(self.network)
        if not layers:
            raise ConfigError("the language model has no adapters to switch off.", "Set language.lora={rank: 16}.")
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield self
        finally:
            for layer in layers:
                layer.enable_adapters(True)
                for parameter in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
                    parameter.requires_grad_(True)


def attention_shape(config: HubConfig) -> tuple[int, int]:
    """Return the number of key-value heads and the width of a head."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return groups, getattr(config, "head_dim", None) or config.hidden_size // heads


def adapter_layers(network: nn.Module) -> list[HubModule]:
    """Return the layers with LoRA adapters."""
    return [module for module in network.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]


def _no_dropout(network: HubModule) -> None:
    """Switch dropout off: sampler and learner must compute the same distribution."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
