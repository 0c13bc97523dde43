"""The studies of risk and bias as a table: what runs against what, and which numbers of a run are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cells import IN_PROCESS, Cell

#: Share of the worst returns that is looked at.
TAIL = 0.1
MEASURES = "benchmarks/risk_measures.py"

Figures = dict[str, float]


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the claim to be checked.

    Attributes:
        name: Of its picture, and on the command line.
        title, text: For the page.
        cells: Label of each method -> its runs; no gates, the whole budget is used.
        figures: The numbers of one run, from its `measured`.
        compared: Which of them the claim is about.
        claim: In words.
        holds: Whether it does, given the mean over seeds of that number for each label.
    """

    name: str
    title: str
    text: str
    cells: Mapping[str, Cell]
    figures: Callable[[Mapping[str, Any]], Figures]
    compared: str
    claim: str
    holds: Callable[[Mapping[str, float]], bool]


def measured(
    name: str, task: str, method: str, example: str, budget: int, callback: str, *words: str, minutes: float
) -> Cell:
    """Runs without a gate that measure something by themselves."""
    overrides = (*IN_PROCESS, f"imports=[{MEASURES}]", f"callbacks=['risk_measures:{callback}']", *words)
    return Cell(name, task, method, example, None, budget, overrides, minutes=minutes)


def return_figures(found: Mapping[str, Any]) -> Figures:
    """Mean, quantile and tail mean of final returns."""
    returns = np.sort(np.asarray(found["returns"], dtype=np.float64))
    worst = returns[: max(1, round(TAIL * len(returns)))]
    return {
        "mean return": float(returns.mean()),
        "10 % quantile": float(np.quantile(returns, TAIL, method="inverted_cdf")),
        "mean of the worst 10 %": float(worst.mean()),
    }


def bias_figures(found: Mapping[str, Any]) -> Figures:
    """Bias of the value estimate over the second half of the run, its largest value, and the real return."""
    curve = found["curve"]
    late = curve[len(curve) // 2 :]
    return {
        "bias, second half": float(np.mean([point["bias"] for point in late])),
        "largest bias": float(max(point["bias"] for point in curve)),
        "real discounted return, second half": float(np.mean([point["real"] for point in late])),
    }


def path_run(name: str, method: str, *words: str) -> Cell:
    # With lam near 1 the advantages are whole returns, and the risk of the critic's law cancels out of them.
    task, shared = "RiskyPath", ("algorithm.lam=0.3",)
    return measured(name, task, method, "riskypath_ppo", 100_000, "FinalReturns", *shared, *words, minutes=1.0)


def truncation_run(name: str, method: str, drop: int) -> Cell:
    words = (f"algorithm.drop={drop}", "algorithm.critics=2")
    return measured(name, "Pendulum-v1", method, "pendulum_tqc", 10_000, "ValueBias", *words, minutes=4.0)


STUDIES = [
    Study(
        "risky-path",
        "Risk-averse PPO on a risky path",
        "`distrl/RiskyPath-v0`: over thin ice the goal is near, and a step now and then costs a heavy-tailed loss; the "
        "way around is long\nand safe. The short way returns 3.3 on average and -2 at its 10 % quantile, the long way "
        "always 2. Both learners have the same\nquantile critic and differ in one word: advantages under the mean of "
        "its law, or under the mean of its worst tenth (CVaR).\n1,000 greedy episodes with the last policy of each "
        "seed.",
        {
            "PPO": path_run("riskypath-ppo", "PPO", "algorithm.risk=mean"),
            "CVaR-PPO": path_run("riskypath-cvar-ppo", "CVaR-PPO", "algorithm.risk={name: cvar, level: 0.1}"),
        },
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
        bias_figures,
        "bias, second half",
        "with truncation the bias is lower",
        lambda means: means["truncated"] < means["not truncated"],
    ),
]
