"""A causal language model, its tokenizer, and what learning needs of both.

    model = load_language_model(config.language, seed=0, alphabet=task.alphabet)
    hidden = model.hidden(tokens)                            # (N, L, D), the trunk's last layer
    logp, entropy = token_logp(model, tokens, mask)          # language/models/token_logp.py

Full logits of a batch never exist: whoever needs them takes `hidden` and the head in chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.language.models.tokenizers import TextTokenizer
from distrl.models.heads.base import ReturnHead
from distrl.models.heads.make import make_return_head


class LanguageModel(nn.Module):
    """A causal language model of transformers with its tokenizer.

    Args:
        network: The model of transformers; dropout is switched off.
        tokenizer: Its tokenizer.
        context: Longest sequence in tokens.
        dtype: What layers compute in. Parameters stay in float32; so do the residual stream, norms and distributions.
        critic_head: A return distribution for every token, computed from the trunk.

    Attributes:
        network, tokenizer, context, dtype: As given; `dtype` may be changed at any time.
        critic: The head, or None.
        extras: Arrays by name that are published with the weights, for samplers; `language/models/weights.py`.
    """

    def __init__(
        self,
        network: Any,
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
        """What acts: all of it."""
        return self

    @property
    def config(self) -> Any:
        """The model's config, of transformers."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @property
    def head_weight(self) -> Tensor:
        """(V, D) of the output layer."""
        return self.network.get_output_embeddings().weight

    @property
    def head_bias(self) -> Tensor | None:
        """(V,) of the output layer, where it has one."""
        return getattr(self.network.get_output_embeddings(), "bias", None)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The trunk's last layer, after its norm: (N, L, D) float32.

        Args:
            tokens: (N, L) int64. Rows are filled up on the right; with segments, anywhere.
            positions: (N, L) int64, counted from 0 in every sequence. Default: from the segments, or 0, 1, 2 ...
            segments: (N, L) int64, the sequence of its row that a token belongs to, -1 for padding: several sequences
                in a row do not see each other. Default: one sequence a row.
            visible: (N, L, L) bool, which keys (last) each query sees, in place of segments; give positions with it.
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
        """The output layer on hidden states (..., D): (..., V) float32. For a few rows at a time."""
        weight, bias = self.head_weight, self.head_bias
        if self.dtype == torch.float32:
            return F.linear(hidden, weight, bias)
        return F.linear(
            hidden.to(self.dtype), weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        ).float()

    def value_params(self, hidden: Tensor, noise: Tensor | None = None) -> Tensor:
        """Parameters (..., P) of each token's return distribution; `critic.distribution` reads them.

        Raises:
            ConfigError: The model has no critic.
        """
        if self.critic is None:
            raise ConfigError("the language model has no critic.", "Set language.critic_head, for example to scalar.")
        return self.critic(hidden, noise).squeeze(-2)

    @contextlib.contextmanager
    def reference(self) -> Iterator[LanguageModel]:
        """The model without its adapters, for as long as the block lasts.

        Raises:
            ConfigError: There are none; keep a frozen copy instead.
        """
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
                for parameter in _adapter_parameters(layer):
                    parameter.requires_grad_(True)


def adapter_layers(network: nn.Module) -> list[Any]:
    """The layers of a network that carry LoRA adapters."""
    return [module for module in network.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]


def _adapter_parameters(layer: Any) -> list[nn.Parameter]:
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]


def _no_dropout(network: Any) -> None:
    """Sampler and learner must compute one distribution, so nothing random may happen in between."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
