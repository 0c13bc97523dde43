"""PPO in one file, the way single-file implementations are usually written: SyncVectorEnv, one loop, plain torch.

Follows Schulman et al. 2017 (arXiv:1707.06347) with the customary details: orthogonal initialization, separate tanh
networks, generalized advantage estimation, normalized advantages per minibatch, clipped value loss, gradient clipping,
annealed Adam.
The vector environment resets in the same step, and a time limit counts as an end, as in those files.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from peer_tools import Evaluations, TrainingClock, base_parser, print_result
from torch import nn
from torch.distributions import Categorical


def linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """A layer with orthogonal weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: list[int], outputs: int, gain: float) -> nn.Sequential:
    """tanh layers and a linear head."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise(sizes):
        layers += [linear(inputs, units), nn.Tanh()]
    return nn.Sequential(*layers, linear(sizes[-1], outputs, gain))


class Agent(nn.Module):
    """Separate actor and critic for flat observations and discrete actions."""

    def __init__(self, obs_size: int, actions: int, hidden: list[int]):
        super().__init__()
        self.actor = mlp([obs_size, *hidden], actions, 0.01)
        self.critic = mlp([obs_size, *hidden], 1, 1.0)

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        """Values (B,) of observations (B, D)."""
        return self.critic(obs).squeeze(-1)

    def evaluate(
        self, obs: torch.Tensor, action: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Action (sampled if not given), its log-probability, entropy and value, each (B,)."""
        policy = Categorical(logits=self.actor(obs))
        if action is None:
            action = policy.sample()
        return action, policy.log_prob(action), policy.entropy(), self.value(obs)


def actions_of(envs: SyncVectorEnv) -> int:
    """Number of discrete actions."""
    assert isinstance(envs.single_action_space, gymnasium.spaces.Discrete), "discrete actions only"
    return int(envs.single_action_space.n)


def train(args: argparse.Namespace) -> None:
    """Train once and print the result line."""
    np.random.seed(args.seed)  # noqa: NPY002  minibatch order, the customary way
    torch.manual_seed(args.seed)
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)

    def make_env() -> gymnasium.Env:
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(args.env))

    envs = SyncVectorEnv([make_env] * args.num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    obs_shape = envs.single_observation_space.shape or ()
    agent = Agent(int(np.prod(obs_shape)), actions_of(envs), args.hidden)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, eps=1e-5)

    size = (args.rollout, args.num_envs)
    all_obs = torch.zeros(size + obs_shape)
    actions = torch.zeros(size, dtype=torch.int64)
    logps, rewards, dones, values = (torch.zeros(size) for _ in range(4))
    batch_size = args.rollout * args.num_envs
    updates = args.total_steps // batch_size

    clock = TrainingClock()
    evaluations = Evaluations(args, clock)

    def act_greedily(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return agent.actor(torch.from_numpy(obs)).argmax(-1).numpy()

    clock.begin()
    next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0], dtype=torch.float32)
    next_done = torch.zeros(args.num_envs)
    for update in range(1, updates + 1):
        if args.anneal:
            optimizer.param_groups[0]["lr"] = args.lr * (1 - (update - 1) / updates)

        for step in range(args.rollout):
            all_obs[step] = next_obs
            dones[step] = next_done
            with torch.no_grad():
                action, logps[step], _, values[step] = agent.evaluate(next_obs)
            actions[step] = action
            obs, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[step] = torch.as_tensor(reward, dtype=torch.float32)
            next_obs = torch.as_tensor(obs, dtype=torch.float32)
            next_done = torch.as_tensor(np.logical_or(terminated, truncated), dtype=torch.float32)

        with torch.no_grad():
            advantages = torch.zeros(size)
            carried = torch.zeros(args.num_envs)
            following, alive = agent.value(next_obs), 1.0 - next_done
            for step in reversed(range(args.rollout)):
                delta = rewards[step] + args.gamma * following * alive - values[step]
                carried = delta + args.gamma * args.gae_lambda * alive * carried
                advantages[step] = carried
                following, alive = values[step], 1.0 - dones[step]
            returns = advantages + values

        flat_obs = all_obs.flatten(0, 1)
        flat = [tensor.flatten() for tensor in (actions, logps, advantages, returns, values)]
        order = np.arange(batch_size)
        for _ in range(args.epochs):
            np.random.shuffle(order)  # noqa: NPY002
            for begin in range(0, batch_size, args.minibatch_size):
                rows = order[begin : begin + args.minibatch_size]
                action, old_logp, advantage, target, old_value = (tensor[rows] for tensor in flat)
                _, logp, entropy, value = agent.evaluate(flat_obs[rows], action)
                ratio = (logp - old_logp).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = torch.max(
                    -advantage * ratio, -advantage * ratio.clamp(1 - args.clip, 1 + args.clip)
                ).mean()
                clipped_value = old_value + (value - old_value).clamp(-args.clip, args.clip)
                value_loss = 0.5 * torch.max((value - target) ** 2, (clipped_value - target) ** 2).mean()
                loss = policy_loss - args.ent_coef * entropy.mean() + args.vf_coef * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

        clock.tick(update * batch_size)
        if evaluations.after_update(act_greedily):
            break
    envs.close()
    print_result("single_file_ppo", args, clock, evaluations)


if __name__ == "__main__":
    parser = base_parser(
        __doc__,
        num_envs=4,
        rollout=128,
        epochs=4,
        minibatch_size=128,
        lr=2.5e-4,
        gamma=0.99,
        gae_lambda=0.95,
        clip=0.2,
        ent_coef=0.01,
        vf_coef=0.5,
        max_grad_norm=0.5,
    )
    parser.add_argument("--anneal", action=argparse.BooleanOptionalAction, default=True, help="decay lr to 0")
    train(parser.parse_args())
