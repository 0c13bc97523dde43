"""RiskPO: advantages of bundles of prompts from the tails of their score distribution.

A bundle is a few prompts with the same number of answers each; its "paper" k is the k-th answer to every one of them,
and the score of a paper is the sum of its answers' rewards. Prompts that are always solved or never still matter
through their bundle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.groups import Groups, as_double, like


def paper_scores(reward: Tensor, bundle: Tensor, draw: Tensor) -> tuple[Tensor, Groups]:
    """Score of every paper, and the papers as groups of rows.

    Args:
        bundle: (R,) int64, the bundle of the row's prompt.
        draw: (R,) int64, k: which of its prompt's answers the row is.

    Returns:
        (P,) float64 scores; `Groups` whose `row` gives each row's paper.
    """
    papers = Groups(torch.stack([bundle, draw], dim=1).unique(dim=0, return_inverse=True)[1])
    return papers.sum(as_double(reward)), papers


def track_quantile(quantile: float, scores: Tensor, level: float, rate: float = 0.1) -> float:
    """One step of an online quantile: q + rate (level - share of scores below q). Robbins and Monro 1951."""
    return quantile + rate * (level - float((scores < quantile).double().mean()))


def mixed_quantile(scores: Tensor, level: float, tracked: float | None, batch_share: float = 0.0) -> float:
    """The tracked quantile moved by `batch_share` towards that of `scores`; None: theirs."""
    if tracked is None:
        return float(scores.quantile(level))
    return tracked + batch_share * (float(scores.quantile(level)) - tracked) if batch_share else tracked


def mixed_var_weight(
    score: Tensor,
    low: float,
    high: float,
    *,
    a: float = 0.2,
    b: float = 0.8,
    tail_weight: float = 1.5,
    natural_baseline: bool = False,
    risk_seeking: bool = False,
) -> Tensor:
    """The clipped score of mixed value at risk: (w CVaR part + range part) / (1 + w). Same shape.

    Args:
        low: q_a, the a-quantile of scores.
        high: q_b.
        a: Level of the lower tail.
        b: Level of the upper end of the range.
        tail_weight: w. 0 leaves the range alone.
        natural_baseline: Subtract the range's largest value, so that the upper tail gets exactly 0, all else less.
        risk_seeking: The upper tail in place of the lower: what happens if only the best counts.
    """
    middle = ((score - low).clamp(min=0.0) - (score - high).clamp(min=0.0)) / (b - a)
    if natural_baseline:
        middle = middle - (high - low) / (b - a)
    tail = (score - high).clamp(min=0.0) / (1.0 - b) if risk_seeking else -(low - score).clamp(min=0.0) / a
    return (tail_weight * tail + middle) / (1.0 + tail_weight)


@register.advantage("riskpo_mvar", paper="RiskPO, 2025", entries=[94])
def riskpo_mvar(
    reward: Tensor,
    group: Tensor,
    bundle: Tensor,
    draw: Tensor,
    *,
    low_quantile: float | None = None,
    high_quantile: float | None = None,
    batch_share: float = 0.0,
    a: float = 0.2,
    b: float = 0.8,
    tail_weight: float = 1.5,
    natural_baseline: bool = False,
    risk_seeking: bool = False,
    credit: str = "uniform",
    share_limit: float = 2.0,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Tensor:
    """Mixed value at risk of the papers' scores over the bundle's standard deviation. (R,).

    Args:
        group: (R,) int64, prompts.
        low_quantile: q_a tracked over training (`track_quantile`); None: this batch's own.
        batch_share: How much this batch's own quantiles count beside the tracked ones. 0: not at all.
        credit: `uniform`: every answer of a paper gets its advantage; `std`: over the standard deviation of the
            prompt's rewards (1 where that is at most 1e-3); `sum_mean`: in proportion to the answer's reward less
            its prompt's mean, equal shares where these sum to less than 1e-6.
        share_limit: Bound of the shares of `sum_mean`.
    """
    if credit not in ("uniform", "std", "sum_mean"):
        raise ConfigError(f"advantage riskpo_mvar: no credit {credit!r}.", "Write uniform, std or sum_mean.")
    value = as_double(reward)
    score, papers = paper_scores(value, bundle, draw)
    low = mixed_quantile(score, a, low_quantile, batch_share)
    high = mixed_quantile(score, b, high_quantile, batch_share)
    weight = mixed_var_weight(
        score,
        low,
        high,
        a=a,
        b=b,
        tail_weight=tail_weight,
        natural_baseline=natural_baseline,
        risk_seeking=risk_seeking,
    )
    bundles = Groups(bundle[papers.first_rows()])
    std = bundles.spread(bundles.std(score, ddof))
    advantage = papers.spread(torch.where(std < 1e-6, weight, weight / (std + eps)))
    if credit == "uniform":
        return like(advantage, reward)
    prompts = Groups(group)
    if credit == "std":
        spread = prompts.std(value, ddof)
        return like(advantage / prompts.spread(torch.where(spread <= 1e-3, torch.ones_like(spread), spread)), reward)
    surplus = value - prompts.spread(prompts.mean(value))
    total, size = papers.spread(papers.sum(surplus)), papers.spread(papers.count).double()
    even = total.abs() < 1e-6
    share = torch.where(even, 1.0 / size, surplus / torch.where(even, torch.ones_like(total), total))
    return like(advantage * share.clamp(-share_limit, share_limit), reward)
