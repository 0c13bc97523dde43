"""Comparisons of the throughput benchmark: both sides, and the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from code_hash import REPOSITORY
from common import seconds_to_reach

from distrl.base.errors import UserError

SOLVED = 475.0
Line = dict[str, Any]

#: Phases of a serial run that are the work itself; evaluation and start-up are left out of the wall time.
WORK = ("env", "policy", "learn")
NOT_COUNTED = ("start", "eval")


def steps_per_second(line: Line) -> float:
    """Consumed environment steps a second, from the end of the first update to the last.

    Raises:
        UserError: The run had one update only.
    """
    if line["steps_per_second"] is None:
        raise UserError(f"{line['peer']} made a single update, so there is nothing to time.", "Give it more steps.")
    return float(line["steps_per_second"])


def gradient_steps_per_second(line: Line) -> float:
    """Gradient updates per second of an off-policy run after its first update.

    Raises:
        UserError: There were none to count.
    """
    if not line["gradient_steps_per_second"]:
        raise UserError(f"{line['peer']} made no gradient updates to count.", "Give it more steps.")
    return float(line["gradient_steps_per_second"])


def seconds_to_solve(line: Line) -> float:
    """Training seconds until a greedy evaluation first reached 475; infinite where none did."""
    found = seconds_to_reach(line["eval"], SOLVED)
    return math.inf if found is None else found


def plumbing(line: Line) -> float:
    """Share of a serial run's time outside of environment, policy, learning, start and eval."""
    phases = {name: value for name, value in line["phases"]["loop"].items() if name not in NOT_COUNTED}
    return 1.0 - sum(phases.get(name, 0.0) for name in WORK) / sum(phases.values())


@dataclass(frozen=True)
class Side:
    """One program with its settings.

    Attributes:
        program: A key of `common.PEERS`.
        words: Its arguments; those of `ours` are a config file and overrides.
        steps: Environment steps of one run.
        options: Further arguments of `ours`.
    """

    program: str
    words: tuple[str, ...]
    steps: int
    options: tuple[str, ...] = ()

    def command(self, seed: int, scale: float = 1.0) -> list[str]:
        """Arguments of the peer script."""
        steps = int(self.steps * scale)
        if self.program != "ours":
            return [*self.words, f"--total-steps={steps}", f"--seed={seed}"]
        stop = f"stop={{env_steps: {steps}}}"
        return [*self.options, f"--seed={seed}", "--", *self.words, stop]


@dataclass(frozen=True)
class Row:
    """A figure to be reached: of one side, or the ratio of one side to another.

    Attributes:
        label: For the table.
        ours, peer: Names of sides; without a peer the figure itself is compared with the target.
        target, goal: To reach; goal is the better one, without consequences.
        at_most: Smaller is better.
    """

    label: str
    ours: str
    peer: str | None
    target: float
    metric: Callable[[Line], float] = steps_per_second
    unit: str = "steps/s"
    at_most: bool = False
    goal: float | None = None

    def met(self, figure: float) -> bool:
        return figure <= self.target if self.at_most else figure >= self.target


@dataclass(frozen=True)
class Group:
    """Sides that take turns, and their rows; `repeats` None: from the command line."""

    sides: dict[str, Side]
    rows: list[Row]
    repeats: int | None = None


def ours(example: str, *words: str, steps: int, options: tuple[str, ...] = ()) -> Side:
    """distrl with an example's config and overrides."""
    return Side("ours", (str(REPOSITORY / "examples" / f"{example}.yaml"), *words), steps, options)


# Networks are 64-64 tanh, separate for policy and value, unless a line says otherwise.
SERIAL = ("backend=serial", "samplers.count=1", "env.streams=1")
RAY = ("backend=ray", "samplers.count=2", "env.streams=2")
ZOO = ours("cartpole_ppo", *SERIAL, steps=100_000)
EVALUATED = ("--eval-every=2000", "--eval-episodes=20", "--stop-at=475")
WIDE = ("env.num_envs=64", "algorithm.rollout_steps=32", "algorithm.epochs=4", "algorithm.minibatches=8")
SINGLE_FILE = (
    "env.num_envs=4",
    "algorithm={name: ppo, rollout_steps: 128, epochs: 4, minibatches: 4, gamma: 0.99, lam: 0.95, clip: 0.2, "
    "clip_value: 0.2, entropy_coef: 0.01, value_coef: 0.5, learning_rate: {from: 2.5e-4, to: 0, over: run}}",
)
# RLlib's tuned PPO takes batches of 4,000 in minibatches of 128, which do not divide: 16 x 256 = 4,096 on both sides.
RLLIB_PPO = (
    "env.num_envs=16",
    "algorithm={name: ppo, rollout_steps: 256, epochs: 6, minibatches: 32, gamma: 0.99, learning_rate: 3e-4}",
)
# Its APPO is fastest with its own batches of 500, and takes each of them up to twice (circular buffer): here 16 x 32 =
# 512 rows, always twice.
RLLIB_APPO = ("env.num_envs=16", "algorithm.rollout_steps=32", "algorithm.epochs=2", "algorithm.minibatches=1")
RLLIB_SHAPE = ("--workers=2", "--num-envs=8", "--hidden", "64", "64", "--activation=tanh", "--no-share")
# Sample Factory: every row once, 512 rows an optimizer step, one torso for policy and value.
FACTORY_APPO = (
    "env.num_envs=32",
    "algorithm.rollout_steps=32",
    "algorithm.epochs=1",
    "algorithm.minibatches=2",
    "model.shared=true",
)

# Off-policy: 256-256 ReLU networks, one environment, and a call of four updates every four steps for SAC on both sides.
UPDATES: dict[str, Any] = {"metric": gradient_steps_per_second, "unit": "updates/s"}
EVERY_FOUR = ("algorithm.rollout_steps=4", "algorithm.learning_starts=500", "algorithm.batch_size=256")
SB3_SAC = (
    *("--algo=sac", "--env=Pendulum-v1", "--rollout=4", "--epochs=4", "--minibatch-size=256", "--lr=1e-3"),
    "--learning-starts=500",
)

GROUPS: dict[str, Group] = {
    "a": Group(
        {"ours": ZOO, "sb3": Side("sb3", (), 100_000)}, [Row("serial, 8 x 32, 20 epochs of 256", "ours", "sb3", 2.0)]
    ),
    "b": Group(
        {
            "ours": ours("cartpole_ppo", *SERIAL, *SINGLE_FILE, steps=200_000),
            "single-file": Side("single-file", (), 100_000),
        },
        [Row("serial, 4 x 128, 4 epochs x 4 minibatches", "ours", "single-file", 1.8)],
    ),
    "c": Group(
        {
            "vector": ours("cartpole_ppo", *SERIAL, *WIDE, "env.backend=vector", steps=400_000),
            "envpool": ours("cartpole_ppo", *SERIAL, *WIDE, "env.backend=envpool", steps=400_000),
            "sb3": Side("sb3", ("--num-envs=64", "--rollout=32", "--epochs=4", "--minibatch-size=256"), 200_000),
        },
        [
            Row("serial, native vector, 64 x 32, 4 epochs of 256", "vector", "sb3", 4.0),
            Row("serial, EnvPool, 64 x 32, 4 epochs of 256", "envpool", "sb3", 4.0),
        ],
    ),
    "d": Group(
        {
            "ours": ours("cartpole_ppo", *RAY, *RLLIB_PPO, steps=200_000),
            "rllib": Side("rllib", (*RLLIB_SHAPE, "--rollout=256"), 100_000),
            "ours-async": ours("cartpole_appo", *RAY, *RLLIB_APPO, steps=300_000),
            "rllib-async": Side("rllib", (*RLLIB_SHAPE, "--algo=appo"), 100_000),
        },
        [
            Row("Ray, 2 samplers x 8, PPO, 6 epochs of 128", "ours", "rllib", 2.0),
            Row("Ray, 2 samplers x 8, APPO, 2 epochs of 512", "ours-async", "rllib-async", 2.0),
        ],
    ),
    "e": Group(
        {
            "ours": ours("cartpole_appo", *RAY, *FACTORY_APPO, steps=400_000),
            "sample-factory": Side("sample-factory", ("--workers=2", "--num-envs=16"), 300_000),
        },
        [Row("Ray, 2 samplers x 16, APPO, one epoch of 512", "ours", "sample-factory", 1.0, goal=1.5)],
    ),
    "f": Group(
        {
            "ours": ours("cartpole_ppo", *SERIAL, steps=100_000, options=EVALUATED),
            "sb3": Side("sb3", EVALUATED, 100_000),
        },
        [
            Row(
                "until a greedy evaluation reaches 475, zoo settings",
                *("ours", "sb3", 0.6),
                metric=seconds_to_solve,
                unit="s",
                at_most=True,
            )
        ],
        repeats=5,
    ),
    "g": Group(
        {"ours": ZOO},
        [Row("plumbing, serial, zoo settings", "ours", None, 0.15, metric=plumbing, unit="of wall time", at_most=True)],
    ),
    "h": Group(
        {
            "dqn": ours("cartpole_dqn", "backend=serial", steps=60_000),
            "sb3-dqn": Side("sb3-off-policy", (), 20_000),
            "sac": ours("pendulum_sac", "backend=serial", "store.capacity=100000", *EVERY_FOUR, steps=6_000),
            "sb3-sac": Side("sb3-off-policy", SB3_SAC, 3_000),
        },
        [
            Row("DQN CartPole, 128 updates of 64 every 256 steps", "dqn", "sb3-dqn", 1.3, **UPDATES),
            Row("SAC Pendulum, 4 updates of 256 every 4 steps", "sac", "sb3-sac", 1.3, **UPDATES),
        ],
    ),
}
