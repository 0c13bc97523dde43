"""Construction of environments from a config."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium import error as gym_error
from gymnasium.wrappers import TimeLimit

from distrl.base.errors import ConfigError, EnvError, UserError, nearest
from distrl.base.registry import register, resolve
from distrl.config.sections.env import EnvConfig

#: Missing module -> command that installs it.
_EXTRAS = {
    **dict.fromkeys(("Box2D", "box2d", "mujoco", "envpool", "ale_py", "minatar"), 'pip install "distrl[envs]"'),
    "pygame": 'pip install "gymnasium[classic-control]"',
    "cv2": "pip install opencv-python-headless",
    "minigrid": "pip install minigrid",
}
#: Namespace of an id that is not registered -> (package, module to name under `imports`).
_NAMESPACES = {"MiniGrid": ("minigrid", "minigrid")}
#: Namespace of an id -> the module whose import registers it with gymnasium.
_REGISTERED_BY = {"distrl": "distrl.control.envs.library.catalog", "ALE": "ale_py"}


def env_name(env_config: EnvConfig) -> str:
    """Return the name of an environment for messages."""
    target: object = env_config.id
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def make_env(env_config: EnvConfig, **extra: object) -> gymnasium.Env:
    """Make one environment with its wrappers and `extra` arguments such as `render_mode`."""
    env = _build(env_config, {**env_config.kwargs, **extra})
    for name, kwargs in env_config.wrapper_calls:
        with building(f"wrapper {name!r}"):
            env = register.get("wrapper", name)(env, **kwargs)
    if env_config.frame_stack > 1:
        from distrl.control.envs.wrappers.basic import FrameStack

        env = FrameStack(env, env_config.frame_stack)
    return env


def _build(env_config: EnvConfig, kwargs: dict[str, object]) -> gymnasium.Env:
    target, limit = env_config.id, env_config.max_episode_steps
    name = env_name(env_config)
    # `module:Class` is a path, gymnasium's `module:Name-v0` is not
    if isinstance(target, str) and (":" not in target or re.search(r"-v\d+$", target)):
        register_namespace(target)
        # the passive checker costs more than a small environment's step; `distrl doctor` checks instead
        options = {"max_episode_steps": limit} if limit else {}
        arguments: dict[str, Any] = {"disable_env_checker": True, **options, **kwargs}
        with building(f"environment {name!r}"):
            return _require_env(gymnasium.make(target, **arguments), name)
    factory = resolve(target) if isinstance(target, str) else target
    if not callable(factory):
        raise ConfigError(f"env.id {name!r} names {factory!r}, which cannot be called.", "Name a class or a function.")
    with building(f"environment {name!r}"):
        env = _require_env(factory(**kwargs), name)
    return TimeLimit(env, limit) if limit else env


def register_namespace(target: object) -> None:
    """Register the environments of an id's namespace, if its package is known and installed."""
    if not isinstance(target, str) or target in gymnasium.registry:
        return
    module = _REGISTERED_BY.get(target.split("/")[0]) if "/" in target else None
    if module and importlib.util.find_spec(module):
        importlib.import_module(module)
    elif re.fullmatch(r"[A-Z]\w*-v5", target) and importlib.util.find_spec("ale_py"):
        from distrl.control.envs.library.atari import register_envpool_game

        register_envpool_game(target)


def _require_env(env: object, name: str) -> gymnasium.Env:
    if isinstance(env, gymnasium.Env):
        return env
    raise EnvError(
        f"environment {name!r} is a {type(env).__module__}.{type(env).__qualname__}, expected a gymnasium.Env.",
        "Inherit from gymnasium.Env; an environment of the old gym package needs porting to reset(seed=) and "
        "five values from step().",
    )


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn exceptions of a constructor into user errors; `what` is such as "environment 'X-v1'"."""
    try:
        yield
    except UserError:
        raise
    except gym_error.UnregisteredEnv:
        raise _unknown_id(what) from None
    except (gym_error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _missing(what, error) from error
    except TypeError as error:
        raise ConfigError(
            f"{what} cannot be built: {error}.", "Check the keyword arguments under env.kwargs or env.wrappers."
        ) from error
    except Exception as error:
        raise EnvError(f"{what} cannot be built: {type(error).__name__}: {error}.") from error


def _unknown_id(what: str) -> ConfigError:
    name = what.split("'")[1]
    namespace = name.split(":")[-1].split("/")[0]
    if namespace in _NAMESPACES and "/" in name:
        package, module = _NAMESPACES[namespace]
        return ConfigError(f"unknown {what}.", f"pip install {package}, and add `imports: [{module}]` to the config.")
    if namespace == "ALE" and importlib.util.find_spec("ale_py") is None:
        return ConfigError(f"unknown {what}: ale-py is not installed.", _EXTRAS["ale_py"])
    guess = nearest(name, gymnasium.registry)
    hint = f"Did you mean {guess!r}? " if guess else ""
    return ConfigError(
        f"unknown {what}: it is not registered with gymnasium.",
        f"{hint}Name your environment as module:Class, or register it in a file under `imports:`.",
    )


def _missing(what: str, error: Exception) -> UserError:
    text = f"{error} {error.__cause__ or ''}"
    module = getattr(error, "name", None) or getattr(error.__cause__, "name", None) or ""
    known = next((key for key in _EXTRAS if key == module.split(".")[0]), "")
    known = known or next((key for key in _EXTRAS if key.lower() in text.lower()), "")
    fix = _EXTRAS.get(known, f"pip install {module}" if module else "Install the package that it names.")
    return ConfigError(f"{what} needs a package that is not installed: {error}.", fix)
