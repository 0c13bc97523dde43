"""Settings whose fingerprints are taken: of every example and of every cell with records.

Cells and examples keep their configs, and are cut to a few updates of small batches. `fingerprint_cases.py` has the
settings that are made for this alone. Both speak of config keys by the names of `KEYS`, so that a key that is renamed
is changed here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import cell_table
import method_cells
import pretrained_cells
import risk_studies
import staleness
from cells import Cell
from code_hash import REPOSITORY

from distrl.base.registry import register
from distrl.config.load import apply_override, read_source

# ---- words of configs: the one place to change when a key or a registered name gets another one ---------------------

ALGORITHM = "algorithm."
#: Our word -> where it is in a config.
KEYS: dict[str, str] = {
    # the run
    **{key: key for key in ("name", "backend", "deterministic", "callbacks", "logging")},
    **{key: key for key in ("eval", "checkpoint", "samplers", "stop")},
    "updates": "stop.updates",
    "total_steps": "stop.env_steps",
    "total_tokens": "stop.tokens",
    "staleness": "store.max_staleness",
    "capacity": "store.capacity",
    "store_shards": "store.shards",
    "device": "learner.device",
    "learner_threads": "learner.threads",
    "shards": "learner.shards",
    "precision": "learner.precision",
    # environments
    "env": "env.id",
    "env_options": "env.kwargs",
    "envs": "env.num_envs",
    "streams": "env.streams",
    **{key: f"env.{key}" for key in ("wrappers", "frame_stack", "normalize_obs", "normalize_reward")},
    "time_limit": "env.max_episode_steps",
    # text tasks
    "task": "task.name",
    "task_options": "task.kwargs",
    "prompts": "task.prompts",
    "prompt_streams": "task.streams",
    # networks
    **{key: f"model.{key}" for key in ("torso", "hidden", "recurrent", "recurrent_size", "shared")},
    **{key: f"language.{key}" for key in ("source", "layers", "width", "heads", "max_new_tokens", "dtype", "lora")},
    **{key: f"language.{key}" for key in ("top_p", "curriculum", "gradient_checkpointing")},
    "token_head": "language.critic_head",
    "text_pages": "language.texts.every",
    "warm_steps": "language.warm_start.steps",
    "warm_batch": "language.warm_start.batch_size",
    "warm_rate": "language.warm_start.learning_rate",
    # algorithms
    "algorithm": "algorithm.name",
    **{key: ALGORITHM + key for key in ("learning_rate", "gamma", "rollout_steps", "epochs", "minibatches")},
    **{key: ALGORITHM + key for key in ("critic_head", "head", "risk", "critic_epochs", "clip_value", "target_kl")},
    "entropy_weight": "algorithm.entropy_coef",
    "value_weight": "algorithm.value_coef",
    **{key: ALGORITHM + key for key in ("batch_size", "replay_ratio", "learning_starts", "target_interval", "n_step")},
    **{key: ALGORITHM + key for key in ("prioritized", "hindsight", "policy_interval", "next_action", "munchausen")},
    **{key: ALGORITHM + key for key in ("dueling", "noisy", "side_start", "stock_scale", "episodes", "sync_interval")},
    **{key: ALGORITHM + key for key in ("kl_coefficient", "group_size", "reward", "advantage", "objective", "packing")},
    **{key: ALGORITHM + key for key in ("divergence", "beta", "correction", "aggregation", "micro_batch")},
    "old": "algorithm.old_logp",
    "reference_answers": "algorithm.reference_answers",
    "reference_prompts": "algorithm.prompts",
}
#: The section that text runs alone have, how they name a task, and the model that needs no download.
LANGUAGE, TASK, TINY = "language", "{}", "tiny"
#: Our name of a registered method -> its present one, where they differ. Names of settings stay as they are.
RENAMED: dict[str, str] = {"bnpo_parts": "bnpo_components", "iqn_iterated": "iterated_q"}
#: Environments and wrappers of our own.
RISKY_CHOICE, TWO_CHANNELS = "distrl/RiskyChoice-v0", "distrl/TwoChannels-v0"
BIT_FLIP, POINT_GOAL, PICTURES = "distrl/BitFlip-v0", "distrl/PointGoal-v0", "distrl/MinAtar-Breakout-v1"
GUARDED_PATH, CONTEXTS = "distrl.control.envs.wrappers.context:GuardedPath", "choose_context"
STOCK = {"stock": {"gamma": 1.0, "start": [0, 10], "scale": 10}}
#: What every run has, whatever its config says.
EVERYWHERE: dict[str, Any] = {
    "name": "fingerprint",
    "backend": "serial",
    "deterministic": True,
    "callbacks": ["fingerprint_worlds:Watch"],
    "eval": {"every": 0},
    "checkpoint": {"every": 0, "every_seconds": 0},
    "logging": {"console": "quiet", "tensorboard": False},
    "samplers": {"count": 1, "threads": 1},
    "learner_threads": 1,
    "device": "cpu",
}

# ---- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One short run.

    Attributes:
        name: Stays the same whatever is renamed.
        config: The whole config, nested.
        may_refuse: A config error is an answer too: not every algorithm takes every head.
    """

    name: str
    config: Mapping[str, Any]
    may_refuse: bool = False

    @property
    def identity(self) -> str:
        """Equal for settings that are the same run."""
        return json.dumps(self.config, sort_keys=True)


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Put a value where `KEYS` has the key."""
    *sections, leaf = KEYS[key].split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[leaf] = value


def read_key(config: Mapping[str, Any], key: str) -> Any:
    """Look up a key of a config, or its algorithm's default; None if there is neither."""
    found: Any = config
    for part in KEYS[key].split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is not None or not KEYS[key].startswith(ALGORITHM):
        return found
    field = fields(read_key(config, "algorithm")).get(KEYS[key].removeprefix(ALGORITHM)) if key != "algorithm" else None
    return None if field is None else field.default


def fields(algorithm: str) -> dict[str, Any]:
    """Keys of an algorithm's config, with their defaults."""
    return register.get("algorithm", algorithm).Config.model_fields


def label(name: str) -> str:
    """Name of a registered method in the names of settings."""
    return next((ours for ours, present in RENAMED.items() if present == name), name)


def finished(config: dict[str, Any]) -> dict[str, Any]:
    """Add the keys of every run."""
    for key, value in EVERYWHERE.items():
        set_key(config, key, value)
    if LANGUAGE in config:
        set_key(config, "text_pages", 0)
    return config


# ---- cells and examples, cut short -----------------------------------------------------------------------------------

#: The most that is left of a number in a short run.
ROLLOUTS = {
    "envs": 8, "rollout_steps": 32, "epochs": 2, "minibatches": 4, "critic_epochs": 2, "episodes": 20,
    "side_start": 256,
}  # fmt: skip
REPLAYED = {
    "envs": 4, "rollout_steps": 16, "batch_size": 16, "learning_starts": 64, "replay_ratio": 1.0, "capacity": 1000,
    "target_interval": 4, "policy_interval": 2, "sync_interval": 2,
}  # fmt: skip
TEXTS = {"group_size": 8, "minibatches": 4, "warm_steps": 40, "max_new_tokens": 8, "reference_answers": 1}
PRETRAINED = {"group_size": 4, "minibatches": 1, "max_new_tokens": 8}
#: Answers of an update.
ANSWERS, PRETRAINED_ANSWERS = 64, 8
#: Updates of a short run; replays first fill up, and stale data are late by their age.
UPDATES = 3


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """Cut a run to a few updates of small batches; its schedules get half of their way."""
    replays = read_key(config, "replay_ratio") is not None
    batch, waiting = 0, 0
    if LANGUAGE in config:
        tiny = read_key(config, "source") == TINY
        lower(config, TEXTS if tiny else PRETRAINED)
        prompts = (ANSWERS if tiny else PRETRAINED_ANSWERS) // read_key(config, "group_size")
        lower(config, {"prompts": prompts})
        if read_key(config, "reference_answers"):
            set_key(config, "reference_prompts", prompts)  # learning begins once all were asked
    else:
        lower(config, REPLAYED if replays else ROLLOUTS)
        if read_key(config, "envs") % (read_key(config, "streams") or 1):
            set_key(config, "streams", 1)
        batch = read_key(config, "rollout_steps") * read_key(config, "envs")
        waiting = ceil(read_key(config, "learning_starts") / batch) if replays else 0
    updates = UPDATES + waiting + (read_key(config, "staleness") or 0)
    set_key(config, "stop", {})
    set_key(config, "updates", updates)
    set_key(config, *(("total_tokens", 10**6) if LANGUAGE in config else ("total_steps", 2 * updates * batch)))
    return finished(config)


def lower(config: dict[str, Any], limits: Mapping[str, float]) -> None:
    """Cut every number that is above its limit."""
    for key, most in limits.items():
        value = read_key(config, key)
        if isinstance(value, int | float) and value > most:
            set_key(config, key, most)


def example_settings() -> Iterator[Setting]:
    """Settings of every file of `examples/`."""
    for file in sorted((REPOSITORY / "examples").glob("*.yaml")):
        yield Setting(f"example/{file.stem}", shortened(read_source(file)))


def cell_settings() -> Iterator[Setting]:
    """Settings of every cell that has records, with its first seed."""
    benches: dict[str, list[Any]] = {
        "learning": cell_table.CELLS,
        "methods": method_cells.method_cells(),
        "pretrained": pretrained_cells.CELLS,
        "risk": [cell for study in risk_studies.STUDIES for cell in study.cells.values()],
        "staleness": list(staleness.CELLS.values()),
    }
    for bench, cells in benches.items():
        for cell in cells:
            yield Setting(f"cell/{bench}/{label(cell.name)}", shortened(config_of(cell)))


def config_of(cell: Cell) -> dict[str, Any]:
    """Apply a cell's words to its example."""
    config = read_source(cell.config_file)
    for word in cell.words(cell.seeds[0]):
        apply_override(config, word)
    return config
