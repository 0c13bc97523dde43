"""The learning benchmark as a table: task, config, gate, budget."""

from __future__ import annotations

from typing import Any

from cells import ASYNCHRONOUS, IN_PROCESS, Cell
from common import named

#: Two streams, so that both samplers have work, and a replay in two processes of its own.
SHARDED = (*ASYNCHRONOUS, "env.num_envs=2", "env.streams=2", "store.shards=2", "store.max_staleness=1")


#: The zoo's 10,000 random steps leave two evaluations within the budget, and the first comes too early.
EARLY = ("algorithm.learning_starts=2000",)


def evaluated(
    name: str, task: str, method: str, example: str, gate: float | None, budget: int, *words: str, **options: Any
) -> Cell:
    """An off-policy cell: one process, greedy evaluations; `options` may differ."""
    options.setdefault("overrides", (*IN_PROCESS, *words))
    return Cell(name, task, method, example, gate, budget, judged_by="evaluation", **options)


ON_POLICY = [
    Cell("ppo-cartpole", "CartPole-v1", "PPO", "cartpole_ppo", 475, 100_000, minutes=0.2),
    Cell("ppo-acrobot", "Acrobot-v1", "PPO", "acrobot_ppo", -100, 500_000, minutes=0.7),
    Cell("ppo-pendulum", "Pendulum-v1", "PPO", "pendulum_ppo", -250, 300_000, minutes=0.5),
    Cell("appo-cartpole", "CartPole-v1", "APPO, 2 samplers", "cartpole_appo", 475, 500_000, ASYNCHRONOUS, minutes=0.7),
    Cell("impala-cartpole", "CartPole-v1", "IMPALA, 2 samplers", "cartpole_impala", 475, 1_000_000, ASYNCHRONOUS),
    Cell("trpo-cartpole", "CartPole-v1", "TRPO", "cartpole_trpo", 475, 100_000, minutes=0.2),
    Cell("spo-cartpole", "CartPole-v1", "SPO", "cartpole_spo", 475, 200_000, minutes=0.2),
    Cell("ppo-memory", "CartPole-v1, velocities hidden", "PPO, recurrent", "cartpole_memory", 400, 500_000),
    Cell(
        "ppo-memory-feedforward",
        "CartPole-v1, velocities hidden",
        "PPO, feed-forward",
        "cartpole_memory",
        150,
        500_000,
        (*IN_PROCESS, "model.recurrent=null"),
        ceiling=True,
        minutes=2.0,
    ),
]

CARTPOLE = [
    evaluated("dqn-cartpole", "CartPole-v1", "DQN", "cartpole_dqn", 475, 100_000, minutes=0.5),
    evaluated("qr-dqn-cartpole", "CartPole-v1", "QR-DQN", "cartpole_qr_dqn", 475, 100_000, minutes=1.0),
    evaluated("c51-cartpole", "CartPole-v1", "C51", "cartpole_c51", 475, 200_000, minutes=1.2),
    evaluated("iqn-cartpole", "CartPole-v1", "IQN", "cartpole_iqn", 475, 200_000, minutes=2.0),
    evaluated("fqf-cartpole", "CartPole-v1", "FQF", "cartpole_fqf", 475, 200_000, minutes=2.0),
    evaluated("rainbow-cartpole", "CartPole-v1", "Rainbow", "cartpole_rainbow", 475, 200_000, minutes=1.0),
]

VALUE_BASED = [
    evaluated("dqn-acrobot", "Acrobot-v1", "DQN", "acrobot_dqn", -90, 100_000, minutes=1.5),
    evaluated("qr-dqn-acrobot", "Acrobot-v1", "QR-DQN", "acrobot_qr_dqn", -90, 100_000, minutes=2.5),
    evaluated("dqn-lunarlander", "LunarLander-v3", "DQN", "lunarlander_dqn", 120, 150_000, median=True, minutes=4.0),
    evaluated("ppo-lunarlander", "LunarLander-v3", "PPO", "lunarlander_ppo", 200, 1_000_000, minutes=6.0),
    evaluated("dqn-breakout", "MinAtar-Breakout-v1", "DQN", "minatar_breakout_dqn", None, 200_000, minutes=3.5),
    evaluated(
        "rainbow-breakout", "MinAtar-Breakout-v1", "Rainbow", "minatar_breakout_rainbow", None, 200_000,
        beats="dqn-breakout", minutes=9.0,
    ),
]  # fmt: skip

CONTINUOUS = [
    evaluated("sac-pendulum", "Pendulum-v1", "SAC", "pendulum_sac", -170, 20_000, minutes=2.5),
    evaluated("td3-pendulum", "Pendulum-v1", "TD3", "pendulum_td3", -170, 20_000, *EARLY, minutes=2.0),
    evaluated("tqc-pendulum", "Pendulum-v1", "TQC", "pendulum_tqc", -170, 20_000, minutes=4.0),
    evaluated("dsac-pendulum", "Pendulum-v1", "DSAC", "pendulum_dsac", -170, 20_000, minutes=3.5),
    evaluated("ddpg-pendulum", "Pendulum-v1", "DDPG", "pendulum_ddpg", -170, 20_000, *EARLY, minutes=1.5),
    evaluated("sac-halfcheetah", "HalfCheetah-v5", "SAC", "halfcheetah_sac", 3_500, 200_000, seeds=(0,), minutes=35.0),
    evaluated("tqc-halfcheetah", "HalfCheetah-v5", "TQC", "halfcheetah_tqc", 2_500, 100_000, seeds=(0,), minutes=30.0),
]

ON_RAY = [
    evaluated(
        "dqn-cartpole-ray", "CartPole-v1", "DQN, 2 samplers, 2 replay shards", "cartpole_dqn", 475, 100_000,
        overrides=(*SHARDED, "algorithm.rollout_steps=128"), minutes=1.5,
    ),
    evaluated(
        "sac-pendulum-ray", "Pendulum-v1", "SAC, 2 samplers, 2 replay shards", "pendulum_sac", -170, 20_000,
        overrides=SHARDED, minutes=4.0,
    ),
]  # fmt: skip

#: Budgets are tokens of answers.
LANGUAGE = [
    evaluated("tiny-sort-grpo", "Sort six digits, 0.6 M", "GRPO", "tiny_sort_grpo", 0.9, 300_000, minutes=0.7),
    evaluated("tiny-pairs-grpo", "Two digits that sum to n, 0.4 M", "GRPO", "tiny_pairs_grpo", 0.9, 150_000),
]

CELLS = [*ON_POLICY, *CARTPOLE, *VALUE_BASED, *CONTINUOUS, *ON_RAY, *LANGUAGE]


def choose(names: str | None) -> list[Cell]:
    """The cells that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    return named("cell", names, {cell.name: cell for cell in CELLS})
