"""From a config to environments: by id, `module:Class` or callable."""

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

from distrl.base.errors import ConfigError, EnvError, UserError, nearest, unknown
from distrl.base.registry import register, resolve
from distrl.control.envs.backends.interface import SeedOf, VectorEnv

#: Missing module -> what to install.
_EXTRAS = {
    "Box2D": 'pip install "distrl[envs]"',
    "box2d": 'pip install "distrl[envs]"',
    "mujoco": 'pip install "distrl[envs]"',
    "envpool": 'pip install "distrl[envs]"',
    "ale_py": 'pip install "distrl[envs]"',
    "minatar": 'pip install "distrl[envs]"',
    "pygame": 'pip install "gymnasium[classic-control]"',
    "cv2": "pip install opencv-python-headless",
    "minigrid": "pip install minigrid",
}
#: Namespace of an id that is not registered -> (package, module to name under `imports`).
_NAMESPACES = {"MiniGrid": ("minigrid", "minigrid")}
#: Namespace of an id -> the module whose import registers it with gymnasium.
_REGISTERED_BY = {"distrl": "distrl.control.envs.library.catalog", "ALE": "ale_py"}


def env_name(env_config: Any) -> str:
    """What messages call an environment."""
    target = env_config.id
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def make_env(env_config: Any, **extra: Any) -> gymnasium.Env[Any, Any]:
    """One environment, with its wrappers.

    Args:
        env_config: An object with `id` (gymnasium id, `module:Class` or callable) and optionally `kwargs`,
            `wrappers` (each a name or {NAME: {kwargs}}, innermost first), `frame_stack` and `max_episode_steps`.
        extra: Further keyword arguments for the environment, such as `render_mode`.

    Raises:
        ConfigError: Unknown id, wrapper or keyword; the nearest known one, or what to install, is named.
        EnvError: The environment cannot be built, or is not a `gymnasium.Env`.
    """
    env = _build(env_config, {**(getattr(env_config, "kwargs", None) or {}), **extra})
    for name, kwargs in _wrapper_calls(env_config):
        with building(f"wrapper {name!r}"):
            env = register.get("wrapper", name)(env, **kwargs)
    stack = getattr(env_config, "frame_stack", None) or 1
    if stack > 1:
        from distrl.control.envs.wrappers.basic import FrameStack

        env = FrameStack(env, stack)
    return env


def make_vector(env_config: Any, num_envs: int, seed_of: SeedOf) -> VectorEnv:
    """`num_envs` environments behind the face of `VectorEnv`, by the config's `backend`.

    Args:
        env_config: As for `make_env`, with `backend`: gymnasium (default), vector or envpool.
        num_envs: B.
        seed_of: (environment index, episode number) -> seed.

    Raises:
        ConfigError: Unknown back end; a back end that does not have this environment or cannot do what is asked.
        EnvError: The environment cannot be built, or its spaces are not supported.
    """
    backend = getattr(env_config, "backend", None) or "gymnasium"
    register_namespace(env_config.id)
    if backend == "gymnasium":
        from distrl.control.envs.backends.loop import LoopVectorEnv

        return LoopVectorEnv(lambda: make_env(env_config), num_envs, seed_of, env_name(env_config))
    if backend == "vector":
        from distrl.control.envs.backends.native import NativeVectorEnv

        return NativeVectorEnv(env_config, num_envs, seed_of)
    if backend == "envpool":
        from distrl.control.envs.backends.envpool import EnvPoolVectorEnv

        return EnvPoolVectorEnv(env_config, num_envs, seed_of)
    raise ConfigError(unknown("env.backend", str(backend), ["gymnasium", "vector", "envpool"]))


def _build(env_config: Any, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    target, limit = env_config.id, getattr(env_config, "max_episode_steps", None)
    name = env_name(env_config)
    if isinstance(target, str) and not _is_path(target):
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


def register_namespace(target: Any) -> None:
    """Register the environments of an id's namespace, where we know who does that and it is installed."""
    if not isinstance(target, str) or target in gymnasium.registry:
        return
    module = _REGISTERED_BY.get(target.split("/")[0]) if "/" in target else None
    if module and importlib.util.find_spec(module):
        importlib.import_module(module)
    elif re.fullmatch(r"[A-Z]\w*-v5", target) and importlib.util.find_spec("ale_py"):
        from distrl.control.envs.library.atari import register_envpool_game

        register_envpool_game(target)


def _is_path(target: str) -> bool:
    """`module:Class`, in contrast to gymnasium's own `module:Name-v0`, which imports a module that registers."""
    return ":" in target and not re.search(r"-v\d+$", target)


def _require_env(env: Any, name: str) -> gymnasium.Env[Any, Any]:
    if isinstance(env, gymnasium.Env):
        return env
    raise EnvError(
        f"environment {name!r} is a {type(env).__module__}.{type(env).__qualname__}, expected a gymnasium.Env.",
        "Inherit from gymnasium.Env; an environment of the old gym package needs porting to reset(seed=) and "
        "five values from step().",
    )


def _wrapper_calls(env_config: Any) -> list[tuple[str, dict[str, Any]]]:
    """Wrappers as (name, keyword arguments), innermost first; a config's entry is NAME or {NAME: {kwargs}}."""
    entries = getattr(env_config, "wrappers", None) or ()
    pairs = [(entry, {}) if isinstance(entry, str) else next(iter(entry.items())) for entry in entries]
    return [(name, dict(kwargs or {})) for name, kwargs in pairs]


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn what goes wrong while something is constructed into a message. `what`: such as "environment 'X-v1'"."""
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
        f"{hint}An environment of your own is named as module:Class, or registered by a file under `imports:`.",
    )


def _missing(what: str, error: Exception) -> UserError:
    text = f"{error} {error.__cause__ or ''}"
    module = getattr(error, "name", None) or getattr(error.__cause__, "name", None) or ""
    known = next((key for key in _EXTRAS if key == module.split(".")[0]), "")
    known = known or next((key for key in _EXTRAS if key.lower() in text.lower()), "")
    fix = _EXTRAS.get(known, f"pip install {module}" if module else "Install what it names.")
    return ConfigError(f"{what} needs a package that is not installed: {error}.", fix)
