"""Exact return distributions of small known MDPs: the references that distributional heads are compared with.

A distribution is a pair of atoms: (values (..., M), probs (..., M)). An MDP is given by its `Outcomes`. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Distribution = tuple[Tensor, Tensor]

#: Values closer than this are one atom.
SAME = 1e-9


@dataclass(frozen=True)
class Outcomes:
    """Everything that can follow each (state, action): the joint distribution of reward and next state.

    Args:
        probs: (S, A, M), summing to 1 over M; 0 pads.
        reward: (S, A, M).
        next_state: (S, A, M) int64.
        terminal: (S,) bool: the episode ends on arrival there, and the return from there is 0.
    """

    probs: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor

    @classmethod
    def of(cls, arrays: Any) -> Outcomes:
        """From anything with these four arrays as attributes, such as a `TabularMDP` (of one reward channel)."""
        return cls(
            torch.as_tensor(arrays.probs, dtype=torch.float64),
            torch.as_tensor(arrays.reward, dtype=torch.float64),
            torch.as_tensor(arrays.next_state, dtype=torch.int64),
            torch.as_tensor(arrays.terminal, dtype=torch.bool),
        )

    def means(self) -> tuple[Tensor, Tensor]:
        """Transitions (S, A, S) and mean rewards (S, A), as `tests/exact/mdp.py` takes them."""
        states, actions, _ = self.probs.shape
        transition = torch.zeros(states, actions, states, dtype=torch.float64)
        going_on = torch.where(self.terminal[self.next_state], 0.0, self.probs)
        transition.scatter_add_(2, self.next_state, going_on)
        return transition, (self.probs * self.reward).sum(-1)


def merge(values: Tensor, probs: Tensor) -> Distribution:
    """One distribution (M,) with its atoms sorted, equal ones joined, and impossible ones left out.

    >>> merge(torch.tensor([2.0, 1.0, 2.0]), torch.tensor([0.25, 0.5, 0.25]))
    (tensor([1., 2.]), tensor([0.5000, 0.5000]))
    """
    values, probs = values.reshape(-1), probs.reshape(-1)
    values, probs = values[probs > 0], probs[probs > 0]
    values, order = values.sort()
    new = torch.ones(len(values), dtype=torch.bool)
    new[1:] = values.diff() > SAME * (1.0 + values[1:].abs())
    group = new.cumsum(0) - 1
    return values[new], torch.zeros(int(new.sum()), dtype=probs.dtype).scatter_add_(0, group, probs[order])


def exact_backup(
    outcomes: Outcomes, state: int, action: int, gamma: float, distributions: list[Distribution]
) -> Distribution:
    """The distribution of r + gamma Z(s'), merged: Bellemare et al. 2017, equation 3.

    Args:
        distributions: Z of every state.
    """
    values, probs = [], []
    for m in (outcomes.probs[state, action] > 0).nonzero().flatten().tolist():
        next_values, next_probs = distributions[int(outcomes.next_state[state, action, m])]
        values.append(outcomes.reward[state, action, m] + gamma * next_values)
        probs.append(outcomes.probs[state, action, m] * next_probs)
    return merge(torch.cat(values), torch.cat(probs))


def exact_return_distributions(
    outcomes: Outcomes, policy: Tensor, gamma: float, horizon: int, max_atoms: int = 1 << 20
) -> list[Distribution]:
    """The distribution of the return from every state, by enumerating everything that can happen in `horizon` steps.

    Exact where every episode ends within `horizon`; otherwise the return after that counts as 0, an error of at most
    gamma^horizon times the largest return.

    Args:
        policy: (S, A) action probabilities.
        max_atoms: Give up beyond so many atoms in one state.

    Returns:
        For every state (values (M_s,), probs (M_s,)), sorted.

    Raises:
        ValueError: More atoms than `max_atoms`.
    """
    states, actions = policy.shape
    nothing = (torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    distributions: list[Distribution] = [nothing] * states
    for _ in range(horizon):
        previous, distributions = distributions, []
        for s in range(states):
            if outcomes.terminal[s]:
                distributions.append(nothing)
                continue
            parts = [
                (values, policy[s, a] * probs)
                for a in range(actions)
                if policy[s, a] > 0
                for values, probs in [exact_backup(outcomes, s, a, gamma, previous)]
            ]
            distribution = merge(torch.cat([v for v, _ in parts]), torch.cat([p for _, p in parts]))
            if len(distribution[0]) > max_atoms:
                raise ValueError(f"the return from state {s} has more than {max_atoms} atoms; take a shorter horizon.")
            distributions.append(distribution)
    return distributions


def exact_projection(values: Tensor, probs: Tensor, support: Tensor) -> Tensor:
    """Probabilities (..., K) on a fixed even support: each atom's mass goes to its two neighbors.

    The mean is kept where the support covers the values; mass outside goes to the ends.

    >>> support = torch.tensor([0.0, 1.0, 2.0])
    >>> exact_projection(0.25 + 0.5 * support, torch.tensor([0.2, 0.3, 0.5]), support)
    tensor([0.2250, 0.6500, 0.1250])
    """
    width = support[1] - support[0]
    # the hat function 1 - |x - z_k| / width of every atom at every support point: no floor and ceil, so no lost mass
    distance = (values.clamp(support[0], support[-1])[..., None] - support).abs() / width
    return (probs[..., None] * (1.0 - distance).clamp(min=0.0)).sum(-2)


def project_quantile(values: Tensor, probs: Tensor, size: int) -> Tensor:
    """The quantiles (..., size) at the midpoints (2i - 1) / (2 size): the closest `size` equal atoms in W1.

    Dabney et al. 2018, lemma 2.

    >>> project_quantile(torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.4]), 4)
    tensor([0., 0., 1., 1.])
    """
    values, order = values.sort(-1)
    mass = probs.gather(-1, order).cumsum(-1)
    tau = ((torch.arange(size, dtype=values.dtype) + 0.5) / size).expand(*values.shape[:-1], size).contiguous()
    index = torch.searchsorted((mass + 1e-12).contiguous(), tau).clamp(max=values.shape[-1] - 1)
    return values.gather(-1, index)


def wasserstein1(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the Wasserstein-1 distance of discrete distributions: the integral of |F - G|. Vallender 1974.

    Args:
        first: values (..., M) and probs (..., M).
        second: values (..., L) and probs (..., L), with the same leading shape.

    Returns:
        (...), in units of the values.

    >>> distribution = (torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))
    >>> wasserstein1(distribution, (torch.tensor([0.5]), torch.tensor([1.0])))
    tensor(0.5000)
    """
    values, order = torch.cat((first[0], second[0]), -1).sort(-1)
    first_probs, second_probs = (probs.expand(found.shape) for found, probs in (first, second))
    signed = torch.cat((first_probs, -second_probs), -1).gather(-1, order)
    gap = signed.cumsum(-1)[..., :-1].abs()
    return (gap * values.diff(dim=-1)).sum(-1)


def wasserstein(one: Distribution, other: Distribution) -> float:
    """Compute `wasserstein1` of two single distributions, (M,) and (N,), in float64."""
    return float(wasserstein1((one[0].double(), one[1].double()), (other[0].double(), other[1].double())))


def distributional_evaluation(
    outcomes: Outcomes,
    policy: Tensor,
    gamma: float,
    support: Tensor | None = None,
    size: int = 32,
    tolerance: float = 1e-10,
    iterations: int = 10_000,
) -> Distribution:
    """Distributional dynamic programming: the fixed point of a projected Bellman operator for one policy.

    Args:
        support: (K,) even points: project categorically (Rowland et al. 2018). None: onto `size` quantiles (Dabney et
            al. 2018).
        tolerance: Largest change of a probability or quantile at which to stop.
        iterations: At most so many backups.

    Returns:
        Values and probs, both (S, K) or (S, size); terminal states have all their mass at 0 (or next to it).

    Raises:
        ValueError: It does not settle.
    """
    return _fixed_point(outcomes, gamma, lambda values, probs: policy, support, size, tolerance, iterations)


def distributional_control(
    outcomes: Outcomes,
    gamma: float,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
    support: Tensor | None = None,
    size: int = 32,
    tolerance: float = 1e-10,
    iterations: int = 10_000,
) -> Distribution:
    """Distributional value iteration: the same with, in every backup, the action that scores best.

    What C51 or QR-DQN would learn without errors of sampling and function approximation.

    Args:
        score: A functional of atoms (values (..., M), probs (..., M)) -> (...), by default the mean. A risk measure
            here gives the nested objective, not the one of the whole episode (`stock_plan`).
        support: As for `distributional_evaluation`.
        tolerance: Largest change at which to stop.
        iterations: At most so many backups.

    Returns:
        Distributions of action values: values and probs, both (S, A, K) or (S, A, size).

    Raises:
        ValueError: It does not settle; with ties or risk measures the greedy actions may alternate for ever.
    """
    score = score or (lambda values, probs: (values * probs).sum(-1))

    def greedy(values: Tensor, probs: Tensor) -> Tensor:
        q = score(*_action_targets(outcomes, gamma, values, probs))
        return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).double()

    values, probs = _fixed_point(outcomes, gamma, greedy, support, size, tolerance, iterations)
    return _project(*_action_targets(outcomes, gamma, values, probs), support, size)


def _action_targets(outcomes: Outcomes, gamma: float, values: Tensor, probs: Tensor) -> Distribution:
    """Atoms of r + gamma Z(s') for every action, (S, A, M * K), from the distributions of states (S, K)."""
    ended = outcomes.terminal[outcomes.next_state][..., None]
    next_values = torch.where(ended, 0.0, values[outcomes.next_state])
    target = outcomes.reward[..., None] + gamma * next_values
    return target.flatten(2), (outcomes.probs[..., None] * probs[outcomes.next_state]).flatten(2)


def _project(values: Tensor, probs: Tensor, support: Tensor | None, size: int) -> Distribution:
    if support is None:
        quantiles = project_quantile(values, probs, size)
        return quantiles, torch.full_like(quantiles, 1.0 / size)
    projected = exact_projection(values, probs, support)
    return support.expand_as(projected), projected


def _fixed_point(
    outcomes: Outcomes,
    gamma: float,
    choose: Callable[[Tensor, Tensor], Tensor],
    support: Tensor | None,
    size: int,
    tolerance: float,
    iterations: int,
) -> Distribution:
    states = outcomes.probs.shape[0]
    zero = torch.zeros(states, 1, dtype=torch.float64)
    support = None if support is None else support.double()
    values, probs = ended_values, ended_probs = _project(zero, torch.ones_like(zero), support, size)
    ended, change = outcomes.terminal[:, None], float("inf")
    for _ in range(iterations):
        policy = choose(values, probs)
        targets, weights = _action_targets(outcomes, gamma, values, probs)
        mixed = (policy[..., None] * weights).flatten(1)
        new_values, new_probs = _project(targets.flatten(1), mixed, support, size)
        new_values = torch.where(ended, ended_values, new_values)
        new_probs = torch.where(ended, ended_probs, new_probs)
        change = max(float((new_values - values).abs().max()), float((new_probs - probs).abs().max()))
        values, probs = new_values, new_probs
        if change <= tolerance:
            return values, probs
    raise ValueError(f"the distributions still change by {change:g} after {iterations} backups.")
