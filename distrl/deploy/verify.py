"""Comparison of an exported program with its policy on recorded observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.seeds import generator, seed_for
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.make_vector import make_vector
from distrl.control.models.actions.base import ActionDistribution, DiagonalGaussian, masked
from distrl.control.models.actions.composite import Bernoulli, Composite, MultiCategorical
from distrl.deploy.actor import to_tensors
from distrl.deploy.policy_file import SavedPolicy
from distrl.deploy.signature import Signature, names_of

#: Largest allowed difference of distribution parameters (of large ones, such as action values, relative to them), and
#: of real-valued actions.
TOLERANCE = 1e-5
#: Choices whose best two logits are closer than this may fall differently.
CLEAR_GAP = 1e-4
#: Environments that are recorded side by side.
WIDTH = 4


@dataclass
class Verification:
    """Outcome of a replay.

    Attributes:
        params_error: Largest difference of a distribution parameter p, over max(1, |p|).
        choices, clear, wrong: Choices that were made; those with a clear best; of these, those that fell differently.
        action_error: Largest difference of a real-valued action.
    """

    observations: int = 0
    params_error: float = 0.0
    choices: int = 0
    clear: int = 0
    wrong: int = 0
    action_error: float = 0.0

    @property
    def passed(self) -> bool:
        return self.params_error <= TOLERANCE and self.action_error <= TOLERANCE and self.wrong == 0

    def __str__(self) -> str:
        parts = [f"{self.observations} observations replayed, parameters differ by at most {self.params_error:.1e}"]
        if self.choices:
            equal = f"{self.clear - self.wrong} of {self.clear} clear choices equal"
            parts.append(f"{equal} ({self.choices - self.clear} too close to tell)")
        else:
            parts.append(f"actions by at most {self.action_error:.1e}")
        return ", ".join(parts)


def gives_masks(env_config: EnvConfig) -> bool:
    """Return True if the environment provides action masks."""
    env = _vector(env_config, 1, 0)
    try:
        env.reset()
        return env.mask is not None
    finally:
        env.close()


def verify(
    saved: SavedPolicy,
    signature: Signature,
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    observations: int = 1000,
) -> Verification:
    """Play with sampled actions, and run the program on the same observations.

    The program carries its own state from step to step, as it will in use. At least `observations` are replayed.
    """
    found = Verification()
    width = min(WIDTH, observations)
    env = _vector(saved.config.environment, width, saved.config.seed)
    actor, actions = signature.actor, signature.actor.policy.actions
    rng = generator(saved.config.seed, "export-noise")
    state, carried = actor.initial_state(width), _named(signature.example(width))
    try:
        env.reset()
        while found.observations < observations:
            inputs = {"obs": env.obs, "first": env.first}
            if signature.masked:
                inputs["mask"] = env.mask if env.mask is not None else signature.example(width)["mask"]
            inputs = tree_map(lambda leaf: np.array(leaf), inputs)
            given = {name: array for name, array in _named(inputs).items() if name in carried}
            outputs = run({**carried, **given})
            carried = {name: outputs.get(f"next_{name}", array) for name, array in carried.items()}
            with torch.no_grad():
                params, state = actor(to_tensors(inputs["obs"]), torch.from_numpy(inputs["first"]), state)
                mask = to_tensors(inputs["mask"]) if signature.masked else None
                _compare(found, signature, params, mask, outputs)
                noise = torch.from_numpy(actions.draw_noise(rng, (width,)))
                env.step(tree_map(lambda leaf: leaf.numpy(), actions.sample(params, noise, mask)))
            found.observations += width
    finally:
        env.close()
    return found


def _compare(
    found: Verification, signature: Signature, params: torch.Tensor, mask: Tree, outputs: dict[str, np.ndarray]
) -> None:
    error = (np.abs(outputs["params"] - params.numpy()) / np.maximum(1.0, np.abs(params.numpy()))).max()
    found.params_error = max(found.params_error, float(error))
    expected = tree_leaves(tree_map(lambda leaf: leaf.numpy(), signature.actor.mode(params, mask)))
    names = [name for name in signature.output_names if name.split(".")[0] == "action"]
    clear = gaps(signature.actor.policy.actions, params, mask)
    for name, action, gap in zip(names, expected, clear, strict=True):
        if gap is None:
            found.action_error = max(found.action_error, float(np.abs(outputs[name] - action).max()))
            continue
        sure = gap.numpy() > CLEAR_GAP
        found.choices += sure.size
        found.clear += int(sure.sum())
        found.wrong += int((sure & (outputs[name] != action)).sum())


def gaps(actions: ActionDistribution, params: torch.Tensor, mask: Tree) -> list[torch.Tensor | None]:
    """Compute the lead of the best choice (B, ...) of every action leaf; None for reals."""
    if isinstance(actions, Composite):
        parts = actions._deal(mask, actions._split(params))
        return [gap for part, part_mask, part_params in parts for gap in gaps(part, part_params, part_mask)]
    if isinstance(actions, DiagonalGaussian):
        return [None]
    logits = masked(params, mask)
    if isinstance(actions, Bernoulli):
        return [logits.abs().reshape(-1, *actions.shape)]
    if isinstance(actions, MultiCategorical):
        leads = torch.stack([_lead(part) for part in logits.split(actions.sizes, -1)], -1)
        return [leads.reshape(-1, *actions.shape)]
    return [_lead(logits)]


def _lead(logits: torch.Tensor) -> torch.Tensor:
    """Compute the best minus the second best logit (B,); infinite for one choice."""
    if logits.shape[-1] == 1:
        return torch.full(logits.shape[:-1], torch.inf)
    best = logits.topk(2, -1).values
    return best[..., 0] - best[..., 1]


def _named(tree: Tree) -> dict[str, np.ndarray]:
    return dict(zip(names_of(tree), (np.asarray(leaf) for leaf in tree_leaves(tree)), strict=True))


def _vector(env_config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Make environments that give single frames, with seeds that no training run uses."""
    plain = env_config.model_copy(update={"backend": "gymnasium", "frame_stack": 1})
    return make_vector(plain, num_envs, lambda i, episode: seed_for(seed, "export", i, episode))
