"""Torsos: the right one for each space, exact encodings, and messages with numbers."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from distrl.base.errors import ConfigError
from distrl.models.layers.cnn import ImpalaResNet, NatureCNN, ToChannelsFirst, image_shape
from distrl.models.layers.observation_leaves import Flatten, is_image
from distrl.models.layers.torsos import MLP, Fusion, build_torso

VECTOR = spaces.Box(-1, 1, (4,))
PIXELS = spaces.Box(0, 255, (84, 84, 3), np.uint8)


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def batch(space, size=5):
    """Random observations of a space as a tree of tensors (size, ...)."""
    space.seed(0)
    return stack([space.sample() for _ in range(size)])


def stack(samples):
    if isinstance(samples[0], dict):
        return {key: stack([sample[key] for sample in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(stack([sample[i] for sample in samples]) for i in range(len(samples[0])))
    return torch.from_numpy(np.stack(samples))


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (VECTOR, MLP),
        (spaces.Box(-1, 1, (3, 4, 5)), MLP),
        (spaces.Discrete(7, start=2), MLP),
        (spaces.MultiDiscrete([3, 2]), MLP),
        (spaces.MultiBinary((2, 3)), MLP),
        (spaces.Box(0, 255, (128,), np.uint8), MLP),
        (PIXELS, NatureCNN),
        (image(4, 84, 84), NatureCNN),
        (image(84, 84), NatureCNN),
        (image(2, 84, 84, 3), NatureCNN),
        (image(10, 10, 4), ImpalaResNet),
        (spaces.Dict(a=VECTOR, b=spaces.Tuple((spaces.Discrete(3), image(12, 12, 1)))), Fusion),
    ],
    ids=str,
)
def test_auto_picks_by_space_and_runs(space, kind, model):
    torso = build_torso(space, model())
    assert type(torso) is kind
    features = torso(batch(space))
    assert features.shape == (5, torso.output_size)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    features.sum().backward()
    assert all(p.grad is not None for p in torso.parameters())


def test_initialization_is_orthogonal(model):
    torso = build_torso(VECTOR, model(hidden=[32, 8]))
    first, second = torso.dense.layers
    torch.testing.assert_close(first.weight.T @ first.weight, 2 * torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    assert (first.bias == 0).all()


def test_one_hot_counts_from_start():
    space = spaces.Discrete(3, start=-1)
    vectors = Flatten(space)(torch.tensor([-1, 0, 1]))
    assert torch.equal(vectors, torch.eye(3))
    several = Flatten(spaces.MultiDiscrete([2, 3]))(torch.tensor([[1, 0], [0, 2]]))
    assert several.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_bytes_are_scaled():
    vectors = Flatten(image(3))(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
    torch.testing.assert_close(vectors, torch.tensor([[0.0, 0.2, 1.0]]))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 96), (1, 84, 96)),
        ((84, 96, 3), (3, 84, 96)),
        ((4, 84, 96), (4, 84, 96)),
        ((2, 84, 96, 3), (6, 84, 96)),
        ((2, 3, 84, 96), (6, 84, 96)),
    ],
)
def test_layouts_of_pictures(shape, expected):
    space = image(*shape)
    assert is_image(space)
    assert image_shape(space) == expected
    assert ToChannelsFirst(space)(batch(space)).shape == (5, *expected)


def test_channels_keep_their_pixels():
    pixels = batch(image(2, 40, 41, 3))
    moved = ToChannelsFirst(image(2, 40, 41, 3))(pixels)
    torch.testing.assert_close(moved[1, 3 * 1 + 2, 7, 9], pixels[1, 1, 7, 9, 2] / 255.0)


def test_real_pictures_are_not_scaled(model):
    space = spaces.Box(0, 1, (40, 40, 3))
    pixels = batch(space)
    torch.testing.assert_close(ToChannelsFirst(space)(pixels), pixels.permute(0, 3, 1, 2))
    assert build_torso(space, model(torso="nature_cnn"))(pixels).shape == (5, 16)


def test_fusion_reads_by_name_not_by_order(model):
    torso = build_torso(spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)}), model())
    obs = batch(spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)}))
    torch.testing.assert_close(torso(obs), torso({"b": obs["b"], "a": obs["a"]}))


def test_named_image_torso_reads_the_pictures_of_a_dict(model):
    space = spaces.Dict(view=image(40, 40, 3), speed=VECTOR)
    torso = build_torso(space, model(torso="impala_resnet"))
    assert {type(part) for part in torso.torsos} == {ImpalaResNet, MLP}
    assert torso(batch(space)).shape == (5, 16)


def test_too_small_a_picture_shows_both_sizes(model):
    with pytest.raises(ConfigError, match=r"10x10 pixels .* 1x1 for its 4x4 kernel") as caught:
        build_torso(image(10, 10, 3), model(torso="nature_cnn"))
    assert "impala_resnet" in caught.value.fix
    assert build_torso(image(36, 36, 3), model(torso="nature_cnn")).output_size == 16
    with pytest.raises(ConfigError, match="36x36"):
        build_torso(image(35, 90, 3), model(torso="nature_cnn"))


@pytest.mark.parametrize(
    ("torso", "space", "words"),
    [
        ("nature_cnn", VECTOR, r"shape \(4,\)"),
        ("impala_resnet", spaces.Discrete(3), "Discrete"),
        ("nature_cnn", spaces.Dict(a=VECTOR), "holds none"),
        ("mlp", spaces.Text(3), "Text"),
        ("nature_cn", VECTOR, "did you mean 'nature_cnn'"),
        ("auto", spaces.Dict(), "empty"),
        ("no_such_module:Torso", VECTOR, "no_such_module"),
    ],
)
def test_misfits_are_named(torso, space, words, model):
    with pytest.raises(ConfigError, match=words):
        build_torso(space, model(torso=torso))


def test_unknown_activation(model):
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        build_torso(VECTOR, model(activation="relo"))


def test_user_torso(model, monkeypatch):
    class Twice(nn.Module):
        def __init__(self, observation_space, model_config):
            super().__init__()
            self.output_size = observation_space["x"].shape[0]

        def forward(self, obs):
            return 2 * obs["x"]

    class Sizeless(nn.Module):
        def __init__(self, observation_space, model_config):
            super().__init__()

    module = ModuleType("user_torsos")
    module.Twice, module.Sizeless = Twice, Sizeless
    monkeypatch.setitem(sys.modules, "user_torsos", module)
    space = spaces.Dict(x=VECTOR)
    torso = build_torso(space, model(torso="user_torsos:Twice"))
    assert torch.equal(torso({"x": torch.ones(2, 4)}), 2 * torch.ones(2, 4))
    with pytest.raises(ConfigError, match="output_size"):
        build_torso(space, model(torso="user_torsos:Sizeless"))
