"""Exact solutions of small known MDPs: the references that learned values are compared with.

An MDP is given by its transition probabilities (S, A, S) and mean rewards (S, A). A state that ends the episode has
rows of zeros: what is missing from a row's sum is the probability that the episode ends. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: From the values of all actions (S, A) to the value of the state (S,): the next-action rule of a Bellman target.
ValueRule = Callable[[Tensor], Tensor]


def random_mdp(
    states: int, actions: int, generator: torch.Generator, end: float = 0.0, branching: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A random MDP: Dirichlet(1) transitions, standard normal mean rewards, Dirichlet(1) initial distribution.

    Args:
        states: S.
        actions: A.
        generator: Where the randomness comes from.
        end: Probability that a step ends the episode.
        branching: Successors of each (state, action), drawn anew for each; by default all S.

    Returns:
        Transitions (S, A, S) whose rows sum to 1 - end, mean rewards (S, A), initial distribution (S,).
    """

    def simplex(*shape: int) -> Tensor:
        weights = -torch.rand(*shape, dtype=torch.float64, generator=generator).clamp(min=1e-300).log()
        return weights / weights.sum(-1, keepdim=True)

    if branching is None or branching >= states:
        transition = simplex(states, actions, states)
    else:
        order = torch.rand(states, actions, states, dtype=torch.float64, generator=generator).argsort(-1)
        transition = torch.zeros(states, actions, states, dtype=torch.float64)
        transition.scatter_(-1, order[..., :branching], simplex(states, actions, branching))
    reward = torch.randn(states, actions, dtype=torch.float64, generator=generator)
    return (1.0 - end) * transition, reward, simplex(states)


def under_policy(transition: Tensor, reward: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """The Markov chain that a policy makes of an MDP.

    Args:
        transition: (S, A, S).
        reward: (S, A).
        policy: (S, A) action probabilities.

    Returns:
        P_pi (S, S) and r_pi (S,).
    """
    return torch.einsum("sa,sat->st", policy, transition), (policy * reward).sum(-1)


def policy_evaluation(transition: Tensor, reward: Tensor, policy: Tensor, gamma: float) -> Tensor:
    """V = (I - gamma P_pi)^-1 r_pi, (S,).

    With gamma = 1 the policy must end every episode, else the system is singular.

    >>> stay = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> policy_evaluation(stay, torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), 0.5)
    tensor([2.], dtype=torch.float64)
    """
    chain, mean_reward = under_policy(transition, reward, policy)
    return torch.linalg.solve(torch.eye(len(chain), dtype=chain.dtype) - gamma * chain, mean_reward)


def backup(transition: Tensor, reward: Tensor, values: Tensor, gamma: float) -> Tensor:
    """Q = r + gamma P V: one Bellman backup of state values (S,) to action values (S, A)."""
    return reward + gamma * transition @ values


def occupancy(transition: Tensor, policy: Tensor, initial: Tensor, gamma: float) -> Tensor:
    """eta(s, a) = (1 - gamma) sum_t gamma^t P(s_t = s, a_t = a), (S, A).

    Its flow equation: sum_a eta(s', a) = (1 - gamma) initial(s') + gamma sum_{s,a} eta(s, a) P(s' | s, a); and the
    policy's return is J = <eta, r> / (1 - gamma).

    Args:
        transition: (S, A, S).
        initial: (S,).
        gamma: Below 1.
    """
    chain = torch.einsum("sa,sat->st", policy, transition)
    visits = torch.linalg.solve(torch.eye(len(chain), dtype=chain.dtype) - gamma * chain.T, (1.0 - gamma) * initial)
    return visits[:, None] * policy


def q_iteration(
    transition: Tensor,
    reward: Tensor,
    gamma: float,
    rule: ValueRule | None = None,
    tolerance: float = 1e-12,
    iterations: int = 100_000,
) -> Tensor:
    """The fixed point of Q = r + gamma P rule(Q), (S, A).

    Args:
        transition: (S, A, S).
        reward: (S, A).
        rule: The next-action rule: `greedy_value` (default; value iteration), `soft_value(alpha)`,
            `policy_value(policy)`.
        tolerance: Largest change of a value at which to stop.
        iterations: At most so many backups.

    Raises:
        ValueError: It does not settle within `iterations`: with gamma = 1 an episode may never end.
    """
    rule = rule or greedy_value
    return _settle(
        lambda q: backup(transition, reward, rule(q), gamma), torch.zeros_like(reward), tolerance, iterations
    )


def munchausen_iteration(
    transition: Tensor,
    reward: Tensor,
    gamma: float,
    temperature: float,
    scale: float = 0.9,
    floor: float | None = None,
    tolerance: float = 1e-12,
    iterations: int = 100_000,
) -> Tensor:
    """The fixed point of the Munchausen backup, (S, A). Vieillard et al. 2020, equations 2-3.

    Q(s, a) = r + scale * max(temperature log pi(a|s), floor) + gamma P V_soft(Q), with pi = softmax(Q / temperature)
    and V_soft = `soft_value`. With scale 0 it is the soft fixed point. The action gaps grow by 1 / (1 - scale).

    Args:
        transition: (S, A, S).
        reward: (S, A).
        temperature: Entropy temperature tau.
        scale: Share alpha of the log-policy added to the reward, in [0, 1).
        floor: l_0 <= 0, the least bonus; None does not clip.
        tolerance: Largest change of a value at which to stop.
        iterations: At most so many backups.

    Raises:
        ValueError: It does not settle within `iterations`.
    """
    soft = soft_value(temperature)

    def munchausen(q: Tensor) -> Tensor:
        bonus = temperature * torch.log_softmax(q / temperature, -1)
        if floor is not None:
            bonus = bonus.clamp(min=floor)
        return backup(transition, reward + scale * bonus, soft(q), gamma)

    return _settle(munchausen, torch.zeros_like(reward), tolerance, iterations)


def _settle(step: Callable[[Tensor], Tensor], q: Tensor, tolerance: float, iterations: int) -> Tensor:
    change = float("inf")
    for _ in range(iterations):
        previous, q = q, step(q)
        change = float((q - previous).abs().max())
        if change <= tolerance:
            return q
    raise ValueError(f"values still change by {change:g} after {iterations} backups; does every episode end?")


def greedy_value(q: Tensor) -> Tensor:
    """max_a Q(s, a): the rule of DQN."""
    return q.max(-1).values


def soft_value(alpha: float) -> ValueRule:
    """V = alpha log sum_a exp(Q / alpha): the rule of soft Q-learning and SAC.

    >>> soft_value(1.0)(torch.zeros(1, 2))
    tensor([0.6931])
    """
    return lambda q: alpha * torch.logsumexp(q / alpha, -1)


def policy_value(policy: Tensor) -> ValueRule:
    """V = sum_a pi(a|s) Q(s, a): the rule of expected SARSA and of policy evaluation."""
    return lambda q: (policy * q).sum(-1)


def double_value(q: Tensor, other: Tensor) -> Tensor:
    """Q(s, argmax_a other(s, a)): the rule of Double DQN, one network choosing and the other one valuing.

    >>> double_value(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 1.0]]))
    tensor([1.])
    """
    return q.gather(-1, other.argmax(-1, keepdim=True)).squeeze(-1)


def greedy_policy(q: Tensor) -> Tensor:
    """The deterministic policy (S, A) that takes the first best action."""
    return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def uct_scores(q: Tensor, visits: Tensor, c: float = 2.0**0.5) -> Tensor:
    """UCT's score Q + c sqrt(ln N(s) / N(s, a)), (..., A); infinite where unvisited. Kocsis and Szepesvari 2006.

    Args:
        q: (..., A) mean returns seen.
        visits: (..., A) counts N(s, a); N(s) is their sum.
        c: Weight of exploration.

    >>> uct_scores(torch.tensor([0.5, 0.0]), torch.tensor([1, 0])).tolist()
    [0.5, inf]
    """
    total = visits.sum(-1, keepdim=True).clamp(min=1).to(q.dtype)
    return torch.where(visits > 0, q + c * (total.log() / visits.clamp(min=1)).sqrt(), torch.inf)
