"""Sample Factory's asynchronous APPO on the CPU: `--workers` processes sample while the learner process learns.

The clock ticks in the runner process at every finished learner iteration. There is no pause in an asynchronous run, so
there is no separate evaluation: `train_return` is the mean of the last 100 training episodes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from typing import Any

import gymnasium
from peer_tools import TrainingClock, base_parser, print_result
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner


def make_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gymnasium.Env:
    """The factory that Sample Factory calls in its workers."""
    return gymnasium.make(name, render_mode=render_mode)


class ClockObserver(AlgoObserver):
    """Ticks once per learner iteration.

    The runner hears of an iteration before it hears of that iteration's steps, so every tick lags by one batch, the
    first and the last alike: the difference is exact.
    """

    def __init__(self, clock: TrainingClock):
        self._clock = clock

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        """Called by the runner."""
        self._clock.tick(runner.env_steps.get(0, 0))


def arguments_for(args: argparse.Namespace, folder: str) -> list[str]:
    """Our arguments in Sample Factory's words."""
    settings = {
        "env": args.env,
        "algo": "APPO",
        "experiment": "benchmark",
        "train_dir": folder,
        "device": "cpu",
        "seed": args.seed,
        "async_rl": True,
        "serial_mode": False,
        "num_workers": args.workers,
        "num_envs_per_worker": args.num_envs,
        "worker_num_splits": args.splits,
        "policy_workers_per_policy": args.policy_workers,
        "rollout": args.rollout,
        "recurrence": 1,
        "use_rnn": False,
        "batch_size": args.minibatch_size,
        "num_batches_per_epoch": args.batches_per_epoch,
        "num_epochs": args.epochs,
        "learning_rate": args.lr,
        "gamma": args.gamma,
        "gae_lambda": args.gae_lambda,
        "ppo_clip_ratio": args.clip,
        "exploration_loss_coeff": args.ent_coef,
        "value_loss_coeff": args.vf_coef,
        "max_grad_norm": args.max_grad_norm,
        "with_vtrace": False,
        "reward_scale": args.reward_scale,
        "nonlinearity": "tanh",
        "actor_critic_share_weights": args.share,
        "train_for_env_steps": args.total_steps,
        "set_workers_cpu_affinity": args.affinity,
        "save_every_sec": 100_000,
        "save_best_every_sec": 100_000,
        "log_to_file": False,
        "with_wandb": False,
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    return [*words, "--encoder_mlp_layers", *map(str, args.hidden)]


def main() -> None:
    """Train once and print the result line."""
    parser = base_parser(
        __doc__,
        num_envs=16,
        rollout=32,
        epochs=1,
        minibatch_size=512,  # as in the CartPole command line of its own example
        lr=1e-3,
        gamma=0.99,
        gae_lambda=0.95,
        clip=0.1,
        ent_coef=0.003,
        vf_coef=0.5,
        max_grad_norm=4.0,
    )
    parser.add_argument("--workers", type=int, default=2, help="sampling processes")
    parser.add_argument("--splits", type=int, default=2, help="groups of a worker's environments that take turns")
    parser.add_argument("--policy-workers", type=int, default=1, help="processes that run the policy")
    parser.add_argument("--batches-per-epoch", type=int, default=1, help="minibatches collected for one iteration")
    parser.add_argument("--reward-scale", type=float, default=0.1)
    parser.add_argument("--affinity", action=argparse.BooleanOptionalAction, default=True, help="pin workers to cores")
    parser.add_argument("--share", action=argparse.BooleanOptionalAction, default=True, help="value head on same torso")
    args = parser.parse_args()
    if args.eval_every or args.stop_at is not None:
        parser.error("an asynchronous run cannot pause for an evaluation: leave out --eval-every and --stop-at")

    logging.getLogger("rl").setLevel(logging.WARNING)
    register_env(args.env, make_env)
    clock = TrainingClock()
    with tempfile.TemporaryDirectory() as folder:
        words = arguments_for(args, folder)
        cfg = parse_full_cfg(parse_sf_args(words)[0], words)
        cfg, runner = make_runner(cfg)
        runner.register_observer(ClockObserver(clock))
        failed = runner.init()
        if not failed:
            clock.begin()
            failed = runner.run()
    if failed:
        sys.exit(f"Sample Factory ended with status {failed}")
    returns = runner.policy_avg_stats.get("reward", [[]])[0]
    mean = sum(map(float, returns)) / len(returns) if returns else None
    print_result("sample_factory_appo", args, clock, None, "sample-factory", train_return=mean)


if __name__ == "__main__":
    main()
