"""Convolutional torsos for images (N, ...) in the layout of the space (`image_shape`).

uint8 is scaled by 1/255. Convolutions use ReLU as published; `model.hidden` and `model.activation` describe the layers
after them (published: `[512]` for Nature CNN, `[256]` for the IMPALA ResNet, `relu`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.models.layers.dense import HIDDEN_GAIN, Dense, orthogonal


def image_shape(space: spaces.Space) -> tuple[int, int, int]:
    """Return channels, height and width of an image space; stacked frames count as channels.

    >>> image_shape(spaces.Box(0, 255, (4, 84, 84, 3), np.uint8))
    (12, 84, 84)
    """
    shape, kind = _layout(space)
    if kind == "HW":
        return (1, shape[0], shape[1])
    if kind == "HWC":
        return (shape[2], shape[0], shape[1])
    if kind == "SHWC":
        return (shape[0] * shape[3], shape[1], shape[2])
    return (int(np.prod(shape[:-2])), shape[-2], shape[-1])


def _layout(space: spaces.Space) -> tuple[tuple[int, ...], str]:
    """Return the shape, and the order of height, width, channels and stacked frames in it.

    Channels (or frames) are on the shorter side; a tie means channels last.
    """
    shape = tuple(space.shape or ())
    if len(shape) == 2:
        return shape, "HW"
    if len(shape) == 3:
        return shape, "HWC" if shape[2] <= shape[0] else "CHW"
    if len(shape) == 4:
        return shape, "SHWC" if shape[3] <= shape[1] else "SCHW"
    raise ConfigError(
        f"a convolutional torso reads pictures of shape (H, W), (H, W, C), (C, H, W), (S, H, W) or (S, H, W, C);"
        f" the observation space {space} has shape {shape}.",
        "Use torso: mlp, or torso: auto.",
    )


class ToChannelsFirst(nn.Module):
    """Images (N, ...) to float32 (N, C, H, W)."""

    def __init__(self, space: spaces.Space):
        super().__init__()
        if not isinstance(space, spaces.Box):
            raise ConfigError(
                f"a convolutional torso reads Box observations, not {type(space).__name__} ({space}).",
                "Use torso: auto.",
            )
        self.size = image_shape(space)
        self.kind = _layout(space)[1]
        self.scale = 1.0 / 255.0 if space.dtype == np.uint8 else 1.0

    def forward(self, obs: Tensor) -> Tensor:
        if self.kind == "HWC":
            obs = obs.permute(0, 3, 1, 2)
        elif self.kind == "SHWC":
            obs = obs.permute(0, 1, 4, 2, 3)
        pixels = obs.reshape(obs.shape[0], *self.size).to(torch.float32)
        return pixels if self.scale == 1.0 else pixels * self.scale


@register.torso("nature_cnn", paper="Mnih et al. 2015, Human-level control through deep reinforcement learning")
class NatureCNN(nn.Module):
    """Convolutions 32 of 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3, then `model.hidden`."""

    takes_leaves = takes_images = True
    LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig):
        super().__init__()
        self.to_channels_first = ToChannelsFirst(observation_space)
        channels, height, width = self.to_channels_first.size
        self.convolutions = nn.ModuleList()
        for index, (filters, kernel, stride) in enumerate(self.LAYERS):
            if min(height, width) < kernel:
                raise ConfigError(
                    f"pictures of {self.to_channels_first.size[1]}x{self.to_channels_first.size[2]} pixels are too"
                    f" small for nature_cnn: layer {index + 1} of 3 gets {height}x{width} for its {kernel}x{kernel}"
                    " kernel; the smallest picture is 36x36.",
                    "Use torso: impala_resnet, or enlarge the observations.",
                )
            self.convolutions.append(orthogonal(nn.Conv2d(channels, filters, kernel, stride), HIDDEN_GAIN))
            channels, height, width = filters, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.dense = Dense(channels * height * width, model_config.hidden, model_config.activation)
        self.output_size = self.dense.output_size

    def forward(self, obs: Tensor) -> Tensor:
        pixels = self.to_channels_first(obs)
        for convolution in self.convolutions:
            pixels = F.relu(convolution(pixels))
        return self.dense(pixels.flatten(1))


@register.torso("minatar_cnn", paper="Young and Tian 2019, MinAtar, section 4")
class MinAtarCNN(nn.Module):
    """One convolution (16 of 3x3), ReLU, then `model.hidden` (published: [128], relu)."""

    takes_leaves = True

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig):
        super().__init__()
        self.to_channels_first = ToChannelsFirst(observation_space)
        channels, height, width = self.to_channels_first.size
        if min(height, width) < 3:
            raise ConfigError(
                f"pictures of {height}x{width} pixels are too small for minatar_cnn, whose kernel is 3x3.",
                "Use torso: mlp.",
            )
        self.convolution = orthogonal(nn.Conv2d(channels, 16, 3), HIDDEN_GAIN)
        self.dense = Dense(16 * (height - 2) * (width - 2), model_config.hidden, model_config.activation)
        self.output_size = self.dense.output_size

    def forward(self, obs: Tensor) -> Tensor:
        return self.dense(F.relu(self.convolution(self.to_channels_first(obs))).flatten(1))


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = orthogonal(nn.Conv2d(channels, channels, 3, padding=1), HIDDEN_GAIN)
        self.outer = orthogonal(nn.Conv2d(channels, channels, 3, padding=1), HIDDEN_GAIN)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels + self.outer(F.relu(self.inner(F.relu(pixels))))


class _Section(nn.Module):
    """A convolution, a max pool that halves both sides (rounding up), two residual blocks."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.convolution = orthogonal(nn.Conv2d(channels, filters, 3, padding=1), HIDDEN_GAIN)
        self.blocks = nn.Sequential(_Residual(filters), _Residual(filters))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.blocks(F.max_pool2d(self.convolution(pixels), 3, stride=2, padding=1))


@register.torso("impala_resnet", paper="Espeholt et al. 2018, IMPALA, figure 3 right")
class ImpalaResNet(nn.Module):
    """Three residual sections of 16, 32 and 32 filters, then `model.hidden`; any image size."""

    takes_leaves = takes_images = True
    FILTERS = (16, 32, 32)

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig):
        super().__init__()
        self.to_channels_first = ToChannelsFirst(observation_space)
        channels, height, width = self.to_channels_first.size
        sections = []
        for filters in self.FILTERS:
            sections.append(_Section(channels, filters))
            channels, height, width = filters, (height + 1) // 2, (width + 1) // 2
        self.sections = nn.Sequential(*sections)
        self.dense = Dense(channels * height * width, model_config.hidden, model_config.activation)
        self.output_size = self.dense.output_size

    def forward(self, obs: Tensor) -> Tensor:
        return self.dense(F.relu(self.sections(self.to_channels_first(obs))).flatten(1))
