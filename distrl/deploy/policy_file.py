"""Policy files: the acting model with its config and spaces, as safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gymnasium import Space

from distrl.base.errors import CheckpointError, ConfigError
from distrl.base.files import to_json
from distrl.base.pack import load_state, save_state
from distrl.config.load import load_config
from distrl.config.schema import RunConfig
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.make import make_env
from distrl.control.envs.spaces import space_from_json, space_to_json
from distrl.experience.weights import Weights
from distrl.learning.lookup import build_acting_model
from distrl.models.parameters.published import load_weights

POLICY_FILE = "policy.safetensors"


@dataclass
class SavedPolicy:
    """A policy with what it needs to be built again.

    Attributes:
        observation_space, action_space: Of one environment, wrappers and frame stack included.
        facts: Its origin: run name, update, env_steps, evaluation.
        frame_space: Observations of one frame, where the run stacks frames: a stack's shape does not tell it. Found by
            building the environment once, if it is not given.
    """

    config: RunConfig
    observation_space: Space
    action_space: Space
    weights: Weights
    facts: dict[str, Any]
    frame_space: Space | None = None

    def __post_init__(self) -> None:
        if self.frame_space is None and self.config.env is not None and self.config.env.frame_stack > 1:
            self.frame_space = _one_frame(to_json(self.config.env.model_dump(mode="json")))

    def save(self, path: str | Path) -> None:
        """Write atomically."""
        save_state(
            path,
            {
                "format": "distrl-policy-1",
                "config": to_json(self.config.model_dump(mode="json")),
                "observation_space": to_json(space_to_json(self.observation_space)),
                "action_space": to_json(space_to_json(self.action_space)),
                "frame_space": to_json(self.frame_space and space_to_json(self.frame_space)),
                "weights": self.weights.to_state(),
                "facts": to_json(self.facts),
            },
        )

    @classmethod
    def read(cls, path: str | Path) -> SavedPolicy:
        """Read a policy file, or the policy of a checkpoint folder."""
        path = find_policy(path)
        state = load_state(path)
        if not isinstance(state, dict) or state.get("format") != "distrl-policy-1":
            raise CheckpointError(f"{path} is not a policy written by this version of distrl.")
        frame_space = json.loads(state.get("frame_space", "null"))
        return cls(
            frame_space=frame_space and space_from_json(frame_space),
            config=load_config(json.loads(state["config"])),
            observation_space=space_from_json(json.loads(state["observation_space"])),
            action_space=space_from_json(json.loads(state["action_space"])),
            weights=Weights.from_state(state["weights"]),
            facts=json.loads(state["facts"]),
        )

    def require_environment(self) -> None:
        """Raise a `ConfigError` if this is a language model."""
        if self.config.language is not None:
            raise ConfigError(
                f"this policy is a language model of {self.config.env_or_task}; it has no observations.",
                "Type distrl export RUN --format hf --out FOLDER, and load the folder with transformers.",
            )

    def build(self) -> Any:
        """Build the acting model, a module with a `policy`, with its weights."""
        model = build_acting_model(self.config, self.observation_space, self.action_space)
        load_weights(model, self.weights)
        return model.eval()


@lru_cache(maxsize=8)
def _one_frame(env_json: str) -> Space:
    """Return the observation space of an `env` section without frame stack."""
    env = make_env(EnvConfig.model_validate({**json.loads(env_json), "frame_stack": 1}))
    try:
        return env.observation_space
    finally:
        env.close()


def find_policy(path: str | Path) -> Path:
    """Find a policy file: itself, a checkpoint's, or a run folder's best or newest."""
    path = Path(path)
    if path.is_file():
        return path
    newest = sorted((path / "checkpoints").glob("update_*"), reverse=True)
    for folder in (path, path / "best", *newest):
        if (folder / POLICY_FILE).is_file():
            return folder / POLICY_FILE
    raise CheckpointError(
        f"no policy in {path}.", "Give a run folder, a checkpoint folder (runs/NAME/best) or a policy.safetensors."
    )
