"""Settings made for fingerprints alone: algorithms with all their heads, and switches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fingerprint_settings as settings
from fingerprint_settings import ALGORITHM, KEYS, Setting, fields, finished, label, set_key
from fingerprint_worlds import ACTIONS, OBSERVATIONS

from distrl.base.registry import register

TOY = "fingerprint_worlds:Spaces"
#: Runs of the smallest batches that learn, with the numbers that their algorithm has. Episodes are cut by a time limit.
CONTROL: dict[str, Any] = {
    "env": "CartPole-v1", "envs": 4, "streams": 2, "time_limit": 15, "hidden": [16], "updates": 5,
    "rollout_steps": 16, "epochs": 2, "minibatches": 2, "critic_epochs": 2, "learning_rate": 1e-3,
}  # fmt: skip
#: The replay overflows.
REPLAYED: dict[str, Any] = {
    "rollout_steps": 8, "batch_size": 16, "learning_starts": 32, "replay_ratio": 0.25, "target_interval": 3,
    "sync_interval": 2, "capacity": 200, "updates": 8, "learning_rate": 3e-3,
}  # fmt: skip
#: Sixteen answers an update, of a model that was taught how answers look.
TEXT: dict[str, Any] = {
    "task": settings.TASK.format("sort_digits"), "task_options": {"count": 2}, "prompts": 4, "prompt_streams": 2,
    "source": settings.TINY, "layers": 1, "width": 32, "heads": 2, "max_new_tokens": 3, "dtype": "fp32",
    "warm_steps": 60, "warm_batch": 32, "warm_rate": 3e-3, "updates": 3, "learning_rate": 1e-3,
    "group_size": 4, "minibatches": 2, "reward": {"components": {"success": {}, "placed": {}}},
}  # fmt: skip
CONTINUOUS = ("sac", "td3", "ddpg", "tqc", "dsac", "dsac_quantile", "redq", "aro_ddpg")
#: Nothing is compared within a prompt.
ALONE: dict[str, Any] = {"group_size": 1, "prompts": 16}
#: What an algorithm needs besides; None leaves a key out.
NEEDS: dict[str, dict[str, Any]] = {
    **{name: {"env": "Pendulum-v1"} for name in CONTINUOUS},
    "cesor": {"env": settings.GUARDED_PATH, "wrappers": [settings.CONTEXTS], "time_limit": 20, "episodes": 10},
    "md3qn": {"env": settings.TWO_CHANNELS},
    "pg_rainbow": {"side_start": 64},
    "stock_dqn": {"env": settings.RISKY_CHOICE, "wrappers": [settings.STOCK], "gamma": 1.0, "stock_scale": 10},
    "bnpo": {"reward": None},
    "reinforce": ALONE,
    "tbrm": ALONE,
    "a_star_po": {**ALONE, "reference_prompts": 16, "reference_answers": 1},
    "sft": {**ALONE, "reward": None},
    "one_token_rollout": {**ALONE, "reward": None},
}
#: Where the law of returns is chosen, one of them in each algorithm.
HEAD_KEYS = ("critic_head", "head")
#: A law of several reward channels needs an environment that pays them.
CHANNELS = "joint"


def made(name: str, algorithm: str, may_refuse: bool = False, **values: Any) -> Setting:
    """Make a setting of an algorithm; `values` override the usual ones."""
    present = settings.RENAMED.get(algorithm, algorithm)
    own = fields(present)
    text = "group_size" in own
    chosen = dict(TEXT) if text else {**CONTROL, **(REPLAYED if "replay_ratio" in own else {})}
    config: dict[str, Any] = {}
    for key, value in {**chosen, **NEEDS.get(algorithm, {}), "algorithm": present, **values}.items():
        path = KEYS[key]
        missing = path.startswith(ALGORITHM) and path.removeprefix(ALGORITHM) not in own
        if value is not None and (key in values or not missing):
            set_key(config, key, value)
    set_key(config, *(("total_tokens", 10**6) if text else ("total_steps", 1000)))
    return Setting(name, finished(config), may_refuse)


def algorithm_settings() -> Iterator[Setting]:
    """Settings of every algorithm, with every return distribution that it may take."""
    heads = [method.name for method in register.methods("return_distribution")]
    for method in register.methods("algorithm"):
        name, own = label(method.name), fields(method.name)
        yield made(f"algorithm/{name}", name)
        key = next((key for key in HEAD_KEYS if KEYS[key].removeprefix(ALGORITHM) in own), None)
        if name == "ppo_tokens":
            key = "token_head"
        for head in heads if key else ():
            world = {"env": settings.TWO_CHANNELS} if label(head) == CHANNELS and key != "token_head" else {}
            yield made(f"algorithm/{name}/{label(head)}", name, True, **{key: {"name": head}}, **world)


def risk_settings() -> Iterator[Setting]:
    """Settings of every measure of risk: for advantages, for acting and for actors."""
    for method in register.methods("risk"):
        for algorithm, key in (("ppo", "critic_head"), ("dqn", "head"), ("dsac_quantile", "critic_head")):
            words = {key: {"name": "quantile", "size": 8}, "risk": {"name": method.name}}
            yield made(f"risk/{algorithm}/{label(method.name)}", algorithm, True, **words)


#: Links of language-model algorithms: plug point -> our key, and what goes with it.
LINKS: dict[str, tuple[str, dict[str, Any]]] = {
    "advantage": ("advantage", {}),
    "token_loss": ("objective", {}),
    "row_loss": ("objective", {}),
    "group_loss": ("objective", {}),
    "divergence": ("divergence", {"beta": 0.1}),
    "aggregation": ("aggregation", {}),
    "behavior_correction": ("correction", {"old": "recompute", "staleness": 1}),
}


def link_settings() -> Iterator[Setting]:
    """Settings of every link of GRPO; some need an algorithm of their own and are refused."""
    for point, (key, besides) in LINKS.items():
        for method in register.methods(point):
            words = {key: method.name, **besides}
            yield made(f"link/{point}/{label(method.name)}", "grpo", True, **words)


#: Switches: name -> algorithm, values.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo_gru": ("ppo", {"recurrent": "gru", "recurrent_size": 8}),
    "ppo_lstm": ("ppo", {"recurrent": "lstm", "recurrent_size": 8, "staleness": 1}),
    "impala_gru": ("impala", {"recurrent": "gru", "recurrent_size": 8, "staleness": 2, "updates": 5}),
    "a2c_lstm": ("a2c", {"recurrent": "lstm", "recurrent_size": 8}),
    "appo_stale": ("appo", {"staleness": 2, "updates": 5, "kl_coefficient": 0.5}),
    "ppo_minatar_cnn": ("ppo", {"env": settings.PICTURES, "torso": "minatar_cnn"}),
    "ppo_nature_cnn": ("ppo", {"env": TOY, "env_options": {"observation": "picture"}, "torso": "nature_cnn"}),
    "ppo_resnet": ("ppo", {"env": TOY, "env_options": {"observation": "picture"}, "torso": "impala_resnet"}),
    "ppo_shards": ("ppo", {"shards": 2}),
    "ppo_gru_shards": ("ppo", {"shards": 2, "recurrent": "gru", "recurrent_size": 8}),
    "ppo_shared_torso": ("ppo", {"shared": True}),
    "ppo_frame_stack": ("ppo", {"frame_stack": 3}),
    "ppo_bf16": ("ppo", {"precision": "bf16"}),
    "ppo_normalized": ("ppo", {"env": "Pendulum-v1", "normalize_obs": True, "normalize_reward": True}),
    "ppo_weights": ("ppo", {"entropy_weight": 0.02, "value_weight": 0.7, "clip_value": 0.2, "target_kl": 0.5}),
    "ppo_schedule": ("ppo", {"learning_rate": {"from": 1e-3, "to": 0, "over": "run"}}),
    "dqn_prioritized": ("dqn", {"prioritized": True, "n_step": 3}),
    "dqn_double_dueling": ("dqn", {"next_action": "double", "dueling": True}),
    "dqn_noisy": ("dqn", {"noisy": True}),
    "dqn_munchausen": ("dqn", {"munchausen": 0.9, "next_action": "soft"}),
    "dqn_cnn": ("dqn", {"env": settings.PICTURES, "torso": "minatar_cnn"}),
    "dqn_normalized": ("dqn", {"normalize_obs": True, "normalize_reward": True}),
    "dqn_hindsight": ("dqn", {"env": settings.BIT_FLIP, "hindsight": {"relabeled": 0.8, "horizon": 10}}),
    "dqn_store_shards": ("dqn", {"store_shards": 2, "staleness": 1}),
    "dqn_bf16": ("dqn", {"precision": "bf16"}),
    "sac_hindsight": ("sac", {"env": settings.POINT_GOAL, "hindsight": {"relabeled": 0.8, "horizon": 10}}),
    "sac_prioritized": ("sac", {"prioritized": True, "n_step": 3}),
    "sac_normalized": ("sac", {"normalize_obs": True, "normalize_reward": True}),
    "td3_dict": ("td3", {"env": TOY, "env_options": {"observation": "dict", "action": "box"}}),
    "grpo_uniform": ("grpo", {"curriculum": {"name": "uniform", "size": 50}}),
    "grpo_success_band": ("grpo", {"curriculum": {"name": "success_band", "size": 50}}),
    "grpo_dynamic": ("grpo", {"curriculum": {"name": "dynamic", "size": 50}}),
    "grpo_lora": ("grpo", {"lora": {"rank": 2, "alpha": 4}, "learning_rate": 1e-2}),
    "grpo_lora_k3": ("grpo", {"lora": {"rank": 2, "alpha": 4}, "divergence": "k3", "beta": 0.1}),
    "grpo_unpacked": ("grpo", {"packing": False}),
    "grpo_micro_batch": ("grpo", {"micro_batch": 3}),
    "grpo_shards": ("grpo", {"shards": 2}),
    "grpo_stale": ("grpo", {"staleness": 2, "updates": 5, "old": "recompute", "correction": "tis"}),
    "grpo_top_p": ("grpo", {"top_p": 0.9, "entropy_weight": 0.01}),
    "grpo_k2": ("grpo", {"divergence": "k2", "beta": 0.1, "aggregation": "seq_mean_token_mean"}),
    "grpo_checkpointing": ("grpo", {"gradient_checkpointing": True}),
    "ppo_tokens_shards": ("ppo_tokens", {"shards": 2}),
}


def variant_settings() -> Iterator[Setting]:
    """Settings of switches, and of policies on every kind of space."""
    for name, (algorithm, values) in VARIANTS.items():
        yield made(f"variant/{name}", algorithm, **values)
    for observation in OBSERVATIONS:
        for algorithm in ("ppo", "dqn"):
            yield made(f"space/{algorithm}/{observation}", algorithm, env=TOY, env_options={"observation": observation})
    for action in ACTIONS:
        yield made(f"space/ppo/to_{action}", "ppo", env=TOY, env_options={"action": action})
    for action in ("discrete", "multi_discrete"):
        yield made(f"space/ppo/masked_{action}", "ppo", env=TOY, env_options={"action": action, "masked": True})
    yield made("space/dqn/masked", "dqn", env=TOY, env_options={"masked": True})
    yield made("space/sac/to_box", "sac", env=TOY, env_options={"action": "box"})
