"""Helpers of a language-model update: reward plan, budget options, metric sums."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, unknown
from distrl.config.messages import unknown_key
from distrl.language.chain.component import ComponentConfig
from distrl.language.chain.groups import Groups
from distrl.language.models.token_logp import Support
from distrl.language.rewards.plan import RewardPlan, plan_from_words

PLAN_KEYS = ("components", "combination", "gates", "length", "shaping")
ENTROPY = "policy/entropy"
MOVEMENT = ("policy/kl", "policy/ratio_low", "policy/ratio_high", ENTROPY)
FAR = 0.2  # ratios outside 1 -+ this are counted


def policy_metric_sums(part: Columns) -> list[Tensor]:
    """Sum over trainable tokens: k3 of KL(old, new), ratios beyond the clip range, entropy."""
    log_ratio = (part.logp.detach() - part.old_logp).masked_fill(~part.mask, 0.0).clamp(-20, 20)
    ratio = log_ratio.exp()
    entropy = part.entropy.detach().sum() if "entropy" in part else ratio.new_zeros(())
    return [(ratio - 1 - log_ratio).sum(), (ratio < 1 - FAR).sum().float(), (ratio > 1 + FAR).sum().float(), entropy]


def reward_plan(words: Mapping[str, Any], components: Sequence[str], all_components: bool = False) -> RewardPlan:
    """Build the plan of `reward`; default: the first component, or the sum of all."""
    options = dict(words)
    for key in options:
        if key not in PLAN_KEYS:
            raise unknown_key(f"algorithm.reward.{key}", [f"algorithm.reward.{known}" for known in PLAN_KEYS])
    named = options.pop("components", {name: {} for name in (components if all_components else components[:1])})
    for name in named:
        if name not in components:
            raise ConfigError(unknown("reward component", name, components))
    return plan_from_words(named, **options)


def with_budget(word: ComponentConfig, max_new_tokens: int) -> ComponentConfig:
    """Pass the generation budget to components that divide by it, unless the config sets one."""
    name = word if isinstance(word, str) else word.get("name")
    if name in ("seq_mean_token_sum_norm", "drpo"):
        return {"name": name, "max_length": max_new_tokens, **({} if isinstance(word, str) else word)}
    return word


def recorded_support(support: Tensor, mask: Tensor) -> Support:
    """Return the support of trainable tokens from the ids (N, L, K), padded by -1."""
    ids = support[mask].long()
    there = ids >= 0
    offsets = torch.cat([there.new_zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    return Support(ids[there], offsets)


def not_given(word: ComponentConfig, supplied: Sequence[str], algorithm: str) -> None:
    """Refuse options that the algorithm itself supplies."""
    for name in supplied:
        if isinstance(word, Mapping) and name in word:
            raise ConfigError(f"algorithm.advantage gives {name}, which {algorithm} sets.", "Remove it from the word.")


def split_groups(batch: Columns, count: int, rng: np.random.Generator) -> Iterator[Columns]:
    """Split a batch into at most `count` minibatches of whole groups, in random order."""
    groups = Groups(batch.group)
    count = min(count, len(groups))
    if count == 1:
        yield batch
        return
    order = torch.from_numpy(rng.permutation(len(groups))).to(batch.group.device)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    edges = [len(groups) * number // count for number in range(count + 1)]
    where = place[groups.row]
    for start, stop in itertools.pairwise(edges):
        yield batch[((where >= start) & (where < stop)).nonzero().squeeze(1)]
