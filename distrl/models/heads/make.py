"""Factory of return heads."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from distrl.config.sections.heads import ReturnHeadConfig
from distrl.functional.distributions.base import make_return_distribution
from distrl.models.heads.base import LinearHead, MakeLinear, ReturnHead
from distrl.models.heads.implicit import FractionHead, ImplicitHead


def make_return_head(
    config: ReturnHeadConfig | str,
    feature_size: int,
    actions: int = 1,
    dueling: bool = False,
    make_linear: MakeLinear = nn.Linear,
) -> ReturnHead:
    """Build the head of a config or family name; critics of states or actions have `actions` 1."""
    if isinstance(config, str):
        config = ReturnHeadConfig.model_validate(config)
    distribution = make_return_distribution(config.name, **config.options())
    kinds: dict[str, Callable[..., ReturnHead]] = {
        "linear": LinearHead,
        "implicit": ImplicitHead,
        "fractions": FractionHead,
    }
    head_class = kinds[distribution.head]
    options = config.network_options()
    return head_class(distribution, feature_size, actions, dueling and actions > 1, make_linear, **options)
