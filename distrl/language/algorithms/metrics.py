"""Curves of a batch of answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.language.chain.groups import Groups
from distrl.language.rewards.pass_at_k import pass_at_k

#: Numbers of attempts whose success is estimated from larger groups.
PASS_AT = (2, 4, 8)


def batch_metrics(batch: Columns, components: Sequence[str]) -> dict[str, float]:
    """Compute metrics of the policy that sampled a batch."""
    groups = Groups(batch.group)
    correct = batch.correct.double()
    lengths = batch.mask.sum(1).double()
    tokens = float(lengths.sum())
    metrics = {
        "text/success": float(correct.mean()),
        "text/reward": float(batch.reward.double().mean()),
        "text/pass_at_group": float((groups.sum(correct) > 0).double().mean()),
        "text/zero_variance_groups": float(_equal(batch.reward.double(), groups)),
        "text/zero_advantage_share": float(_zero(batch.advantage, batch.mask).double().mean()),
        "text/unverified": 1.0 - float(batch.verified.double().mean()),
        "text/truncated": float(batch.truncated.double().mean()),
        "text/length": float(lengths.mean()),
        "text/surprise": -float((batch.behavior_logp * batch.mask).double().sum()) / max(tokens, 1.0),
        "text/distinct_solutions": _distinct(batch, groups),
        "text/distinct_answers": _distinct_share(batch, groups),
    }
    for k in PASS_AT:
        if bool((groups.count > k).any()):
            metrics[f"text/pass_at_{k}"] = float(pass_at_k(batch.correct, batch.group, k).nanmean())
    if batch.correct.any():
        metrics["text/length_correct"] = float(lengths[batch.correct].mean())
    return metrics | {
        f"reward/{name}": float(batch.raw_reward_components[:, k].double().mean()) for k, name in enumerate(components)
    }


def _equal(reward: Tensor, groups: Groups) -> Tensor:
    """Share of groups with equal rewards, among groups of at least two answers; 0 for none."""
    several = groups.count > 1
    return (groups.all_equal(reward) & several).sum() / several.sum().clamp(min=1)


def _zero(advantage: Tensor, mask: Tensor) -> Tensor:
    """(N,) bool: answers with advantage zero. Advantages are (N,), or (N, L) for tokens."""
    return advantage == 0 if advantage.dim() == 1 else ((advantage == 0) | ~mask).all(1)


def _distinct(batch: Columns, groups: Groups) -> float:
    """Distinct correct answers of a group, mean over groups that have one; 0 for none."""
    right = batch.correct & (batch.answer >= 0)
    if not bool(right.any()):
        return 0.0
    pairs = torch.unique(torch.stack([groups.row[right], batch.answer[right]], 1), dim=0)
    return len(pairs) / len(torch.unique(pairs[:, 0]))


def _distinct_share(batch: Columns, groups: Groups) -> float:
    """Different answers of a group, right or wrong, over its answers; mean over groups."""
    pairs = torch.unique(torch.stack([groups.row, batch.answer], 1), dim=0)
    different = torch.bincount(pairs[:, 0], minlength=len(groups))
    return float((different / groups.count).double().mean())
