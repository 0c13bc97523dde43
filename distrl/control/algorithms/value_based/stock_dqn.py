"""Stock-augmented DQN: maximizes a utility of the whole episode's return."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns, Tree, tree_map
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.value_based.dqn import DQN, DQNConfig
from distrl.control.models.q_network import QPolicy, require_distribution
from distrl.functional.atoms import Atoms, bellman
from distrl.functional.bellman.next_action import next_distribution, take_action
from distrl.functional.risk.stock import best_stock, stock_utility
from distrl.learning.algorithm import Update

#: A wrong discount, scale or reward moves the stock by more than this share of it.
TOLERANCE = 1e-3


class StockConfig(DQNConfig):
    """Keys of `dqn`, for an environment with the wrapper `stock`."""

    head: ReturnHeadConfig = ReturnHeadConfig(name="quantile", size=32)
    """Return distribution of each action; not scalar or two_hot."""
    utility: Literal["shortfall", "homeostasis", "mean"] = "shortfall"
    """f of the objective E f(c_0 + G): `shortfall` min(x, 0), which makes CVaR; `homeostasis` -|x|, which brings c + G
    to 0; `mean` x, to compare."""
    level: float = Field(0.1, gt=0, le=1)
    """Share of the worst episodes whose mean return `first_stock` maximizes. Only for utility shortfall."""
    stock_scale: float = Field(1.0, gt=0)
    """The wrapper's `scale`: the stock is what the observation shows times this."""

    @model_validator(mode="after")
    def _whole_returns(self) -> StockConfig:
        if self.risk is not None or self.munchausen or self.next_action == "soft":
            raise ConfigError(
                "stock_dqn acts by the utility of the whole return, so it has no risk, munchausen or soft next_action.",
                "Set risk=null, munchausen=0, and next_action to greedy or double.",
            )
        if self.head.name == "joint":
            raise ConfigError("stock_dqn has one stock, and head joint several reward channels.", "Use quantile.")
        if self.schedules.get("gamma") is not None or not float(self.gamma) > 0:
            raise ConfigError(f"stock_dqn needs one gamma above 0, found {self.gamma}.", "Usual: 0.99 or 1.")
        return self


class StockPolicy(QPolicy):
    """A `QPolicy` that ranks actions by E f(c + Z(s, c, a)). Pires et al. 2025.

    Args:
        observation_space: With the stock as last entry of a vector, or under `stock` in a Dict.
        utility: f, a key of `functional.risk.stock.UTILITIES`.
        scale: Units of return in one unit of the observed stock.
    """

    def __init__(self, observation_space: Space, *args: Any, utility: str, scale: float, **options: Any):
        if options.get("normalize_obs"):
            raise ConfigError(
                "stock_dqn reads the stock in the observation, which env.normalize_obs would change.",
                "Set env.normalize_obs=false, and the wrapper's `scale` so that stocks are about 1.",
            )
        bound = stock_bound(observation_space)
        super().__init__(observation_space, *args, **options)
        require_distribution(self.distribution)
        self.utility, self.scale = utility, float(scale)
        self.limit = bound * self.scale

    def stock(self, obs: Tree) -> Tensor:
        """Return c (N,) of normalized observations (N, ...)."""
        shown = obs["stock"][..., 0] if isinstance(obs, dict) else obs[..., -1]
        return shown * self.scale

    def with_stock(self, obs: Tree, stock: Tensor) -> Tree:
        """Return the observations with another stock (N,)."""
        shown = (stock.clamp(-self.limit, self.limit) / self.scale).unsqueeze(-1)
        return {**obs, "stock": shown} if isinstance(obs, dict) else torch.cat((obs[..., :-1], shown), -1)

    def rank(self, params: Tensor, obs: Tree) -> Tensor:
        """Return E f(c + Z) of every action: (N, A) from params (N, A, P)."""
        return stock_utility(*self.distribution.atoms(params), self.stock(obs).unsqueeze(-1), self.utility)

    def values(self, obs: Tree) -> Tensor:
        return self.rank(self.returns(obs), obs)


def stock_bound(space: Space) -> float:
    """Return the largest stock that the observation can show; refuse one without a stock."""
    box = space.spaces.get("stock") if isinstance(space, spaces.Dict) else space
    if isinstance(box, spaces.Box) and box.dtype.kind == "f" and len(box.shape) == 1:
        return float(box.high[-1])
    raise ConfigError(
        f"stock_dqn needs the stock in the observation, which is {space}.",
        "Add the wrapper: env.wrappers=[{stock: {gamma: GAMMA, start: [LOW, HIGH]}}].",
    )


@torch.no_grad()
def first_stock(policy: StockPolicy, obs: Tree, grid: Tensor, level: float) -> tuple[float, float]:
    """Return the stock c_0* = argmax -c_0 + E min(c_0 + G, 0) / level, and its CVaR.

    Args:
        policy: A trained one with utility shortfall.
        obs: A first observation, tree (...), with any stock in it.
        grid: Candidates (S,), within the range of first stocks in training.
    """
    rows = policy.with_stock(tree_map(lambda leaf: leaf.expand(len(grid), *leaf.shape), obs), grid)
    params = policy.returns(rows)
    return_dist = policy.distribution.atoms(take_action(params, policy.rank(params, rows).argmax(-1)))
    stock, value = best_stock(*return_dist, grid, level)
    return float(stock), float(value)


@register.algorithm(
    "stock_dqn",
    paper="Optimizing Return Distributions with Distributional Dynamic Programming, Pires et al. 2025",
    entries=[15],
)
class StockDQN(DQN):
    """Distributional DQN, greedy in E f(c + Z). Pires et al. 2025 (D-eta-N)."""

    Config = StockConfig
    policy_class = StockPolicy
    _checked = False

    @classmethod
    def policy_options(cls, config: StockConfig) -> dict[str, object]:  # type: ignore[override]
        return {**super().policy_options(config), "utility": config.utility, "scale": config.stock_scale}

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        if not self._checked:
            self._check_stock(batch)
        return super().update(batch, rng)

    @torch.no_grad()
    def td_target(self, batch: Columns, noise: Tensor | None, online: StockPolicy, target: StockPolicy) -> Atoms:  # type: ignore[override]
        """Return r + discount * Z(s', c', a*), a* greedy at the next state and stock: (N, M)."""
        params = target.returns(batch.next_obs, noise)
        scores = target.rank(params, batch.next_obs) if noise is None else target.values(batch.next_obs)
        own = online.values(batch.next_obs) if self.config.next_action == "double" else scores
        choice = self.next_action(scores, own, batch.get("next_mask"), self.config.temperature)
        next_return = next_distribution(choice, *self.distribution.target_atoms(params))
        return Atoms(bellman(batch.reward, batch.discount, next_return.values), next_return.probs)

    def _check_stock(self, batch: Columns) -> None:
        """Refuse a stock that does not move by c' = (c + r) / gamma."""
        before, after = self.policy.stock(batch.obs), self.policy.stock(batch.next_obs)
        inside = (batch.discount > 0) & (torch.maximum(before.abs(), after.abs()) < self.policy.limit)
        if not bool(inside.any()):
            return
        expected = (before + batch.reward)[inside] / batch.discount[inside]
        error = (after[inside] - expected).abs()
        worst = int((error - TOLERANCE * expected.abs()).argmax())
        if float(error[worst]) > TOLERANCE * max(1.0, self.policy.scale, float(expected[worst].abs())):
            raise ConfigError(
                f"the stock moved to {float(after[inside][worst]):g} where (c + r) / gamma is "
                f"{float(expected[worst]):g}: wrapper and learner differ.",
                "Give the wrapper `stock` the gamma of the algorithm, set algorithm.stock_scale to its scale, put it "
                "outside of wrappers that change rewards, and set env.normalize_reward=false.",
            )
        self._checked = True

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        return {**super().diagnose(rollout), "policy/stock": float(self.policy.stock(rollout.obs).mean())}
