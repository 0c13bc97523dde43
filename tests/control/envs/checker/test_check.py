"""The environment checker: each broken thing is a finding, and nothing crashes it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Text

from distrl.control.envs.checker.check import Finding, check_env
from tests.support import toy_envs
from tests.support.envs import env_config as Config


def found(findings: list[Finding], level: str) -> str:
    return "\n".join(f"{f.title}: {f.detail} {f.fix}" for f in findings if f.level == level)


@pytest.mark.parametrize(
    "config",
    [
        Config(id="CartPole-v1"),
        Config(id="LunarLander-v3"),
        Config(id="Blackjack-v1"),
        Config(id=toy_envs.DictEnv),
        Config(id=toy_envs.TupleEnv),
        Config(id=toy_envs.MaskedEnv),
        Config(id=toy_envs.TruncatingEnv),
    ],
    ids=lambda config: str(getattr(config.id, "__name__", config.id)),
)
def test_good_environments(config: Any) -> None:
    findings = check_env(config, steps=200)
    assert not found(findings, "error")
    assert not found(findings, "warn")
    ok = found(findings, "ok")
    assert "200 random steps gave values of the spaces" in ok
    assert "us per step" in ok
    assert "seed and actions restore it exactly" in ok
    assert ("action mask: given at every step" in ok) == (config.id is toy_envs.MaskedEnv)


class ClosingEnv(toy_envs.ToyEnv):
    def close(self) -> None:
        raise RuntimeError("the window is gone")


class NoSeedEnv(toy_envs.ToyEnv):
    def reset(self) -> Any:  # type: ignore[override]
        return self.observe(0)


class OnlyObsEnv(toy_envs.ToyEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class OutOfBoundsEnv(toy_envs.ToyEnv):
    observation_space = Box(-0.5, 0.5, (3,), np.float32)


class OtherDtypeEnv(toy_envs.ToyEnv):
    observation_space = Box(-100.0, 100.0, (3,), np.float64)


class EndlessEnv(toy_envs.ToyEnv):
    def __init__(self) -> None:
        super().__init__(length=10**9)


class UnboundedActionEnv(toy_envs.ToyEnv):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class WideActionEnv(toy_envs.ToyEnv):
    action_space = Box(-200, 200, (2,), np.float32)


class TextEnv(toy_envs.ToyEnv):
    observation_space = Text(4)


class NumberFlagEnv(toy_envs.ToyEnv):
    def terminated(self) -> Any:
        return 0


class AllForbiddenEnv(toy_envs.MaskedEnv):
    def allowed(self) -> np.ndarray:
        return np.zeros(3, bool)


class WrongMaskEnv(toy_envs.MaskedEnv):
    def allowed(self) -> np.ndarray:
        return np.ones(4, bool)


BAD: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "unknown": ("CartPol-v1", {}, "error", "Did you mean 'CartPole-v1'?"),
    "raises": (toy_envs.RaisingEnv, {}, "error", "step 3 of an episode raised RuntimeError: the robot fell off"),
    "raises at reset": (toy_envs.RaisingEnv, {"after": 0}, "error", "reset raised RuntimeError: the robot fell off"),
    "nan": (toy_envs.NaNEnv, {}, "error", "observation is nan at index 1 (1 of 3 values are not finite) (in step 3)"),
    "nan reward": (toy_envs.NaNEnv, {"where": "reward"}, "error", "the reward is nan, expected one finite number"),
    "shape": (toy_envs.WrongShapeEnv, {"after": 2}, "error", "observation has shape (1,), expected (3,) (in step 2)"),
    "dtype": (toy_envs.WrongDtypeEnv, {}, "error", "observation has dtype float32, expected uint8 (after reset)"),
    "old step": (toy_envs.OldStepEnv, {}, "error", "step returned a tuple of 4, expected (observation, reward, termi"),
    "no seed": (NoSeedEnv, {}, "error", "reset raised TypeError"),
    "only obs": (OnlyObsEnv, {}, "error", "reset returned a ndarray, expected a tuple (observation, info)"),
    "flag": (NumberFlagEnv, {}, "error", "terminated is 0 of type int, expected a bool"),
    "mask gone": (toy_envs.MaskedEnv, {"forget_after": 2}, "error", "info['action_mask'] is missing in a step"),
    "mask empty": (AllForbiddenEnv, {}, "error", "the action mask allows no action at all"),
    "mask shape": (WrongMaskEnv, {}, "error", "the action mask has shape (4,), expected (3,)"),
    "space": (TextEnv, {}, "error", "observation space Text is not supported"),
    "bounds": (OutOfBoundsEnv, {}, "warn", "observations leave the bounds of their space, first "),
    "width": (OtherDtypeEnv, {}, "warn", "observations come as float32 and the space says float64"),
    "endless": (EndlessEnv, {}, "warn", "no episode ended in 60 steps and there is no time limit. Set env.max_epis"),
    "unbounded": (UnboundedActionEnv, {}, "warn", "is not bounded: no action is ever clipped."),
    "wide": (WideActionEnv, {}, "warn", "Rescale actions to about [-1, 1]"),
    "large": (EndlessEnv, {}, "warn", "values up to 60: large inputs train badly. Set env.normalize_obs=true."),
    "unseeded": (toy_envs.UnseededEnv, {}, "warn", "two copies with equal seeds and actions differ after 0 resets"),
    "leaky": (toy_envs.LeakyEnv, {}, "warn", "replayed from its seed and actions: something in it depends on neither"),
    "slow": (toy_envs.SlowEnv, {"seconds": 0.006}, "warn", "speed: "),
    "close": (ClosingEnv, {}, "warn", "close raised RuntimeError: the window is gone."),
}


@pytest.mark.filterwarnings("ignore:closing environment")
@pytest.mark.parametrize("case", BAD)
def test_each_broken_thing_is_a_finding(case: str) -> None:
    env, kwargs, level, expected = BAD[case]
    findings = check_env(Config(id=env, kwargs=kwargs), steps=60)
    assert expected in found(findings, level)
    if level == "warn":
        assert not found(findings, "error")


def test_normalized_runs_are_not_warned_about_scale() -> None:
    assert "large inputs" not in found(check_env(Config(id=EndlessEnv, normalize_obs=True), steps=60), "warn")


@pytest.mark.parametrize(
    "backend",
    ["vector", pytest.param("envpool", marks=pytest.mark.skipif(sys.platform != "linux", reason="for Linux"))],
)
def test_other_back_ends(backend: str) -> None:
    findings = check_env(Config(id="CartPole-v1", backend=backend), steps=60)
    assert not found(findings, "error")
    assert f"{backend}: 60 steps of two environments" in found(findings, "ok")
    assert "has no exact snapshots" in found(findings, "warn")
    bad = check_env(Config(id="Nothing-v1", backend=backend), steps=60)
    assert "Nothing-v1" in found(bad, "error")


def test_time_limit_of_a_check() -> None:
    findings = check_env(Config(id=toy_envs.SlowEnv, kwargs={"seconds": 0.01}), steps=30, seconds=0.05)
    assert "random steps" in found(findings, "ok")
    assert "30 random steps" not in found(findings, "ok")
