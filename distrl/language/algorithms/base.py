"""Base of language-model algorithms: the chain of components, and the update.

    reward components -> reward -> credit -> advantage -> objective (correction, divergence) -> aggregation

Every component is a registered function that the config names (`language/chain/objective.py`). An algorithm is a
preset of components (`group_relative/presets.py`), or a class that overrides some of the hooks below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns, Tree
from distrl.base.errors import ConfigError
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.batch import (
    ENTROPY,
    MOVEMENT,
    not_given,
    policy_metric_sums,
    recorded_support,
    reward_plan,
    split_groups,
    with_budget,
)
from distrl.language.algorithms.config import ComponentConfig, LanguageAlgorithmConfig
from distrl.language.algorithms.metrics import batch_metrics
from distrl.language.chain.aggregation import aggregate
from distrl.language.chain.component import component
from distrl.language.chain.groups import Groups
from distrl.language.chain.objective import objective
from distrl.language.curricula.sampling_plan import EqualSamples, SamplingPlan
from distrl.language.models.loading import load_language_model
from distrl.language.models.model import LanguageModel, adapter_layers
from distrl.language.models.packing import can_pack
from distrl.language.models.token_logp import Scoring, token_logp
from distrl.language.rewards.plan import combine
from distrl.language.tasks.base import Task, make_task
from distrl.learning.algorithm import Update
from distrl.learning.single_model import SingleModelAlgorithm
from distrl.learning.support_watch import SupportWatch
from distrl.models.parameters.adam import FlatAdam
from distrl.models.parameters.flat import FlatParameters

__all__ = ["ComponentConfig", "LanguageAlgorithm", "LanguageAlgorithmConfig"]

#: Columns computed with the reference model, the first weights.
REFERENCE_COLUMNS = frozenset({"ref_logp", "tempered_ref_logp"})


class LanguageAlgorithm(SingleModelAlgorithm):
    """Update of a language model from groups of answers."""

    Config = LanguageAlgorithmConfig
    off_policy_correction: ClassVar[bool] = True
    #: Default of `reward.components`: all components of the task instead of success alone.
    all_components: ClassVar[bool] = False
    #: Learn from the task's demonstrations; samplers generate for evaluations only.
    demonstrations: ClassVar[bool] = False
    #: Tags of the terms of the loss that `loss` returns, in this order; micro-batches add up.
    loss_terms: tuple[str, ...] = ()
    #: Tags of `policy_metrics`.
    policy_metric_names: tuple[str, ...] = MOVEMENT
    #: Keyword-only parameters of the advantage that `component_arguments` provides.
    supplied: ClassVar[tuple[str, ...]] = ()
    #: Attributes that are part of `state`.
    extra_state: ClassVar[tuple[str, ...]] = ()
    #: Compute the entropy of the policy at every update, also without a bonus.
    measures_entropy: ClassVar[bool] = False

    def __init__(self, config: LanguageAlgorithmConfig, model: LanguageModel, **options: Any):
        super().__init__(config, model, **options)
        self.language: LanguageModel = model
        self.support = SupportWatch(None)
        self.reference: Tensor | None = None  # (P,) the first weights, if a component reads `ref_logp`

    @classmethod
    def build_model(
        cls,
        observation_space: object,
        action_space: object,
        model: object,
        config: LanguageAlgorithmConfig,
        **options: Any,
    ) -> LanguageModel:
        if "language" not in options:
            raise ConfigError(
                f"algorithm {config.name} learns from a language model's answers, but the run has no language model.",
                "Set task.name and add the section language, or choose another algorithm.",
            )
        task = options["task"]
        alphabet = make_task(task.name, task.kwargs).alphabet
        return load_language_model(options["language"], options["seed"], alphabet=alphabet)

    @classmethod
    def sampling_plan(cls, config: LanguageAlgorithmConfig) -> SamplingPlan:
        """Return the sampling plan; its state of the run are `extras`."""
        return EqualSamples(config.group_size)

    def make_optimizer(self, flat: FlatParameters) -> torch.optim.Optimizer:
        config = self.schedules
        if config.weight_decay:
            options = {"betas": config.adam_betas, "weight_decay": config.weight_decay}
            return torch.optim.AdamW([flat.parameter()], lr=1.0, **options)
        return FlatAdam(flat.parameter(), betas=tuple(config.adam_betas))

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        """Build the components."""
        config = self.schedules
        self.components, self.settings = tuple(components), settings
        self.entropies = config.entropy_coef > 0 or self.measures_entropy
        self.plan = reward_plan(config.reward, components, self.all_components)
        not_given(config.advantage, self.supplied, config.name)
        self.advantage = component("advantage", config.advantage, self.supplied)
        self.credit = None if config.credit is None else component("credit", config.credit)
        self.objective = objective(
            with_budget(config.objective, settings.max_new_tokens),
            with_budget(config.aggregation, settings.max_new_tokens),
            config.divergence if config.beta else None,
            config.beta,
            config.correction,
        )
        links = [self.advantage] if self.credit is None else [self.advantage, self.credit]
        self.packing = config.packing and can_pack(self.language)
        self.reads = self.objective.reads().union(*(one.reads for one in links))

    def begin_task(self, task: Task) -> None:
        """Prepare for the task that `training_task` returned."""

    @classmethod
    def training_task(cls, task: Task, config: LanguageAlgorithmConfig) -> Task:
        """Return the task that the run trains on."""
        return task

    @torch.no_grad()
    def prepare(self, batch: Columns) -> Columns:
        """Add reward, log-probabilities, credit and advantage, computed over the whole batch."""
        batch = self.compute_rewards(batch)
        batch = (
            self.compute_old_logp(batch) if self.config.old_logp == "recompute" else batch.with_(old_logp=batch.logp)
        )
        if "ref_logp" in self.reads:
            batch = batch.with_(ref_logp=self.reference_logp(batch))
        batch = self.add_columns(batch)
        if self.credit is not None:
            batch = batch.with_(token_reward=self.credit(batch))
        return batch.with_(advantage=self.advantage(batch, **self.component_arguments()))

    def compute_rewards(self, batch: Columns) -> Columns:
        """Add the reward that the reward plan computes, and `behavior_logp`."""
        order = [self.components.index(name) for name in self.plan.names]
        rewards = combine(self.plan, batch.components[:, order], batch.mask.sum(1))
        return batch.with_(
            raw_reward_components=batch.components,
            components=rewards.components,
            value=rewards.value,
            reward=rewards.reward,
            behavior_logp=batch.logp,
        )

    def compute_old_logp(self, batch: Columns) -> Columns:
        """Add `old_logp` (N, L) under the weights before the update."""
        return batch.with_(old_logp=self.scored(batch))

    def add_columns(self, batch: Columns) -> Columns:
        """Add columns for the components; changes of `reward` or `components` count for them too."""
        return batch

    def component_arguments(self) -> dict[str, float | None]:
        """Return the keyword arguments that this algorithm passes to its advantage."""
        return {}

    def token_logp_and_entropy(
        self, batch: Columns, temperature: float | Tensor = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Compute log pi of every token, and on request the entropy of its distribution.

        With gradient, (N, L) both; 0 off the mask.

        Args:
            batch: `tokens`, `mask`, and `support` where sampling truncates.
            temperature: Multiplier of the run's temperature; a tensor (N,) has one for each row.
        """
        scoring = self.scoring(batch, temperature, entropy)
        return token_logp(self.language, batch.tokens, batch.mask, scoring, packing=self.packing)

    def scoring(self, batch: Columns, temperature: float | Tensor = 1.0, entropy: bool = False) -> Scoring:
        """Return the distribution that the batch was drawn from, at a multiple of its temperature."""
        settings = self.settings
        support = recorded_support(batch.support, batch.mask) if "support" in batch else None
        scaled = (settings.temperature or 1.0) * temperature
        return Scoring(scaled, settings.top_p, settings.top_k, support, entropy)

    @torch.no_grad()
    def scored(self, batch: Columns, temperature: float | Tensor = 1.0) -> Tensor:
        """Compute log pi (N, L) of a whole batch without gradient, in micro-batches."""
        chunks = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        scales = [temperature[rows] if isinstance(temperature, Tensor) else temperature for rows in chunks]
        return torch.cat(
            [self.token_logp_and_entropy(batch[rows], scale)[0] for rows, scale in zip(chunks, scales, strict=True)]
        )

    def reference_logp(self, batch: Columns) -> Tensor:
        """Compute log-probabilities (N, L) under the reference model."""
        with self.reference_weights():
            return self.scored(batch)

    @contextlib.contextmanager
    def reference_weights(self) -> Iterator[None]:
        """Use the first weights inside the block: without adapters, or from the copy."""
        if self.reference is None:
            with self.language.reference():
                yield
            return
        present = self.flat.data.clone()
        self.flat.data.copy_(self.reference)
        try:
            yield
        finally:
            self.flat.data.copy_(present)

    def remember_reference(self) -> None:
        """Copy the weights as the reference model, if a component reads it without adapters."""
        if REFERENCE_COLUMNS & self.reads and not adapter_layers(self.language.network):
            self.reference = self.flat.data.clone()

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        """Prepare the batch, then take one optimizer step per minibatch in each epoch.

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the weights are those before the update.
        """
        single_step = self.single_step(batch)
        if not single_step:
            self.trained.remember()
        self.set_learning_rates()
        self.rng = rng
        batch = self.prepare(batch)
        norms, losses, movement = [], [], []
        for minibatch in self.text_minibatches(batch, rng):
            loss, moved = self.text_gradient(self.add_loss_weights(minibatch))
            norms.append(self.clip_gradient())
            losses.append(loss)
            movement.append(moved)
            if single_step and not bool(torch.isfinite(norms[-1] + loss)):
                break
            self.trained.optimizer.step()
        # a clamped NaN ratio gives a NaN loss and a gradient of 0: check both
        if not bool(torch.isfinite(torch.stack([*norms, *losses])).all()):
            if not single_step:
                self.trained.rollback()
            raise self.refuse(batch)
        self.trained.forget()
        means = {name: float(torch.stack([part[name] for part in movement]).mean()) for name in movement[0]}
        metrics = {"loss/policy": float(torch.stack(losses).mean()), "loss/grad_norm": float(torch.stack(norms).mean())}
        metrics |= means | self.batch_metrics(batch)
        return Update(metrics | self.after_update(batch, metrics))

    def single_step(self, batch: Columns) -> bool:
        """True if an update is one optimizer step, so that no copy is needed for a rollback."""
        own = type(self).text_minibatches is LanguageAlgorithm.text_minibatches
        return own and self.config.epochs * min(self.config.minibatches, len(Groups(batch.group))) == 1

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        """Update state that later updates depend on (part of `state`); returns further metrics."""
        return {}

    def text_minibatches(self, batch: Columns, rng: np.random.Generator) -> Iterator[Columns]:
        """Iterate over minibatches of whole groups, epoch by epoch."""
        for _ in range(self.config.epochs):
            yield from split_groups(batch, self.config.minibatches, rng)

    def add_loss_weights(self, minibatch: Columns) -> Columns:
        """Add weights of tokens, rows or groups, which need the whole minibatch."""
        return self.objective.weights(minibatch)

    def forward(self, part: Columns) -> Columns:
        """Add the differentiable columns: `logp` (N, L), and `entropy` (N, L) if needed."""
        logp, entropy = self.token_logp_and_entropy(part, entropy=self.entropies)
        return part.with_(logp=logp) if entropy is None else part.with_(logp=logp, entropy=entropy)

    def loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        """Compute the loss of a micro-batch, and its terms in the order of `loss_terms`."""
        return self.objective.loss(part), []

    def batch_metrics(self, batch: Columns) -> dict[str, float]:
        """Compute metrics of a prepared batch."""
        return batch_metrics(batch, self.components)

    def text_gradient(self, minibatch: Columns) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill `flat.grad` with the gradient of a minibatch; returns the loss and metrics."""
        total = self.reduce(self.shard_sums(minibatch, micro_batches) for micro_batches in self.parts_of(minibatch))
        terms = 1 + len(self.loss_terms)
        means = torch.cat([total[1:terms], total[terms:] / minibatch.mask.sum().clamp(min=1)])
        named = dict(zip((*self.loss_terms, *self.policy_metric_names), means, strict=True))
        if not self.entropies:
            named.pop(ENTROPY, None)
        return total[0], named

    def parts_of(self, minibatch: Columns) -> Iterator[Iterable[tuple[Tensor, bool]]]:
        """Split a minibatch: for each shard the rows of its micro-batches, and if they count."""
        groups = Groups(minibatch.group)
        for mine in self.shards.split(torch.arange(len(groups), device=minibatch.group.device)):
            yield ((rows, True) for rows in self.micro_batches(minibatch, groups, mine))

    def shard_sums(self, minibatch: Columns, micro_batches: Iterable[tuple[Tensor, bool]]) -> Tensor:
        """Fill `flat.grad` with the gradient of one shard; returns sums of loss, terms and metrics."""
        self.flat.zero_grad()
        total = self.flat.grad.new_zeros(1 + len(self.loss_terms) + len(self.policy_metric_names))
        for rows, counts in micro_batches:
            loss, sums = self.loss_and_sums(minibatch[rows])
            if loss.requires_grad:
                (loss if counts else 0.0 * loss).backward()
            if counts:
                total += sums
        return total

    def loss_and_sums(self, micro_batch: Columns) -> tuple[Tensor, Tensor]:
        """Compute the loss of a micro-batch, and its detached contribution to the shard's sums."""
        micro_batch = self.forward(micro_batch)
        loss, terms = self.loss(micro_batch)
        if self.config.entropy_coef:
            loss = loss - self.config.entropy_coef * self.entropy_mean(micro_batch)
        sums = (loss, *terms, *self.policy_metrics(micro_batch))
        return loss, torch.stack([term.detach().float() for term in sums])

    def reduce(self, shards: Iterator[Tensor]) -> Tensor:
        """Add up the sums of all shards, and their gradients in `flat.grad`."""
        if self.shards.count == 1:
            return next(shards)
        summed = self.shards.sum([torch.cat([self.flat.grad, sums]) for sums in shards])
        size = self.flat.grad.numel()
        self.flat.grad.copy_(summed[:size])
        return summed[size:]

    def policy_metrics(self, part: Columns) -> list[Tensor]:
        """Compute sums over trainable tokens; curves show them per token."""
        return policy_metric_sums(part)

    def entropy_mean(self, part: Columns) -> Tensor:
        """Compute the contribution of a micro-batch to the mean entropy, weighted as the loss."""
        if "entropy" not in part:
            raise ConfigError(f"algorithm {self.config.name} has no entropy bonus.", "Set algorithm.entropy_coef=0.")
        return aggregate(part.entropy, part.sum_weight)

    def micro_batches(self, minibatch: Columns, groups: Groups, mine: Tensor) -> Iterator[Tensor]:
        """Iterate over rows of these groups, `micro_batch` at a time; by group for group losses."""
        rows = torch.isin(groups.row, mine).nonzero().squeeze(1)
        if self.objective.level != "group":
            yield from rows.split(self.config.micro_batch)
            return
        for group in mine:
            yield (groups.row == group).nonzero().squeeze(1)

    def diagnose(self, rollout: Columns) -> dict[str, float]:
        self.warnings += self.support.warnings()
        return {}

    def extras(self) -> dict[str, np.ndarray]:
        """Return arrays for the samplers, published with every version and derived from `state`."""
        return {}

    def state(self) -> dict[str, Tree]:
        own = {name: getattr(self, name) for name in self.extra_state}
        return {**super().state(), "reference": self.reference, **own}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        super().load_state(state)
        for name in self.extra_state:
            setattr(self, name, state[name])
        self.reference = None if state["reference"] is None else torch.as_tensor(state["reference"]).to(self.device)
