"""Tags of a run: groups, meanings, and reduction of several values to one point.

`docs/monitoring.md` shows the same two tables; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

GROUPS: dict[str, str] = {
    "return": "undiscounted return of training episodes, raw reward",
    "length": "steps of training episodes",
    "eval": "evaluation episodes, on separate environments",
    "loss": "terms of the loss, as the optimizer sees them",
    "policy": "the policy and how the update changed it",
    "throughput": "speed of the run",
    "staleness": "age of consumed experience, in weight versions",
    "replay": "the replay of off-policy learners",
    "text": "answers of a language model",
    "reward": "means of the task's reward components, by name",
    "time": "wall time by phase",
    "system": "this process and its machine",
}

TAGS: dict[str, str] = {
    "return/mean": "mean over the episodes that ended since the last point",
    "return/mean_last_20": "mean over the last 20 episodes",
    "length/mean": "mean over the episodes that ended since the last point",
    "eval/return_mean": "mean over the evaluation's episodes",
    "eval/return_std": "standard deviation over the evaluation's episodes",
    "eval/length_mean": "mean over the evaluation's episodes",
    "loss/policy": "the surrogate objective, negated",
    "loss/value": "the critic's loss",
    "loss/critic": "off-policy: the loss of the action values, or of the return distribution",
    "loss/actor": "off-policy: the loss of the policy, minus the value of its actions (and entropy)",
    "loss/total": "the differentiated sum",
    "loss/grad_norm": "norm of the gradient before clipping",
    "policy/entropy": "mean entropy in nats",
    "policy/kl": "mean divergence from the behavior policy, in nats",
    "policy/clip_fraction": "share of rows whose ratio was clipped",
    "policy/explained_variance": "of the returns, by the critic",
    "policy/learning_rate": "the optimizer's step size now",
    "policy/value": "off-policy: mean value of the replayed actions, by the critics",
    "policy/value_gap": "value-based: mean of the best action's value above the average action's",
    "policy/epsilon": "value-based: probability of a random action now",
    "policy/temperature": "soft actor-critic: weight of the entropy now",
    "policy/critic_spread": "ensembles: standard deviation over the critics' means, averaged over rows",
    "policy/sigma": "Gaussian critics: running mean of their standard deviation",
    "policy/average_reward": "average-reward learners: the estimate of the reward per step",
    "policy/stock": "learners with a stock: its mean over replayed observations",
    "throughput/env_steps_per_s": "consumed environment steps per second since the last point",
    "throughput/updates_per_s": "updates per second since the last point",
    "throughput/tokens_per_s": "language: tokens learned from, per second between two updates",
    "staleness/mean": "mean over consumed units",
    "staleness/max": "largest over consumed units",
    "staleness/tokens_mean": "language: mean over the tokens learned from",
    "staleness/mixed_answers": "language: share of answers that more than one version of the weights wrote",
    "replay/transitions": "transitions that can be drawn",
    "replay/gradient_steps": "gradient steps so far",
    "replay/lost_with_shard": "transitions that were lost with shards that died",
    "text/success": "share of answers whose first reward component is 1",
    "text/reward": "mean reward after transforms, gates and shaping",
    "text/pass_at_group": "share of prompts with a right answer in their group",
    "text/pass_at_2": "estimated success in two attempts, where groups are larger",
    "text/pass_at_4": "the same for four",
    "text/pass_at_8": "the same for eight",
    "text/zero_variance_groups": "share of groups whose rewards are all equal: nothing is learned from them",
    "text/zero_advantage_share": "share of answers with advantage 0",
    "text/unverified": "share of answers whose verifier failed or took too long; they count as wrong",
    "text/mismatch_mean": "mean difference of log-probabilities between sampler and learner, at the gate's checks",
    "text/mismatch_max": "the largest of them",
    "text/mismatch_stale_cache": "the same mean over tokens that new weights drew on the cache of older ones",
    "text/truncated": "share of answers cut at `language.max_new_tokens`",
    "text/length": "mean tokens of an answer",
    "text/length_correct": "mean tokens of a right answer",
    "text/surprise": "mean negative log-probability of a token when it was drawn, an estimate of the entropy",
    "text/distinct_solutions": "different right answers in a group, over groups that have one",
    "text/distinct_answers": "different answers in a group, right or wrong, over its answers",
    "text/curriculum_share": "share of items that the curriculum uses now, uniform draws excluded",
    "policy/ratio_low": "share of tokens whose ratio to the old policy is below 0.8",
    "policy/ratio_high": "share of tokens whose ratio to the old policy is above 1.2",
    "policy/log_z": "FlowRL: mean of the learned log partition function over prompts",
    "policy/optimal_value": "A*-PO: mean estimated value of the batch's prompts",
    "policy/reference_share": "A*-PO: finished share of stage 1, the reference's answers",
    "policy/score_low": "RiskPO: the tracked lower quantile of papers' scores",
    "policy/score_high": "RiskPO: the tracked upper one",
    "policy/reward_rise": "PIPO: rise of the mean reward over the last ones, in their standard deviations",
    "policy/tempered_share": "DCPO: weight of the other temperature in the advantage",
    "policy/reward_factor": "dynamic reward weights: factor on advantages for new trade-offs",
    "policy/hypervolume": "dynamic reward weights: volume of the trade-offs reached so far",
    "policy/weight_success": "dynamic reward weights: of the reward component `success`; others by their names",
    "text/local_weight": "COPO: weight of a prompt's own comparison, mean over answers",
    "text/replaced": "AEPO: share of answers that redrawn ones have replaced",
    "text/group_size_max": "Knapsack: most answers to one prompt",
    "text/group_size_std": "Knapsack: standard deviation of the number of answers",
    "eval/success_greedy": "success on held-out items with the likeliest tokens",
    "eval/success_sampled": "success on held-out items with drawn tokens",
    "time/wall_s": "seconds of training, earlier attempts included",
    "system/rss_mib": "resident memory of the learner's process",
    "system/cpu_percent": "CPU of the learner's process; 100 is one core",
    "system/available_mib": "free memory of the machine",
}

# The last part of a tag whose newest value is the one to show: schedules and running totals.
_NEWEST = {
    "learning_rate", "entropy_coef", "clip", "clip_range", "kl_coef", "kl_limit", "temperature", "exploration",
    "epsilon", "average_reward", "progress", "total", "wall_s", "transitions", "gradient_steps",
}  # fmt: skip

Reduce = Callable[[Sequence[float]], float]


def group(tag: str) -> str:
    """Return the part before the first slash.

    >>> group("loss/value")
    'loss'
    """
    return tag.partition("/")[0]


def reducer(tag: str) -> Reduce:
    """Return the function that reduces a tag's values between two flushes to one point.

    Names with the word `max` or `min` keep the extreme, schedules and totals the newest, all others the mean.

    >>> reducer("staleness/max")([1.0, 4.0, 2.0])
    4.0
    >>> reducer("policy/learning_rate")([3e-4, 2e-4])
    0.0002
    >>> reducer("loss/value")([1.0, 2.0])
    1.5
    """
    name = tag.rpartition("/")[2]
    if tag != "loss/total" and (name in _NEWEST or name.startswith("mean_last_")):
        return _newest
    words = name.split("_")
    return _largest if "max" in words else _smallest if "min" in words else _mean


def _newest(values: Sequence[float]) -> float:
    return values[-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def _smallest(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else min(values)
