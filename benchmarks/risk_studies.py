"""Studies of risk and bias: their runs, and the compared numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cells import IN_PROCESS, Cell

#: Share of the worst returns that is looked at.
TAIL = 0.1
MEASURES = "benchmarks/risk_measures.py"
#: Mean return of an evaluation that counts as solved on CartPole with noisy rewards.
SOLVED = 450.0
STEPS_TO_SOLVED = f"steps to {SOLVED:g}"
#: Of runs that take less than a minute and differ a lot.
MANY_SEEDS = tuple(range(8))

Figures = dict[str, float]


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the claim to be checked.

    Attributes:
        name: Of its picture, and on the command line.
        title, text: For the page.
        cells: Label of each method -> its runs; no gates, the whole budget is used.
        picture: What is drawn: a distribution of returns, a curve of the bias, or one of evaluations.
        figures: The numbers of one run, from its record.
        compared: Which of them the claim is about.
        claim: In words.
        holds: Whether it does, given that number's middle over seeds for each label.
        middle: What is taken over seeds: the mean, or the median where a run may never get there.
    """

    name: str
    title: str
    text: str
    cells: Mapping[str, Cell]
    picture: Literal["distribution", "bias", "evaluations"]
    figures: Callable[[Mapping[str, Any]], Figures]
    compared: str
    claim: str
    holds: Callable[[Mapping[str, float]], bool]
    middle: Callable[[Sequence[float]], Any] = np.mean


def measured(
    name: str, task: str, method: str, example: str, budget: int, callback: str, *words: str, minutes: float
) -> Cell:
    """Runs without a gate that measure something by themselves."""
    overrides = (*IN_PROCESS, f"imports=[{MEASURES}]", f"callbacks=['risk_measures:{callback}']", *words)
    return Cell(name, task, method, example, None, budget, overrides, minutes=minutes)


def return_figures(record: Mapping[str, Any]) -> Figures:
    """Mean, quantile and tail mean of final returns."""
    returns = np.sort(np.asarray(record["measured"]["returns"], dtype=np.float64))
    worst = returns[: max(1, round(TAIL * len(returns)))]
    return {
        "mean return": float(returns.mean()),
        "10 % quantile": float(np.quantile(returns, TAIL, method="inverted_cdf")),
        "mean of the worst 10 %": float(worst.mean()),
    }


def bias_figures(record: Mapping[str, Any]) -> Figures:
    """Bias of the value estimate over the second half of the run, its largest value, and the real return."""
    curve = record["measured"]["curve"]
    late = curve[len(curve) // 2 :]
    return {
        "bias, second half": float(np.mean([point["bias"] for point in late])),
        "largest bias": float(max(point["bias"] for point in curve)),
        "real discounted return, second half": float(np.mean([point["real"] for point in late])),
    }


def curve_figures(record: Mapping[str, Any]) -> Figures:
    """Mean of all evaluations, steps until one first reached `SOLVED` (infinite: never), and the score at the end."""
    curve = record["evaluations"]
    return {
        "mean of all evaluations": float(np.mean([mean for _, mean in curve])),
        STEPS_TO_SOLVED: float(next((steps for steps, mean in curve if mean >= SOLVED), np.inf)),
        "score at the end": float(record["score"]),
    }


def noisy_run(name: str, method: str, *words: str) -> Cell:
    noise = (f"imports=[{MEASURES}]", "env.wrappers=['risk_measures:NoisyReward']", "env.streams=2")
    overrides, task = (*IN_PROCESS, *noise, *words), "CartPole-v1, noisy rewards"
    options: dict[str, Any] = {"judged_by": "evaluation", "seeds": MANY_SEEDS, "minutes": 0.7}
    return Cell(name, task, method, "cartpole_ppo", None, 60_000, overrides, **options)


def path_run(name: str, method: str, *words: str) -> Cell:
    return measured(name, "RiskyPath", method, "riskypath_ppo", 120_000, "FinalReturns", *words, minutes=0.7)


def truncation_run(name: str, method: str, drop: int) -> Cell:
    words = (f"algorithm.drop={drop}", "algorithm.critics=2")
    return measured(name, "Pendulum-v1", method, "pendulum_tqc", 10_000, "ValueBias", *words, minutes=4.0)


STUDIES = [
    Study(
        "pg-rainbow",
        "PG-Rainbow against PPO",
        "CartPole-v1 with standard normal noise on every reward, the settings of `examples/cartpole_ppo.yaml`, 60,000 "
        "steps. PG-Rainbow's\ncritic also reads the quantiles of an IQN that learns from the same experience. Greedy "
        "evaluations of 20 episodes every 5,000 steps.",
        {
            "PPO": noisy_run("ppo-noisy-cartpole", "PPO"),
            "PG-Rainbow": noisy_run("pg-rainbow-noisy-cartpole", "PG-Rainbow", "algorithm.name=pg_rainbow"),
        },
        "evaluations",
        curve_figures,
        STEPS_TO_SOLVED,
        f"PG-Rainbow needs fewer steps than PPO until an evaluation first reaches {SOLVED:g}, in the median over seeds",
        lambda medians: medians["PG-Rainbow"] < medians["PPO"],
        middle=np.median,
    ),
    Study(
        "risky-path",
        "Risk-averse PPO on a risky path",
        "`distrl/RiskyPath-v0`: over thin ice the goal is near, and a step now and then costs a heavy-tailed loss; the "
        "way around is long\nand safe. Without a detour the short way returns 3.3 on average, -2 at its 10 % quantile "
        "and -12.5 in its worst tenth, the long way\nalways 2. Both learners have the settings of "
        "`examples/riskypath_ppo.yaml` and the same quantile critic, and differ in one word:\nadvantages under the "
        "mean of its distribution, or under the mean of its worst tenth (CVaR). 1,000 greedy episodes with "
        "the last\npolicy of each seed.",
        {
            "PPO": path_run("riskypath-ppo", "PPO", "algorithm.risk=mean"),
            "CVaR-PPO": path_run("riskypath-cvar-ppo", "CVaR-PPO", "algorithm.risk={name: cvar, level: 0.1}"),
        },
        "distribution",
        return_figures,
        "10 % quantile",
        "CVaR-PPO's 10 % quantile of the return is above PPO's",
        lambda means: means["CVaR-PPO"] > means["PPO"],
    ),
    Study(
        "truncation",
        "What truncation does to overestimation",
        "TQC on Pendulum-v1, two critics of 25 quantiles. Bias: predicted minus real discounted return of the policy's "
        "own actions, the\nentropy bonus on both sides, in reward units; above zero the critics promise too much. "
        "*Truncated*: the 5 largest quantiles of\neach critic are dropped from the pooled target; *not truncated*: "
        "none is.",
        {
            "truncated": truncation_run("tqc-truncated", "TQC", 5),
            "not truncated": truncation_run("tqc-whole", "TQC, nothing dropped", 0),
        },
        "bias",
        bias_figures,
        "bias, second half",
        "with truncation the bias is lower",
        lambda means: means["truncated"] < means["not truncated"],
    ),
]
