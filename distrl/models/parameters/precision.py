"""bfloat16 in hidden layers; last layers, distributions and losses stay in float32.

A number in bfloat16 has three decimal digits, too few for action values and log-densities, which are differences of
large numbers; for features they are enough.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from distrl.base.errors import ConfigError


class HiddenPrecision:
    """Mixin of modules whose hidden layers can compute in bfloat16.

    Attributes:
        bf16: They do.
    """

    bf16 = False

    def hidden_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Context in which hidden layers are evaluated; cast their outputs to float32 afterwards."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


def hidden_layers_in_bf16(model: nn.Module) -> None:
    """From now on, and in copies made from now on.

    Raises:
        ConfigError: No network of the model can do it.
    """
    able = [module for module in model.modules() if isinstance(module, HiddenPrecision)]
    if not able:
        raise ConfigError(
            f"learner.precision is bf16; the networks of {type(model).__name__} compute in float32 only.",
            "Set learner.precision=fp32. A network of your own inherits from models.low_precision.HiddenPrecision.",
        )
    for module in able:
        module.bf16 = True
