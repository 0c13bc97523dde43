"""Stable-Baselines3 PPO. The defaults are the zoo's tuned CartPole settings: 8 x 32, 20 epochs, one batch of 256."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from peer_tools import Evaluations, TrainingClock, base_parser, print_result
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class ClockCallback(BaseCallback):
    """Ticks the clock and evaluates at the start of every rollout, which is right after the previous update."""

    def __init__(self, clock: TrainingClock, evaluations: Evaluations):
        super().__init__()
        self._clock = clock
        self._evaluations = evaluations
        self._stop = False

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == 0:
            return
        self._clock.tick(self.num_timesteps)
        self._stop = self._evaluations.after_update(self._act)

    def _on_step(self) -> bool:
        return not self._stop

    def _act(self, obs: np.ndarray) -> np.ndarray:
        return self.model.predict(obs, deterministic=True)[0]

    def finish(self) -> None:
        """After `learn`: count the last update, which no rollout follows, unless an evaluation ended the run."""
        if not self._stop:
            self._clock.tick(self.num_timesteps)
            self._evaluations.after_update(self._act)


def main() -> None:
    """Train once and print the result line."""
    parser = base_parser(
        __doc__,
        num_envs=8,
        rollout=32,
        epochs=20,
        minibatch_size=256,
        lr=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        clip=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
    )
    parser.add_argument("--anneal", action=argparse.BooleanOptionalAction, default=True, help="decay lr and clip to 0")
    args = parser.parse_args()
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    model = PPO(
        "MlpPolicy",
        make_vec_env(args.env, n_envs=args.num_envs, seed=args.seed),
        n_steps=args.rollout,
        batch_size=args.minibatch_size,
        n_epochs=args.epochs,
        gamma=args.gamma,
        gae_lambda=args.gae_lambda,
        learning_rate=(lambda remaining: remaining * args.lr) if args.anneal else args.lr,
        clip_range=(lambda remaining: remaining * args.clip) if args.anneal else args.clip,
        ent_coef=args.ent_coef,
        vf_coef=args.vf_coef,
        max_grad_norm=args.max_grad_norm,
        policy_kwargs={"net_arch": {"pi": args.hidden, "vf": args.hidden}},
        seed=args.seed,
        device="cpu",
    )
    clock = TrainingClock()
    evaluations = Evaluations(args, clock)
    callback = ClockCallback(clock, evaluations)
    clock.begin()
    model.learn(args.total_steps, callback=callback)
    callback.finish()
    print_result("sb3_ppo", args, clock, evaluations, "stable-baselines3")


if __name__ == "__main__":
    main()
