"""Section `model`: the networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from distrl.config.sections.base import Section


class ModelConfig(Section):
    """The networks of policy and critic."""

    torso: str = Field("auto", min_length=1)
    """Network from observations to features: `auto` (by the observation space), `mlp`, `nature_cnn`, `impala_resnet`,
    a registered name, or `module:Class`."""
    hidden: list[int] = [64, 64]
    """Units of the hidden layers of an MLP (after the convolutions, for images). Usual: 1-3 layers of 64-512."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu", "leaky_relu"] = "tanh"
    """Nonlinearity of the hidden layers. `tanh` suits small control networks, `relu` images and large networks."""
    recurrent: Literal["gru", "lstm"] | None = None
    """Memory between the features and the heads, for environments that hide part of their state."""
    recurrent_size: int = Field(64, ge=1)
    """Units of the memory. Only with `recurrent`. Usual: 32-512."""
    shared: bool = False
    """Policy and critic share their torso: cheaper, and usual for images; separate ones learn more safely elsewhere."""
    log_std_init: float = Field(0.0, ge=-10, le=3)
    """First log standard deviation of a Gaussian policy. Lower explores less. Usual: -2 to 0.5."""

    @field_validator("hidden")
    @classmethod
    def _positive_units(cls, value: list[int]) -> list[int]:
        if any(units < 1 for units in value):
            raise ValueError(f"is {value}; every layer needs at least 1 unit")
        return value
