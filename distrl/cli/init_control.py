"""The text of a starter config, chosen by an environment's spaces."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from distrl.base.errors import ConfigError

#: How ids of text tasks begin.
TEXT = "text/"

Line = tuple[str, str, str]  # key, value as YAML, comment

#: Keys of the algorithms that learn from a replay, with what they mean; the values are their own defaults.
_REPLAY = (
    ("learning_rate", "step size of Adam"),
    ("gamma", "discount; lower where rewards come soon"),
    ("batch_size", "transitions of one gradient step"),
    ("replay_ratio", "gradient steps per environment step"),
    ("learning_starts", "environment steps before the first gradient step"),
)

#: Kind of environment -> keys of the algorithm. An algorithm gets those that it has.
_ALGORITHM: dict[str, list[Line]] = {
    "discrete": [
        ("rollout_steps", "32", "time steps of each environment per update"),
        ("epochs", "10", "passes over each batch"),
        ("minibatches", "4", "optimizer steps per pass"),
        ("learning_rate", "{from: 1e-3, to: 0, over: run}", "falls to 0 over the run"),
        ("gamma", "0.99", "discount; lower where rewards come soon"),
        ("lam", "0.95", "lambda of the advantages"),
        ("entropy_coef", "0.0", "more explores longer; usual: 0-0.02"),
    ],
    "continuous": [
        ("rollout_steps", "256", "time steps of each environment per update"),
        ("epochs", "10", "passes over each batch"),
        ("minibatches", "32", "optimizer steps per pass"),
        ("learning_rate", "{from: 3e-4, to: 0, over: run}", "falls to 0 over the run"),
        ("gamma", "0.99", "discount; lower where rewards come soon"),
        ("lam", "0.95", "lambda of the advantages"),
        ("entropy_coef", "0.0", "rarely needed with continuous actions"),
    ],
    "image": [
        ("rollout_steps", "128", "time steps of each environment per update"),
        ("epochs", "4", "passes over each batch"),
        ("minibatches", "4", "optimizer steps per pass"),
        ("learning_rate", "{from: 2.5e-4, to: 0, over: run}", "falls to 0 over the run"),
        ("clip", "0.1", "how far one update may move the policy"),
        ("gamma", "0.99", "discount; lower where rewards come soon"),
        ("lam", "0.95", "lambda of the advantages"),
        ("entropy_coef", "0.01", "keeps the policy from settling early"),
    ],
}
_STEPS = {"discrete": 200_000, "continuous": 1_000_000, "image": 5_000_000}
_NUM_ENVS = 8
_STREAMS = 4
#: Shortest picture side for which Nature CNN's kernels leave something.
_NATURE_SIDE = 36


def slug(text: str) -> str:
    """A name for files and runs.

    >>> slug("ALE/Pong-v5")
    'ale-pong-v5'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def kind_of(observation_space: Any, action_space: Any) -> str:
    """`image`, `continuous` or `discrete`: which starting values suit an environment."""
    from distrl.models.layers.observation_leaves import is_float, is_image, leaves

    if any(is_image(leaf) for _, leaf in leaves(observation_space)):
        return "image"
    return "continuous" if any(is_float(leaf) for _, leaf in leaves(action_space)) else "discrete"


def starter_config(env_id: str, algorithm: str, path: str, imports: Sequence[str] = ()) -> str:
    """A commented config that `distrl train --dry-run` accepts.

    Args:
        env_id: A Gymnasium id, `module:Class`, or `text/TASK`.
        algorithm: A registered name.
        path: Where it will be written, for the comment at its head.
        imports: Modules or files that have to be imported for the environment.

    Raises:
        ConfigError, EnvError: No such algorithm or environment, or two that do not go together.
    """
    from distrl.base.registry import import_user_code, register
    from distrl.config.sections.env import EnvConfig
    from distrl.control.envs.make import make_env
    from distrl.control.envs.spaces import describe, require_supported

    if env_id.startswith(TEXT):
        from distrl.cli.init_language import text_starter_config

        return text_starter_config(env_id, algorithm, path, imports)
    import_user_code(imports)
    target = register.get("algorithm", algorithm)
    if "group_size" in target.Config.model_fields:
        raise ConfigError(
            f"algorithm {algorithm} learns from a language model's answers, and {env_id} is no text task.",
            f"Give a text task, for example: distrl init text/sort_digits --algorithm {algorithm}",
        )
    env = make_env(EnvConfig(id=env_id))
    try:
        require_supported(env.observation_space, env.action_space, env_id)
        observation, action = env.observation_space, env.action_space
    finally:
        env.close()
    kind = kind_of(observation, action)
    head = [
        f"# {algorithm} on {env_id}: observations {describe(observation)}, actions {describe(action)}.",
        f"#   distrl train {path}",
        "# These are usual first values, not tuned ones. Every key is explained in docs/config.md.",
        f"name: {slug(env_id)}-{slug(algorithm)}",
        "seed: 0",
        "backend: ray                    # or serial: everything in one process",
        *([f"imports: [{', '.join(imports)}]"] if imports else []),
    ]
    return "\n".join(
        [
            *head,
            *section("env", _env_lines(env_id, kind, observation, off_policy(target))),
            *(section("model", _model_lines(observation)) if kind == "image" else []),
            *section("algorithm", _algorithm_lines(algorithm, target, kind)),
            *section("samplers", [("count", str(min(_STREAMS, os.cpu_count() or 1)), "at most env.streams")]),
            *section("eval", [("every", str(_STEPS[kind] // 20), "environment steps"), ("episodes", "10", "")]),
            *section("stop", [("env_steps", str(_STEPS[kind]), "or return_mean, updates, wall_seconds")]),
            "",
        ]
    )


def _env_lines(env_id: str, kind: str, observation: Any, from_replay: bool) -> list[Line]:
    from distrl.models.layers.observation_leaves import is_float, leaves

    lines = [
        ("id", f'"{env_id}"' if re.search(r"[^\w./-]", env_id) else env_id, ""),
        ("num_envs", str(_NUM_ENVS), "environments in parallel"),
        ("streams", str(_STREAMS), "the most samplers that can share them"),
    ]
    real = any(is_float(leaf) for _, leaf in leaves(observation))
    if from_replay:
        kind = "image" if kind == "image" else ""
    if kind == "continuous" and real:
        lines.append(("normalize_obs", "true", "running mean and variance"))
    if kind == "continuous":
        lines.append(("normalize_reward", "true", "by the running deviation of the return"))
    if kind == "image" and _stackable(observation):
        lines.append(("frame_stack", "4", "lets the policy see motion"))
    return lines


def _stackable(observation: Any) -> bool:
    from gymnasium.spaces import Box

    return isinstance(observation, Box) and len(observation.shape) in (2, 3)


def _model_lines(observation: Any) -> list[Line]:
    from distrl.models.layers.observation_leaves import is_image, leaves

    (_, picture), *others = [(path, leaf) for path, leaf in leaves(observation) if is_image(leaf)]
    plain = picture is observation and not others
    sides = sorted(picture.shape or (0,))[-2:]
    fits = plain and min(sides) >= _NATURE_SIDE
    return [
        ("torso", "nature_cnn" if fits else "auto", "or impala_resnet: slower, often better"),
        ("hidden", "[512]" if fits else "[256]", "after the convolutions"),
        ("activation", "relu", ""),
        ("shared", "true", "policy and critic share the torso"),
    ]


def _algorithm_lines(name: str, target: Any, kind: str) -> list[Line]:
    fields = target.Config.model_fields
    if off_policy(target):  # their own defaults are usual values, and differ from one to the next
        own = [(key, f"{fields[key].default:g}", comment) for key, comment in _REPLAY if key in fields]
        return [("name", name, ""), *own]
    return [("name", name, ""), *(line for line in _ALGORITHM[kind] if line[0] in fields)]


def off_policy(target: Any) -> bool:
    """Whether an algorithm learns from a replay."""
    return "replay_ratio" in target.Config.model_fields


def section(title: str, lines: list[Line]) -> list[str]:
    shown = [f"  {key}: {value}" for key, value, _ in lines]
    width = max(30, *(len(text) for text in shown)) + 2
    notes = [f"# {comment}" if comment else "" for _, _, comment in lines]
    return [f"{title}:", *(f"{text:<{width}}{note}".rstrip() for text, note in zip(shown, notes, strict=True))]
