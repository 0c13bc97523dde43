"""bfloat16 in hidden layers; last layers, distributions and losses stay in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from distrl.base.errors import ConfigError


class HiddenPrecision:
    """Mixin of modules whose hidden layers can compute in bfloat16, if `bf16` is set."""

    bf16 = False

    def hidden_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of hidden layers; cast their outputs to float32 afterwards."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


def hidden_layers_in_bf16(model: nn.Module) -> None:
    """Switch the hidden layers of a model to bfloat16; refuse a model without such layers."""
    able = [module for module in model.modules() if isinstance(module, HiddenPrecision)]
    if not able:
        raise ConfigError(
            f"learner.precision is bf16; the networks of {type(model).__name__} compute in float32 only.",
            "Set learner.precision=fp32. A network of your own inherits from HiddenPrecision.",
        )
    for module in able:
        module.bf16 = True
