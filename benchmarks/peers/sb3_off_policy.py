"""Stable-Baselines3 DQN and SAC: gradient updates a second, next to the environment steps that they take.

The defaults are the zoo's settings of DQN on CartPole: one environment, 128 updates of 64 transitions every 256 steps.
`--algo sac` is SAC on Pendulum with its own defaults: 256 transitions, an update for each step.
"""

from __future__ import annotations

from typing import Any

import torch
from peer_tools import TrainingClock, base_parser, print_result
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

DQN_OPTIONS = {
    "target_update_interval": 10,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "max_grad_norm": 10.0,
}


class ClockCallback(BaseCallback):
    """Ticks the clock at the start of every rollout, which is right after the previous updates."""

    def __init__(self, clock: TrainingClock):
        super().__init__()
        self._clock = clock

    def _on_rollout_start(self) -> None:
        self.tick()

    def _on_step(self) -> bool:
        return True

    def tick(self) -> None:
        """Nothing counts before the first update."""
        if self.model._n_updates:
            self._clock.tick(self.num_timesteps, self.model._n_updates)


def main() -> None:
    """Train once and print the result line."""
    parser = base_parser(
        __doc__,
        num_envs=1,
        rollout=256,
        epochs=128,
        minibatch_size=64,
        lr=2.3e-3,
        gamma=0.99,
        hidden=[256, 256],
        total_steps=30_000,
    )
    parser.add_argument("--algo", choices=("dqn", "sac"), default="dqn")
    parser.add_argument("--buffer", type=int, default=100_000, help="transitions of the replay")
    parser.add_argument("--learning-starts", type=int, default=1_000)
    args = parser.parse_args()
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    model = make_model(args)
    clock = TrainingClock()
    callback = ClockCallback(clock)
    clock.begin()
    model.learn(args.total_steps, callback=callback)
    callback.tick()
    print_result("sb3_off_policy", args, clock, None, "stable-baselines3")


def make_model(args: Any) -> Any:
    """DQN or SAC; `--rollout` steps, then `--epochs` gradient updates."""
    algorithm, options = (DQN, DQN_OPTIONS) if args.algo == "dqn" else (SAC, {"ent_coef": "auto", "tau": 0.005})
    return algorithm(
        "MlpPolicy",
        make_vec_env(args.env, n_envs=args.num_envs, seed=args.seed),
        learning_rate=args.lr,
        buffer_size=args.buffer,
        learning_starts=args.learning_starts,
        batch_size=args.minibatch_size,
        gamma=args.gamma,
        train_freq=args.rollout,
        gradient_steps=args.epochs,
        policy_kwargs={"net_arch": args.hidden},
        seed=args.seed,
        device="cpu",
        **options,
    )


if __name__ == "__main__":
    main()
