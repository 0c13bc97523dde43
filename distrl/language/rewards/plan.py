"""Reward plans: transform, combination, gates, length and shaping, in this order.

`value`, the result before length and shaping, is read by curricula: a length penalty must not make a prompt look hard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown
from distrl.language.chain.component import ComponentConfig, Options, configured
from distrl.language.rewards.components import weighted_sum


@dataclass(frozen=True)
class RewardPlan:
    """Steps from components to a reward; only the combination is required.

    Attributes:
        names: Of the K components, in order.
        weights: (K,) by default ones.
        transforms: Name of a component -> function (R,) -> (R,).
        combination: (components (R, K), weights (K,)) -> (R,).
        component_gates: (gated, conditioning component, gate), after all transforms and before the combination.
        gates: (conditioning component, gate) on the combined reward; the condition is the transformed component.
        length: length in tokens (R,) -> (R,), added.
        shaping: reward (R,) -> (R,), last.
    """

    names: Sequence[str]
    weights: Sequence[float] | None = None
    transforms: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    combination: Callable[[Tensor, Tensor], Tensor] = weighted_sum
    component_gates: Sequence[tuple[str, str, Callable[[Tensor, Tensor], Tensor]]] = ()
    gates: Sequence[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = ()
    length: Callable[[Tensor], Tensor] | None = None
    shaping: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        named = [
            *self.transforms,
            *(n for gate in self.component_gates for n in gate[:2]),
            *(gate[0] for gate in self.gates),
        ]
        for name in named:
            if name not in self.names:
                raise ConfigError(unknown("reward component", name, self.names))
        if self.weights is not None and len(self.weights) != len(self.names):
            raise ConfigError(
                f"{len(self.weights)} weights for {len(self.names)} reward components ({', '.join(self.names)}).",
                "Give one weight for each component.",
            )


@dataclass(frozen=True)
class Rewards:
    """Result of a reward plan.

    Attributes:
        components: (R, K) transformed and gated, uncombined: what GDPO and BNPO normalize one by one.
        value: (R,) combined and gated: how well the task was done. For curricula and success rates.
        reward: (R,) with length and shaping: what is learned from.
    """

    components: Tensor
    value: Tensor
    reward: Tensor


def combine(plan: RewardPlan, components: Tensor, length: Tensor) -> Rewards:
    """Apply a plan."""
    columns = {name: plan.transforms.get(name, _same)(components[:, k]) for k, name in enumerate(plan.names)}
    gated = dict(columns)
    for name, condition, gate in plan.component_gates:
        gated[name] = gate(gated[name], columns[condition])
    stacked = torch.stack([gated[name] for name in plan.names], dim=1)
    weights = torch.ones(len(plan.names)) if plan.weights is None else torch.tensor(plan.weights)
    value = plan.combination(stacked, weights.to(stacked))
    for condition, combined_gate in plan.gates:
        value = combined_gate(value, columns[condition])
    reward = value if plan.length is None else value + plan.length(length).to(value)
    return Rewards(stacked, value, reward if plan.shaping is None else plan.shaping(reward))


def _same(component: Tensor) -> Tensor:
    return component


def plan_from_words(
    components: Mapping[str, Options],
    combination: ComponentConfig = "weighted_sum",
    gates: Sequence[Options] = (),
    length: ComponentConfig | None = None,
    shaping: ComponentConfig | None = None,
) -> RewardPlan:
    """A plan from what a config says.

    Args:
        components: Name -> any of `weight`, `transform` (plug point component_transform) and `gate` (plug point gate,
            with `on`: the conditioning component).
        gates: Words of plug point gate with `on`, for the combined reward.
    """
    known = ("weight", "transform", "gate")
    for name, about in components.items():
        for key in about:
            if key not in known:
                raise ConfigError(unknown(f"key of reward component {name}", key, known))
    return RewardPlan(
        names=list(components),
        weights=[float(about.get("weight", 1.0)) for about in components.values()],
        transforms={
            name: configured("component_transform", about["transform"])
            for name, about in components.items()
            if "transform" in about
        },
        combination=configured("combination", combination),
        component_gates=[(name, *_gate(about["gate"])) for name, about in components.items() if "gate" in about],
        gates=[_gate(word) for word in gates],
        length=None if length is None else configured("length_reward", length),
        shaping=None if shaping is None else configured("shaping", shaping),
    )


def _gate(word: Options) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    if "on" not in word:
        raise ConfigError(f"reward gate {dict(word)} does not say which component decides.", "Add on: COMPONENT.")
    return str(word["on"]), configured("gate", {key: value for key, value in word.items() if key != "on"})
