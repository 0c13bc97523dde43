"""Cells of the learning benchmark; `cell_table.py` lists them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from code_hash import REPOSITORY, code_hash, config_hash, strings

from distrl.config.algorithm import check_algorithm
from distrl.config.load import load_config, read_source
from distrl.config.schema import RunConfig
from distrl.learning.lookup import algorithm_class

SEEDS = (0, 1, 2)

#: A gate is met by two evaluations in a row: one alone may be luck.
IN_A_ROW = 2
EVAL_EVERY = 5_000
EVAL_EPISODES = 20
EVAL_SEED = 0
#: Evaluations at the end of a run whose mean is its score, where runs are compared at equal steps.
SCORED = 5

#: What no cell needs.
COMMON = ("logging.tensorboard=false", "logging.console=plain", "stop.window=20")
IN_PROCESS = ("backend=serial",)
ASYNCHRONOUS = ("backend=ray", "samplers.count=2")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One task of the learning benchmark.

    Attributes:
        name: How it is called on the command line and in the file names of its records.
        task, method: For the table.
        example: Stem of a file in `examples/`.
        gate: Mean return to be reached; None: the cell is only there to be compared with.
        budget: Environment steps within which the gate is to be reached.
        overrides: Words that change the example.
        judged_by: `training`: the mean return of the last 20 training episodes. `evaluation`: `IN_A_ROW` greedy
            evaluations, each of `EVAL_EPISODES` episodes and at or above the gate. The run ends there.
        ceiling: The other direction: the best training mean of the whole budget must stay below the gate.
        median: The gate is for the median over seeds: more than half of them must meet it.
        beats: Name of a cell whose mean score must be lower; both use up the same budget.
        seeds: Seeds that are run.
        minutes: Processor minutes of one run, about: the longest begin first.
    """

    name: str
    task: str
    method: str
    example: str
    gate: float | None
    budget: int
    overrides: tuple[str, ...] = IN_PROCESS
    judged_by: Literal["training", "evaluation"] = "training"
    ceiling: bool = False
    median: bool = False
    beats: str | None = None
    seeds: tuple[int, ...] = SEEDS
    minutes: float = 1.0

    @property
    def scored(self) -> bool:
        """True if the run uses its whole budget, to compare scores at the end."""
        return self.gate is None

    def words(self, seed: int) -> list[str]:
        """All overrides of one run; it ends where the gate is reached, or at the end of the budget."""
        stop = [f"{'tokens' if self.is_text else 'env_steps'}: {self.budget}"]
        if self.gate is not None and self.judged_by == "training":
            stop.append(f"return_mean: {self.gate:g}")
        elif self.gate is not None:
            stop.append(f"eval_mean: {self.gate:g}, eval_in_a_row: {IN_A_ROW}")
        return [f"stop={{{', '.join(stop)}}}", self._evaluation, *COMMON, *self.overrides, f"seed={seed}"]

    @property
    def _evaluation(self) -> str:
        """Evaluations cost time: none where training episodes decide."""
        if self.judged_by == "training":
            return "eval.every_tokens=0" if self.is_text else "eval.every=0"
        # The same starts for every seed: sets of 20 differ by more than learners do (Pendulum-v1: -132 to -174 for one
        # and the same policy).
        episodes = f"episodes: {EVAL_EPISODES}, num_envs: {EVAL_EPISODES}, seed: {EVAL_SEED}"
        every = "every_tokens" if self.is_text else "every"
        return f"eval={{{every}: {EVAL_EVERY}, {episodes}, deterministic: true}}"

    @property
    def config_file(self) -> Path:
        return REPOSITORY / "examples" / f"{self.example}.yaml"

    @cached_property
    def is_text(self) -> bool:
        """True where the example is a run of a language model, which counts tokens."""
        return "task" in read_source(self.config_file)

    @cached_property
    def _loaded(self) -> RunConfig:
        return load_config(self.config_file, self.words(0))

    @cached_property
    def _names(self) -> set[str]:
        """Strings of the config with its defaults: names of methods are among them."""
        config = self._loaded
        algorithm = check_algorithm(config, algorithm_class(config).Config)
        return strings(config.model_dump(mode="json")) | strings(algorithm.model_dump(mode="json"))

    def hashes(self, seed: int) -> dict[str, str]:
        """Compute the hashes that a current record carries.

        Raises:
            UserError: The example is missing or wrong.
        """
        config = self._loaded.model_copy(update={"seed": seed})
        own = [REPOSITORY / entry for entry in config.imports if (REPOSITORY / entry).is_file()]
        name, sharded = config.algorithm["name"], config.store.shards > 1
        return {
            "code": code_hash(name, own, env_id=config.env_or_task, sharded=sharded, names=self._names),
            "config": config_hash(config, [self.gate, self.budget, self.ceiling, self.judged_by]),
        }

    # ---- judging -------------------------------------------------------------------------------------------------

    def reached_at(self, summary: Mapping[str, Any]) -> int | None:
        """Environment steps at which a run met the gate, or None.

        An evaluation counts for the weights that it was made with; on a cluster training goes on meanwhile.
        """
        reason = summary["stopped"]
        if self.judged_by == "training":
            return summary["env_steps"] if reason.startswith("return_mean") else None
        return int(summary["evaluations"][-1][0]) if reason.startswith("eval_mean") else None

    def passed(self, reached_at: int | None) -> bool:
        """True if a run that met the gate at this step, or never (None), passes."""
        if self.scored:
            return True
        if self.ceiling:
            return reached_at is None
        return reached_at is not None and reached_at <= self.budget

    def verdict(self, records: Sequence[Record | None], others: Sequence[Record | None] = ()) -> bool:
        """Decide over all seeds of the cell.

        Args:
            records: Of its seeds; None where there is none.
            others: Those of the cell that it is to beat.
        """
        if None in records or None in others:
            return False
        passed = [bool(record["passed"]) for record in records if record is not None]
        if self.beats is not None:
            mine, theirs = mean_score(records), mean_score(others)
            return mine is not None and theirs is not None and mine > theirs
        return sum(passed) * 2 > len(passed) if self.median else all(passed)

    @property
    def wanted(self) -> str:
        """The gate in words."""
        if self.beats is not None:
            return f"mean score above {self.beats}"
        if self.gate is None:
            return "score"
        if self.ceiling:
            return f"stays below {self.gate:g}"
        return f"{'median ' if self.median else ''}>= {self.gate:g}"


def score_of(evaluations: Sequence[Sequence[float]]) -> float | None:
    """Mean return over the last `SCORED` evaluations [env_steps, mean]; None without any."""
    means = [mean for _, mean in evaluations[-SCORED:]]
    return statistics.fmean(means) if means else None


def mean_score(records: Sequence[Record | None]) -> float | None:
    """Mean score over the seeds that have one."""
    scores = [record["score"] for record in records if record is not None and record["score"] is not None]
    return statistics.fmean(scores) if scores else None
