"""Evaluation: a fixed set of episodes, on environments and seeds of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from distrl.base.columns import tree_map
from distrl.base.seeds import generator, seed_for
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.make_vector import make_vector
from distrl.control.models.actor_critic import ActorCritic

OnStep = Callable[[VectorEnv], None]


@dataclass
class EvalResult:
    """Returns and lengths of the evaluated episodes, in a fixed order."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    def metrics(self) -> dict[str, float]:
        """Return the values of the `eval/` curves."""
        return {
            "eval/return_mean": self.mean,
            "eval/return_std": self.std,
            "eval/return_min": float(np.min(self.returns)),
            "eval/return_max": float(np.max(self.returns)),
            "eval/length_mean": float(np.mean(self.lengths)),
        }


class Evaluator:
    """Plays whole episodes with a policy.

    Environment i plays episodes i, i + n, i + 2n, ... of the evaluation, so that short episodes are not counted more
    often than long ones. Seeds depend on (run seed, "eval", episode) only: every evaluation meets the same starts.
    """

    def __init__(self, env_config: EnvConfig, num_envs: int, seed: int):
        self.num_envs = num_envs
        self.seed = seed
        # Whole episodes with seeds of their own need the plain back end, whatever the run trains on.
        self.env_config = env_config.model_copy(update={"backend": "gymnasium"})

    def evaluate(
        self, model: ActorCritic, episodes: int, deterministic: bool = True, on_step: OnStep | None = None
    ) -> EvalResult:
        """Play `episodes` episodes; `on_step` is called with the environments after each step."""
        width = min(self.num_envs, episodes)
        env = make_vector(
            self.env_config, width, lambda i, episode: seed_for(self.seed, "eval", (episode * width + i) % episodes)
        )
        try:
            return self._play(env, model, episodes, deterministic, on_step)
        finally:
            env.close()

    def _play(
        self, env: VectorEnv, model: ActorCritic, episodes: int, deterministic: bool, on_step: OnStep | None
    ) -> EvalResult:
        policy, actions = model.policy, model.policy.actions
        noise_rng = generator(self.seed, "eval-noise")
        found: dict[int, tuple[float, int]] = {}
        played = np.zeros(env.num_envs, int)
        state = policy.initial_state(env.num_envs)
        env.reset()
        with torch.inference_mode():
            while len(found) < episodes:
                obs = policy.normalize(tree_map(torch.from_numpy, env.obs))
                params, state = policy(obs, state, torch.from_numpy(env.first))
                mask = None if env.mask is None else tree_map(torch.from_numpy, env.mask)
                if deterministic:
                    action = actions.mode(params, mask)
                else:
                    noise = torch.from_numpy(actions.draw_noise(noise_rng, (env.num_envs,)))
                    action = actions.sample(params, noise, mask)
                step = env.step(tree_map(lambda leaf: leaf.numpy(), action))
                for episode in step.episodes:
                    number = int(played[episode.env]) * env.num_envs + episode.env
                    played[episode.env] += 1
                    if number < episodes:
                        found[number] = (float(episode.return_), int(episode.length))
                if on_step is not None:
                    on_step(env)
        ordered = [found[number] for number in range(episodes)]
        return EvalResult([return_ for return_, _ in ordered], [length for _, length in ordered])
