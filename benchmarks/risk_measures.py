"""Callbacks of the risk studies: returns of the last policy, and bias of its critic.

A callback leaves `measured.json` in the run folder, and looks into the learner, so it needs `backend=serial`. A wrapper
makes rewards noisy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from distrl.base.columns import tree_map
from distrl.base.files import read_json, to_json, write_atomic
from distrl.base.seeds import generator, seed_for
from distrl.control.envs.make_vector import make_vector
from distrl.deploy.evaluate import Evaluator
from distrl.models.parameters.published import load_weights
from distrl.runtime.run.callbacks import Callback

#: Greedy episodes of the last policy.
EPISODES = 1_000
EPISODES_AT_ONCE = 50

#: The bias is measured every so many environment steps, on the first steps of a few long episodes: what lies beyond
#: their end counts for less than one percent at gamma 0.99.
BIAS_EVERY = 1_000
BIAS_ENVS = 16
BIAS_STEPS = 100
BIAS_HORIZON = 600


class NoisyReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds standard normal noise to every reward, from the environment's own generator: seeds decide it, too."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) + self.unwrapped.np_random.standard_normal(), terminated, truncated, info


def measured_file(loop: Any) -> Path:
    """File of a run's measurements."""
    return Path(loop.services.folder.path) / "measured.json"


class FinalReturns(Callback):
    """At the end: returns of many episodes with the last policy's likeliest actions, without the run's wrappers.

    Wrappers such as exploring starts are there to learn, and change where episodes begin.
    """

    def on_end(self, loop: Any, summary: dict[str, Any]) -> None:
        model = loop.plan.build_acting_model().eval()
        load_weights(model, loop.state.weights[loop.progress.version])
        env = loop.config.environment.model_copy(update={"wrappers": []})
        result = Evaluator(env, EPISODES_AT_ONCE, loop.config.seed).evaluate(model, EPISODES)
        write_atomic(measured_file(loop), to_json({"returns": result.returns}))


class ValueBias(Callback):
    """While learning: predicted minus real discounted return, and the real one, after every `BIAS_EVERY` steps."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        algorithm, steps, file = loop.backend.learner.algorithm, loop.progress.env_steps, measured_file(loop)
        known = read_json(file)["curve"] if file.is_file() else []
        curve = [point for point in known if point["env_steps"] < steps]  # a resumed run may have been further before
        measured_at = curve[-1]["env_steps"] if curve else 0
        if steps // BIAS_EVERY > measured_at // BIAS_EVERY and algorithm.gradient_steps:
            found = value_bias(algorithm, loop.config.environment, loop.config.seed)
            write_atomic(file, to_json({"curve": [*curve, {"env_steps": steps, **found}]}))


@torch.no_grad()
def value_bias(algorithm: Any, env_config: Any, seed: int) -> dict[str, float]:
    """Bias of a soft actor-critic's critics on its own actions, in an unending task.

    Both sides hold the entropy bonus that the critics are trained on: the mean critic's Q(s_t, a_t) against
    r_t + sum_{k > 0} gamma^k (r_{t+k} - alpha log pi(a_{t+k})), over `BIAS_ENVS` episodes and t < `BIAS_STEPS`.

    Returns:
        `predicted` and `real`, means over those steps, and `bias`, their difference.
    """
    config = env_config.model_copy(update={"backend": "gymnasium", "max_episode_steps": BIAS_HORIZON + 1})
    env = make_vector(config, BIAS_ENVS, lambda index, episode: seed_for(seed, "bias", index))
    policy, rng = algorithm.policy, generator(seed, "bias-noise")
    predicted: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    logps: list[np.ndarray] = []
    try:
        env.reset()
        for _ in range(BIAS_HORIZON):
            obs = policy.normalize(tree_map(torch.from_numpy, env.obs))
            noise = rng.standard_normal((BIAS_ENVS, policy.actions.size), dtype=np.float32)
            action, logp = policy.sample(obs, torch.from_numpy(noise))
            if len(predicted) < BIAS_STEPS:
                values = algorithm.distribution.mean(algorithm.critics(obs, action))  # (critics, envs)
                predicted.append(values.mean(0).numpy())
            rewards.append(env.step(policy.actions.scale.to_env(action).numpy()).reward)
            logps.append(logp.numpy())
    finally:
        env.close()
    bonus = -float(algorithm.log_temperature.exp()) * np.stack(logps)
    real = soft_returns(np.stack(rewards), bonus, float(algorithm.config.gamma))[:BIAS_STEPS]
    means = float(np.mean(predicted)), float(real.mean())
    return {"predicted": means[0], "real": means[1], "bias": means[0] - means[1]}


def soft_returns(reward: np.ndarray, bonus: np.ndarray, gamma: float) -> np.ndarray:
    """(T, B) discounted sums of rewards, with the entropy bonus (T, B) of every later step but not of the first."""
    real, following = np.zeros_like(reward), np.zeros(reward.shape[1:])
    for t in reversed(range(len(reward))):
        real[t] = reward[t] + gamma * following
        following = bonus[t] + real[t]
    return real
