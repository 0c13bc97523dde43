"""The learning benchmark as a table: task, config, gate, budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from code_hash import REPOSITORY, code_hash, config_hash

from distrl.base.errors import UserError, unknown
from distrl.config.load import load_config

SEEDS = (0, 1, 2)

#: What no cell needs: evaluations cost time, and the gate is about training episodes.
COMMON = ("eval.every=0", "logging.tensorboard=false", "logging.console=plain", "stop.window=20")
IN_PROCESS = ("backend=serial",)
ASYNCHRONOUS = ("backend=ray", "samplers.count=2")


@dataclass(frozen=True)
class Cell:
    """One task of the learning benchmark.

    Attributes:
        name: How it is called on the command line and in the file names of its records.
        task, method: For the table.
        example: Stem of a file in `examples/`.
        gate: Mean return of the last 20 training episodes.
        budget: Environment steps within which the gate is to be reached.
        overrides: Words that change the example.
        ceiling: The other direction: the best such mean of the whole budget must stay below the gate.
    """

    name: str
    task: str
    method: str
    example: str
    gate: float
    budget: int
    overrides: tuple[str, ...] = IN_PROCESS
    ceiling: bool = False

    def words(self, seed: int) -> list[str]:
        """All overrides of one run; the run ends where the gate is reached, or at the end of the budget."""
        stop = f"stop={{env_steps: {self.budget}, return_mean: {self.gate:g}}}"
        return [stop, *COMMON, *self.overrides, f"seed={seed}"]

    @property
    def config_file(self) -> Path:
        return REPOSITORY / "examples" / f"{self.example}.yaml"

    @cached_property
    def _loaded(self) -> Any:
        return load_config(self.config_file, self.words(0))

    def hashes(self, seed: int) -> dict[str, str]:
        """What a record must carry to be current.

        Raises:
            UserError: The example is missing or wrong.
        """
        config = self._loaded.model_copy(update={"seed": seed})
        own = [REPOSITORY / entry for entry in config.imports if (REPOSITORY / entry).is_file()]
        return {
            "code": code_hash(config.algorithm["name"], own),
            "config": config_hash(config, [self.gate, self.budget, self.ceiling]),
        }

    def passed(self, reached: bool, env_steps: int) -> bool:
        """Whether a run that ended so meets the gate."""
        return not reached if self.ceiling else reached and env_steps <= self.budget

    @property
    def wanted(self) -> str:
        """The gate in words."""
        return f"{'stays below' if self.ceiling else '>='} {self.gate:g}"


CELLS = [
    Cell("ppo-cartpole", "CartPole-v1", "PPO", "cartpole_ppo", 475, 100_000),
    Cell("ppo-acrobot", "Acrobot-v1", "PPO", "acrobot_ppo", -100, 500_000),
    Cell("ppo-pendulum", "Pendulum-v1", "PPO", "pendulum_ppo", -250, 300_000),
    Cell("appo-cartpole", "CartPole-v1", "APPO, 2 samplers", "cartpole_appo", 475, 500_000, ASYNCHRONOUS),
    Cell("impala-cartpole", "CartPole-v1", "IMPALA, 2 samplers", "cartpole_impala", 475, 1_000_000, ASYNCHRONOUS),
    Cell("trpo-cartpole", "CartPole-v1", "TRPO", "cartpole_trpo", 475, 100_000),
    Cell("spo-cartpole", "CartPole-v1", "SPO", "cartpole_spo", 475, 200_000),
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
    ),
]


def choose(names: str | None) -> list[Cell]:
    """The cells that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    if not names:
        return CELLS
    known = {cell.name: cell for cell in CELLS}
    for name in names.split(","):
        if name not in known:
            raise UserError(unknown("cell", name, known))
    return [known[name] for name in names.split(",")]
