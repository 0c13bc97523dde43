"""distrl as a peer: any config, the same clock, the same greedy evaluation.

    python peers/ours.py ../examples/cartpole_ppo.yaml backend=serial stop.env_steps=100000

The clock ticks at update boundaries in the loop's process, on consumed data. Curves are written as usual; checkpoints
and distrl's own evaluation are off unless the words turn them on. An evaluation here stops the clock, so it needs
`backend=serial`, where nothing else is under way.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from peer_tools import Evaluations, TrainingClock, print_result

import distrl
from distrl.config.load import load_config
from distrl.models.parameters.published import load_weights
from distrl.runtime.run.callbacks import Callback

#: What the peers do not do either while the clock runs.
QUIET = ("eval.every=0", "checkpoint.every_seconds=0", "checkpoint.every=0", "logging.console=quiet")


class ReachedError(Exception):
    """The evaluation reached --stop-at: a way out of the loop that saves and reports nothing."""


class Clocked(Callback):
    """Ticks the clock, and evaluates, after every update."""

    def __init__(self, args: argparse.Namespace):
        self.clock = TrainingClock()
        self.evaluations = Evaluations(args, self.clock)
        self.model: Any = None
        self.loaded_version = 0
        self.return_mean: float | None = None

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        """Called by the loop."""
        learner = getattr(loop.backend, "learner", None)  # in-process only
        taken = getattr(getattr(learner, "algorithm", None), "gradient_steps", None)
        if taken == 0:
            return  # off-policy, still filling the replay: nothing counts before the first gradient update
        self.clock.tick(loop.progress.env_steps, taken or 0)
        self.return_mean = loop.progress.return_mean
        if self.evaluations.after_update(lambda obs: self.act(loop, obs)):
            raise ReachedError

    def act(self, loop: Any, obs: np.ndarray) -> np.ndarray:
        """Greedy actions under the newest weights."""
        if self.model is None:
            self.model = loop.plan.build_model()
        if self.loaded_version != loop.progress.version:
            load_weights(self.model, loop.state.weights[loop.progress.version])
            self.loaded_version = loop.progress.version
        policy = self.model.policy
        with torch.inference_mode():
            params, _ = policy(policy.normalize(torch.from_numpy(obs)))
            return policy.actions.mode(params).numpy()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("words", nargs="*", help="overrides")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=0, help="environment steps between evaluations, 0: none")
    parser.add_argument("--eval-episodes", type=int, default=20)
    parser.add_argument("--stop-at", type=float, default=None, help="end when an evaluation reaches this mean return")
    return parser.parse_args()


def main(args: argparse.Namespace, callback: Clocked) -> None:
    """Train once and print the result line."""
    summary: dict[str, Any] = {}
    words = [*QUIET, *args.words, f"seed={args.seed}", "callbacks=['__main__:callback']", "name=benchmark"]
    with tempfile.TemporaryDirectory() as folder:
        callback.clock.begin()
        with suppress(ReachedError):
            summary = distrl.train(args.config, words, runs_dir=folder)
    shown = {key: summary[key] for key in ("wall_s", "updates", "staleness_max", "phases") if key in summary}
    packages = ["distrl", *(["ray"] if "ray" in sys.modules else [])]
    print_result(
        "ours", args, callback.clock, callback.evaluations, *packages, train_return=callback.return_mean, **shown
    )


if __name__ == "__main__":
    arguments = parse()
    arguments.env = load_config(arguments.config, arguments.words).env.id
    callback = Clocked(arguments)
    main(arguments, callback)
