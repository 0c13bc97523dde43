"""RLlib PPO, APPO or IMPALA on the new API stack.

The defaults are RLlib's tuned CartPole settings: for PPO lr 3e-4, 6 epochs, value loss weight .01, batches of 4,000
steps in minibatches of 128, one linear layer of 32 units shared with the value head. The network of the other peers is
`--hidden 64 64 --activation tanh --no-share`. The asynchronous algorithms report once a second: give them some 100,000
steps or more.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
import torch
from peer_tools import Evaluations, TrainingClock, base_parser, print_result
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

CONFIGS = {"ppo": PPOConfig, "appo": APPOConfig, "impala": IMPALAConfig}

# What an argument is when it is not given. None is the library's own default: the asynchronous algorithms decide by
# other means how often they use a batch.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 3e-4, "vf_coef": 0.01, "epochs": 6, "minibatch_size": 128, "train_batch": 4000},
    "appo": {"lr": 5e-4, "vf_coef": 0.05, "epochs": None, "minibatch_size": None, "train_batch": 500},
    "impala": {"lr": 5e-4, "vf_coef": 0.05, "epochs": None, "minibatch_size": None, "train_batch": 500},
}


def build_config(args: argparse.Namespace) -> Any:
    """The peer's config from our arguments; an argument that was not given leaves RLlib's default."""
    training: dict[str, Any] = {
        "lr": args.lr,
        "gamma": args.gamma,
        "vf_loss_coeff": args.vf_coef,
        "entropy_coeff": args.ent_coef,
        "grad_clip": args.max_grad_norm,
        "train_batch_size_per_learner": args.train_batch,
        "minibatch_size": args.minibatch_size,
        "num_epochs": args.epochs,
    }
    if args.algo == "ppo":
        training |= {"lambda_": args.gae_lambda}
    if args.algo != "impala":
        training |= {"clip_param": args.clip}
    config = (
        CONFIGS[args.algo]()
        .environment(args.env)
        .env_runners(
            num_env_runners=args.workers,
            num_envs_per_env_runner=args.num_envs,
            rollout_fragment_length=args.rollout or "auto",
        )
        .learners(num_learners=0)
        .training(**{name: value for name, value in training.items() if value is not None})
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=args.hidden, fcnet_activation=args.activation, vf_share_layers=args.share
            )
        )
        .debugging(seed=args.seed, log_level="ERROR")
    )
    if args.algo != "ppo":
        # One iteration is a report, not an update: reports once a second cost the asynchronous algorithms nothing.
        config = config.reporting(min_time_s_per_iteration=args.report_seconds)
    return config


def learned_module(algo: Any) -> Any:
    """The module that the learner updates, in this process because there are no remote learners."""
    return algo.learner_group._learner.module["default_policy"]


def main() -> None:
    """Train once and print the result line."""
    parser = base_parser(__doc__, num_envs=1, gamma=0.99, hidden=[32])
    parser.add_argument("--algo", choices=sorted(CONFIGS), default="ppo")
    parser.add_argument("--workers", type=int, default=1, help="remote environment runners; 0: one in this process")
    parser.add_argument("--train-batch", type=int, help="steps per update; follows from --rollout where given")
    parser.add_argument("--activation", default="linear")
    parser.add_argument("--share", action=argparse.BooleanOptionalAction, default=True, help="value head on same torso")
    parser.add_argument("--report-seconds", type=float, default=1.0, help="length of an asynchronous iteration")
    args = parser.parse_args()
    if args.algo != "ppo" and (args.eval_every or args.stop_at is not None):
        parser.error("an asynchronous run cannot pause for an evaluation: leave out --eval-every and --stop-at")
    for name, value in DEFAULTS[args.algo].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.rollout:
        args.train_batch = args.rollout * args.num_envs * max(1, args.workers)
    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)

    ray.init(
        num_cpus=max(os.cpu_count() or 1, args.workers + 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    algo = build_config(args).build_algo()
    clock = TrainingClock()
    evaluations = Evaluations(args, clock)

    def act_greedily(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out = learned_module(algo).forward_inference({"obs": torch.from_numpy(obs)})
        return out["action_dist_inputs"].argmax(-1).numpy()

    clock.begin()
    env_steps = 0
    return_mean = None
    while env_steps < args.total_steps:
        result = algo.train()
        sampled = result.get("env_runners", {})
        env_steps = int(sampled.get("num_env_steps_sampled_lifetime", env_steps))
        return_mean = sampled.get("episode_return_mean", return_mean)
        if not env_steps or not result.get("learners"):
            continue  # the first asynchronous reports come before the first update
        clock.tick(env_steps)
        if evaluations.after_update(act_greedily):
            break
    algo.stop()
    ray.shutdown()
    print_result(f"rllib_{args.algo}", args, clock, evaluations, "ray", train_return=return_mean)


if __name__ == "__main__":
    main()
