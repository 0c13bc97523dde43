"""Effects that papers claim, as comparisons of two cells of the methods' bench.

A claim is judged on this bed: one tiny task, three seeds. *Reached* and *not reached* say which way the means lie, no
more; what the bed cannot show (lengths, several turns, stale data) has no entry here and counts as not tried.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from method_measures import late

from distrl.language.rewards.weights import hypervolume

Record = Mapping[str, Any]
Records = Sequence[Record]

#: Differences of success below this are no difference.
NOISE = 0.02
REACHED, NOT_REACHED, NOT_TRIED, MISSING = "reached", "not reached", "not tried", "no records"


def mean(records: Records, name: str) -> float:
    """Mean of a figure over the seeds."""
    return statistics.fmean(record["measured"][name] for record in records)


def trace_mean(records: Records, name: str) -> float:
    """Mean of a whole curve over the seeds."""
    return statistics.fmean(statistics.fmean(record["traces"][name]) for record in records)


def hardest(base: Records) -> list[int]:
    """The third of the questions that a baseline answers worst."""
    rates = [statistics.fmean(each) for each in zip(*(r["measured"]["by_question"] for r in base), strict=True)]
    return sorted(range(len(rates)), key=lambda question: rates[question])[: len(rates) // 3]


def on_questions(records: Records, questions: Sequence[int]) -> float:
    """Mean success on some questions."""
    return statistics.fmean(record["measured"]["by_question"][q] for record in records for q in questions)


def as_good(mine: Records, base: Records) -> bool:
    return mean(mine, "success") >= mean(base, "success") - NOISE


def near(records: Records, target: float, share: float) -> bool:
    """Test that every seed's mean entropy of the second half is near the target."""
    return all(abs(late(record["traces"]["entropy"]) - target) <= share * target for record in records)


def volume(records: Records) -> float:
    """Mean hypervolume of the points (success, form) that training visited."""
    fronts = (torch.tensor([record["traces"]["success"], record["traces"]["form"]]).T for record in records)
    return statistics.fmean(hypervolume(points, torch.zeros(2)) for points in fronts)


def spread(records: Records) -> float:
    return statistics.pstdev(record["measured"]["success"] for record in records)


@dataclass(frozen=True)
class Effect:
    """A paper's claim, and its test on this bench.

    Attributes:
        claim: In words.
        mine, base: Names of the cells that are compared.
        holds: Of their records.
    """

    claim: str
    mine: str
    base: str
    holds: Callable[[Records, Records], bool]


#: By entry.
EFFECTS: dict[int, Effect] = {
    4: Effect(
        "60 % zero advantages, more entropy left, success as with the mean",
        "quantile_grpo",
        "dapo",
        lambda m, b: (
            trace_mean(m, "zero_advantage") >= 0.6 and mean(m, "entropy") > mean(b, "entropy") and as_good(m, b)
        ),
    ),
    30: Effect(
        "larger hypervolume of visited (success, form) than with fixed weights",
        "dynamic_reward_weighting",
        "grpo-two-rewards",
        lambda m, b: volume(m) > volume(b),
    ),
    62: Effect(
        "higher pass@64, more distinct answers in 64, more entropy left",
        "rover",
        "grpo",
        lambda m, b: all(mean(m, name) > mean(b, name) for name in ("pass_64", "distinct_64", "entropy")),
    ),
    65: Effect(
        "learns from one answer a prompt",
        "tbrm",
        "tbrm",
        lambda m, b: all(record["measured"]["success"] > record["traces"]["success"][0] + 0.1 for record in m),
    ),
    82: Effect(
        "twice as many distinct right answers at equal success",
        "flowrl",
        "grpo",
        lambda m, b: mean(m, "distinct_64") > 2 * mean(b, "distinct_64") and as_good(m, b),
    ),
    94: Effect(
        "more entropy left, higher success on the hardest third, success not lower",
        "riskpo",
        "grpo",
        lambda m, b: (
            mean(m, "entropy") > mean(b, "entropy")
            and on_questions(m, hardest(b)) > on_questions(b, hardest(b))
            and as_good(m, b)
        ),
    ),
    96: Effect(
        "a fifth more answers that teach, higher success on the hardest third",
        "knapsack",
        "grpo",
        lambda m, b: (
            1 - trace_mean(m, "zero_advantage") >= 1.2 * (1 - trace_mean(b, "zero_advantage"))
            and on_questions(m, hardest(b)) > on_questions(b, hardest(b))
        ),
    ),
    108: Effect(
        "no answer without an advantage, majority of 8 right more often",
        "copo",
        "grpo",
        lambda m, b: trace_mean(m, "zero_advantage") < 0.01 and mean(m, "majority_8") > mean(b, "majority_8"),
    ),
    114: Effect("success of GRPO with no more tokens", "a_star_po", "grpo", as_good),
    119: Effect(
        "success rises without labels",
        "ttrv",
        "ttrv",
        lambda m, b: all(record["measured"]["success"] > record["traces"]["success"][0] for record in m),
    ),
    142: Effect(
        "higher pass@64 than with a reverse KL of the same weight",
        "rapo",
        "grpo-reverse-kl",
        lambda m, b: mean(m, "pass_64") > mean(b, "pass_64"),
    ),
    146: Effect(
        "each reward at least as high as with their sum",
        "gdpo",
        "grpo-two-rewards",
        lambda m, b: as_good(m, b) and mean(m, "form") >= mean(b, "form") - NOISE,
    ),
    154: Effect(
        "at six times the learning rate: higher success, less spread over seeds",
        "pipo-fast",
        "grpo-fast",
        lambda m, b: mean(m, "success") > mean(b, "success") and spread(m) < spread(b),
    ),
    209: Effect(
        "entropy within 20 % of its target, which GRPO's leaves",
        "dcpo",
        "grpo",
        lambda m, b: near(m, 0.25, 0.2) and not near(b, 0.25, 0.2),
    ),
    215: Effect(
        "entropy within 15 % of its target, which GRPO's leaves",
        "aepo",
        "grpo",
        lambda m, b: near(m, 0.5, 0.15) and not near(b, 0.5, 0.15),
    ),
}


def judged(entry: int, records: Mapping[str, Records]) -> str:
    """Evaluate an entry's claim on the records of all cells (empty lists: no records)."""
    effect = EFFECTS.get(entry)
    if effect is None:
        return NOT_TRIED
    mine, base = records.get(effect.mine, ()), records.get(effect.base, ())
    if not mine or not base:
        return MISSING
    return REACHED if effect.holds(mine, base) else NOT_REACHED
