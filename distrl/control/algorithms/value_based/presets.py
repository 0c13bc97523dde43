"""Named settings of `dqn`: the distributional learners of the literature, and Rainbow."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distrl.base.registry import register
from distrl.config.schedule import Schedule, Scheduled
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.value_based.dqn import DQN, DQNConfig

#: Rainbow's importance weights correct more and more.
RISING: Any = Schedule(0.4, 1.0, 1_000_000)


class C51Config(DQNConfig):
    """Keys of `dqn`, with a categorical head and its Adam."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="categorical", size=51, v_min=-10.0, v_max=10.0)
    """Probabilities of `size` returns from `v_min` to `v_max`, which must hold every return."""
    learning_rate: Scheduled[float] = Field(2.5e-4, ge=0)
    """Step size of Adam. Usual: 6e-5 (pictures) to 2e-3 (small tasks)."""
    adam_eps: float = Field(0.01 / 32, gt=0)
    """Adam's epsilon. Usual: 0.01 / batch size."""


@register.algorithm("c51", paper="A Distributional Perspective on RL, Bellemare et al. 2017", entries=[102])
class C51(DQN):
    """DQN with a categorical return distribution. Bellemare et al. 2017."""

    Config = C51Config


class QRDQNConfig(DQNConfig):
    """Keys of `dqn`, with a quantile head."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="quantile", size=32)
    """`size` equally likely returns. Usual: 10-50 (small tasks) to 200 (pictures)."""


@register.algorithm("qr_dqn", paper="Distributional RL with Quantile Regression, Dabney et al. 2018")
class QRDQN(DQN):
    """DQN with quantiles of the return. Dabney et al. 2018."""

    Config = QRDQNConfig


class IQNConfig(DQNConfig):
    """Keys of `dqn`, with an implicit quantile head."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="iqn", size=8, acting_size=32)
    """`size` random levels while learning, `acting_size` even ones while acting."""


@register.algorithm("iqn", paper="Implicit Quantile Networks, Dabney et al. 2018", entries=[3])
class IQN(DQN):
    """DQN with the quantile function of the return as a network. Dabney et al. 2018."""

    Config = IQNConfig


class FQFConfig(DQNConfig):
    """Keys of `dqn`, with learned quantile fractions."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="fqf", size=32)
    """`size` fractions, whose widths are learned."""


@register.algorithm("fqf", paper="Fully Parameterized Quantile Function, Yang et al. 2019")
class FQF(DQN):
    """DQN with quantiles at learned fractions. Yang et al. 2019."""

    Config = FQFConfig


class MD3QNConfig(DQNConfig):
    """Keys of `dqn`, with a joint law over reward channels."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="joint", size=32, channels=2)
    """`size` equally likely vectors of `channels` returns; acting maximizes their sum, or the mean under `weights`."""


@register.algorithm(
    "md3qn",
    paper="Distributional RL for Multi-Dimensional Reward Functions, Zhang et al. 2021",
    entries=[14],
)
class MD3QN(DQN):
    """DQN with the joint law of several reward channels, by maximum mean discrepancy. Zhang et al. 2021."""

    Config = MD3QNConfig


class RainbowConfig(C51Config):
    """Everything on: double, dueling, prioritized, 3 steps, noisy, categorical (CB8)."""

    learning_rate: Scheduled[float] = Field(6.25e-5, ge=0)
    """Step size of Adam. Usual: 6e-5 (pictures) to 1e-3 (small tasks)."""
    adam_eps: float = Field(1.5e-4, gt=0)
    """Adam's epsilon. Usual: 1.5e-4."""
    batch_size: int = Field(32, ge=1)
    """Transitions of one gradient step. Usual: 32-128."""
    replay_ratio: float = Field(0.25, gt=0, le=1000)
    """Gradient steps per environment step. Usual: 0.25-1."""
    target_interval: int = Field(2000, ge=1)
    """Gradient steps between two copies to the target network. Usual: 100 (small tasks) to 2000."""
    next_action: Literal["greedy", "double", "soft"] = "double"
    """How the next action is chosen in the target."""
    dueling: bool = True
    """Separate streams for the value of the state and the advantages of the actions."""
    noisy: bool = True
    """Explore by learned noise on the head's weights instead of epsilon."""
    prioritized: bool = True
    """Draw transitions with large errors more often."""
    priority_alpha: float = Field(0.5, ge=0, le=1)
    """How strongly. Usual: 0.5."""
    priority_beta: Scheduled[float] = Field(RISING, ge=0, le=1)
    """How much of the resulting bias importance weights take back. Usual: 0.4, rising to 1 over the run."""
    n_step: int = Field(3, ge=1)
    """Rewards summed before bootstrapping. Usual: 3."""


@register.algorithm("rainbow", paper="Rainbow, Hessel et al. 2018")
class Rainbow(DQN):
    """DQN with all additions on. Hessel et al. 2018."""

    Config = RainbowConfig
