"""Base of the off-policy algorithms: gradient steps on replayed transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import State
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Scheduled
from distrl.config.sections.hindsight import HindsightConfig
from distrl.learning.algorithm import Algorithm, Update, non_finite_cause
from distrl.models.parameters.precision import hidden_layers_in_bf16
from distrl.models.parameters.trained import TrainedModule

P = ParamSpec("P")
T = TypeVar("T")


class OffPolicyConfig(AlgorithmConfig):
    """Keys that every off-policy algorithm has."""

    rollout_steps: int = Field(8, ge=1)
    """Time steps of each environment between two updates; the replay mixes them anyway. Usual: 1-256."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 10."""
    batch_size: int = Field(256, ge=1)
    """Transitions of one gradient step. Usual: 32-512."""
    replay_ratio: float = Field(1.0, gt=0, le=1000)
    """Gradient steps per environment step, exactly, over the run. More learn faster from few steps, until they
    overfit. Usual: 0.25-1, up to 20 with ensembles or resets."""
    learning_starts: int = Field(1000, ge=0)
    """Environment steps before the first gradient step. Usual: 0-20000."""
    n_step: int = Field(1, ge=1)
    """Rewards summed before bootstrapping. More carry rewards back faster, and are less off-policy. Usual: 1-5."""
    prioritized: bool = False
    """Draw transitions with large errors more often (Schaul et al. 2016)."""
    priority_alpha: float = Field(0.6, ge=0, le=1)
    """Strength of prioritization: 0 uniform, 1 in proportion to the error. Only with `prioritized`. Usual: 0.5-0.7."""
    priority_beta: Scheduled[float] = Field(0.4, ge=0, le=1)
    """Share of the resulting bias that importance weights correct. Usual: 0.4, rising to 1."""
    hindsight: HindsightConfig | None = None
    """Goal environments: relabel a share of every batch with goals that were reached later (Andrychowicz et al. 2017),
    for example `{relabeled: 0.8, horizon: 50}`. Not with replay shards or reward channels."""
    tau: float = Field(1.0, gt=0, le=1)
    """Step of a target network towards its network at each of its updates: 1 copies it. Usual: 0.005, or 1 with a
    long interval."""
    target_interval: int = Field(1, ge=1)
    """Gradient steps between two updates of the target networks. Usual: 1 with a small tau, 250-10000 with tau 1."""
    adam_eps: float = Field(1e-8, gt=0)
    """Adam's epsilon. Larger damps steps along directions with small gradients. Usual: 1e-8 to 1e-4."""


class ActingModel(nn.Module):
    """A policy alone, under the name that it has inside the whole model."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy


class OffPolicy(Algorithm):
    """Base of the off-policy algorithms, without logical shards.

    A subclass defines `build_model`, `make_modules` and `update`, one gradient step.
    """

    Config: ClassVar[type[AlgorithmConfig]] = OffPolicyConfig
    off_policy_correction = True
    #: `learner.compile` has an effect: the update calls the result of `compiled`.
    compiles: ClassVar[bool] = False
    #: The update reads `next_obs` of true ends: it must be the observation after the reset.
    goes_on_after_ends: ClassVar[bool] = False
    #: No gradient step has been due yet (`learning_starts`); for `set_exploration`.
    warming_up = True

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        if self.compile and not self.compiles:
            raise ConfigError(
                f"learner.compile is true; the update of {type(self).__name__} cannot be compiled.",
                "Set learner.compile=false. An algorithm of your own sets `compiles = True` once its update goes "
                "through `self.compiled(...)`.",
            )
        if self.bf16:
            hidden_layers_in_bf16(model)
        self.modules: dict[str, TrainedModule] = self.make_modules()
        self.gradient_steps = 0
        self._norms = torch.zeros((), device=self.device)  # their sum: one tensor for each would pin scattered memory

    @classmethod
    def acting_model(cls, model: Any) -> Any:
        return ActingModel(model.policy)

    @classmethod
    def replay_columns(cls, config: OffPolicyConfig) -> dict[str, int]:
        """Return further rollout columns (T, B, K) that the replay must keep: name -> K."""
        return {}

    def make_modules(self) -> dict[str, TrainedModule]:
        """Build the trained modules by name; called once, after model and config are set."""
        raise NotImplementedError(f"{type(self).__name__} must define make_modules()")

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        """Take one gradient step.

        Args:
            batch: Replayed transitions (N, ...) on the device, observations normalized: obs, action, reward (n-step
                sum), discount (gamma^k, 0 after a true end), next_obs, weight, and mask, next_mask where there are any.
            rng: Source of all random numbers of the step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update()")

    def set_exploration(self, rng: np.random.Generator) -> None:
        """Write epsilon or noise into the policy's buffers, before weights are published."""

    def minimize(self, name: str, loss: Tensor, learning_rate: float | None = None) -> Tensor:
        """Take one optimizer step of a module; returns the gradient's norm."""
        rate = float(self.config.learning_rate) if learning_rate is None else learning_rate
        return self.record_norm(self.modules[name].minimize(loss, rate, self.config.max_grad_norm))

    def record_norm(self, norm: Tensor) -> Tensor:
        """Add a gradient's norm to those that `end_steps` checks."""
        self._norms += norm
        return norm

    def move_targets(self) -> None:
        """End a gradient step: count it, and update the target networks when they are due."""
        self.gradient_steps += 1
        if self.gradient_steps % self.config.target_interval == 0:
            self._track(self.config.tau)

    def _track(self, tau: float) -> None:
        for trained in self.modules.values():
            if trained.target is not None:
                trained.track(tau)

    def compiled(self, function: Callable[P, T]) -> Callable[P, T]:
        """Compile a function without random numbers, under `learner.compile`."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def draw(self, array: np.ndarray) -> Tensor:
        """Move numbers drawn with numpy to the device."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def begin_steps(self) -> None:
        """Begin gradient steps: keep a copy for `rollback`."""
        self._norms.zero_()
        self._steps_before = self.gradient_steps
        for trained in self.modules.values():
            trained.remember()

    def end_steps(self, batch: Columns | None = None) -> None:
        """Check the gradients since `begin_steps`; restore its weights if one was NaN or infinite."""
        if not bool(torch.isfinite(self._norms)):
            self.rollback()
            cause = non_finite_cause(*([] if batch is None else [batch]), source="replay batch")
            advice = "The weights are those before this update; lower learning_rate, or check rewards."
            raise NonFiniteError(cause, advice)

    def rollback(self) -> None:
        """Undo every gradient step since `begin_steps`."""
        for trained in self.modules.values():
            trained.rollback()
        self.gradient_steps = self._steps_before

    def state(self) -> State:
        return {
            "buffers": {name: value.clone() for name, value in self.model.named_buffers()},
            "modules": {name: trained.state() for name, trained in self.modules.items()},
            "gradient_steps": self.gradient_steps,
        }

    def load_state(self, state: State) -> None:
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(torch.as_tensor(state["buffers"][name]))
        for name, trained in self.modules.items():
            trained.load_state(state["modules"][name])
        self.gradient_steps = int(state["gradient_steps"])

    def sync_targets(self) -> None:
        """Copy the networks to their targets, after weights were loaded from elsewhere."""
        self._track(1.0)
