"""What every language-model algorithm has: the chain of links, and its update.

    reward parts -> reward -> credit -> advantage -> objective (correction, divergence) -> aggregation

Every link is a registered function chosen by its config word (`functional/llm_chain.py`); an algorithm is a config
whose words are its paper's (`algorithms/grpo.py`), or one that adds columns of its own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from distrl.algorithms.base import Algorithm, Update
from distrl.algorithms.text_metrics import batch_metrics
from distrl.algorithms.text_parts import ENTROPY, MOVEMENT, movement_sums, reward_plan, support, with_budget
from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, NonFiniteError
from distrl.config.algorithm import AlgorithmConfig
from distrl.functional.aggregation import aggregate
from distrl.functional.groups import Groups
from distrl.functional.links import link
from distrl.functional.llm_chain import objective
from distrl.functional.reward_plan import combine
from distrl.models.flat_adam import FlatAdam
from distrl.models.language import LanguageModel, adapter_layers
from distrl.models.language_loading import load_language_model
from distrl.models.packing import can_pack
from distrl.models.token_logp import token_logp

Word = str | dict[str, Any]

#: Columns that are computed with the first weights.
REFERENCE_COLUMNS = frozenset({"ref_logp", "tempered_ref_logp"})


class LanguageAlgorithmConfig(AlgorithmConfig):
    """Keys of every language-model algorithm."""

    rollout_steps: int = Field(1, ge=1)
    """Items of each prompt line (`env.num_envs` of them) in one batch. Usual: 1."""
    group_size: int = Field(8, ge=1)
    """Answers to each prompt, compared with each other. More give a steadier baseline. Usual: 4-64."""
    reward: dict[str, Any] = {}
    """How reward parts become one reward: `parts: {NAME: {weight, transform, gate}}`, `combination`, `gates`, `length`,
    `shaping`. Default: the first part, success. With `parts: {success: {}, placed: {weight: 0.5}}` a weighted sum."""
    credit: Word | None = None
    """Spreads the reward over tokens, for advantages that read token rewards: `outcome`, `kl_penalized_outcome`, ..."""
    advantage: Word = "grpo"
    """What an answer is worth against its group: a word of `distrl methods`, or `{name: WORD, option: ...}`."""
    objective: Word = "token_ppo"
    """The loss of a token, a row or a group."""
    aggregation: Word = "token_mean"
    """How token losses are summed up: `token_mean`, `seq_mean_token_mean`, `seq_mean_token_sum_norm`, ..."""
    divergence: Word | None = None
    """Distance to the reference model, the first weights: `k1`, `k2`, `k3`, ...; with `beta`."""
    beta: float = Field(0.0, ge=0)
    """Weight of the divergence. Usual: 0 to 0.04."""
    entropy: float = Field(0.0, ge=0)
    """Weight of an entropy bonus. More keeps answers varied. Usual: 0 to 0.01."""
    correction: Word | None = None
    """Weight of tokens whose behavior differs from the policy before the update: `tis`, `icepop`."""
    old: str = Field("behavior", pattern="^(behavior|recompute)$")
    """Log-probabilities that ratios are taken to: those that the sampler recorded, or computed again by the learner,
    with the weights before the update."""
    epochs: int = Field(1, ge=1)
    """Passes over a batch. Usual: 1-2."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps in a pass; groups are not split. Usual: 1-4."""
    micro_batch: int = Field(64, ge=1)
    """Rows that go through the model at once: less memory, same gradient."""
    packing: bool = True
    """Compute what the answers of a group begin with once, and rows of different lengths side by side without padding:
    the same gradient for less work. Off by itself for models that cannot do it."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay. Usual: 0-0.1."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off."""

    @model_validator(mode="after")
    def _corrected(self) -> LanguageAlgorithmConfig:
        if self.correction is not None and self.old != "recompute":
            raise ConfigError(
                "algorithm.correction compares the sampler's log-probabilities with the learner's, but algorithm.old"
                " is behavior, so both are the same.",
                "Set algorithm.old=recompute.",
            )
        if self.beta and self.divergence is None:
            raise ConfigError(
                f"algorithm.beta is {self.beta}, but no divergence is chosen.", "Set algorithm.divergence=k3."
            )
        return self


class LanguageAlgorithm(Algorithm):
    """The update of a language model from groups of answers.

    Args:
        config, model, options: As `Algorithm`; the model is a `LanguageModel`.
    """

    Config: ClassVar[type[AlgorithmConfig]] = LanguageAlgorithmConfig
    off_policy_correction: ClassVar[bool] = True
    #: Without `reward.parts` all parts of the task are used, not success alone.
    all_parts: ClassVar[bool] = False
    #: Curves of terms of the loss, which `part_loss` gives in this order; parts of a minibatch add up.
    loss_parts: ClassVar[tuple[str, ...]] = ()
    #: Keyword-only parameters of advantages whose values `numbers` gives, where the advantage has them.
    supplied: ClassVar[tuple[str, ...]] = ()
    #: Measure the entropy of the policy's laws at every update, also without a bonus.
    measures_entropy: ClassVar[bool] = False

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        self.language: LanguageModel = model
        self.reference: Tensor | None = None  # (P,) the first weights, where a link reads `ref_logp`

    @classmethod
    def build_model(cls, observation_space: Any, action_space: Any, model: Any, config: Any, **options: Any) -> Any:
        if "language" not in options:
            raise ConfigError(
                f"algorithm {config.name} learns from a language model's answers, but the run has no language model.",
                "Set env.id to a text task (text/NAME) and add the section language, or choose another algorithm.",
            )
        return load_language_model(options["language"], options["seed"], alphabet=options.get("alphabet"))

    def make_optimizer(self) -> torch.optim.Optimizer:
        config = self.schedules
        if config.weight_decay:
            options = {"betas": config.adam_betas, "weight_decay": config.weight_decay}
            return torch.optim.AdamW([self.parameter], lr=1.0, **options)
        return FlatAdam(self.parameter, betas=tuple(config.adam_betas))

    def begin(self, parts: Sequence[str], settings: Any) -> None:
        """Join the links.

        Args:
            parts: Names of the task's reward parts.
            settings: The run's `language` section: how tokens are drawn, and how many at most.

        Raises:
            ConfigError: A word, option or reward part that does not exist.
        """
        config = self.schedules
        self.parts, self.settings = tuple(parts), settings
        self.entropies = config.entropy > 0 or self.measures_entropy
        self.plan = reward_plan(config.reward, parts, self.all_parts)
        self.advantage = link("advantage", config.advantage, self.supplied)
        self.credit = None if config.credit is None else link("credit", config.credit)
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

    # ---- links -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: Columns) -> Columns:
        """Reward, log-probabilities of other weights, credit and advantage: once per batch, over all of it."""
        order = [self.parts.index(name) for name in self.plan.names]
        rewards = combine(self.plan, batch.parts[:, order], batch.mask.sum(1))
        batch = batch.with_(
            told=batch.parts, parts=rewards.parts, value=rewards.value, reward=rewards.reward, behavior_logp=batch.logp
        )
        if self.config.old == "recompute":
            batch = batch.with_(old_logp=self.scored(batch))
        else:
            batch = batch.with_(old_logp=batch.logp)
        if "ref_logp" in self.reads:
            batch = batch.with_(ref_logp=self.reference_logp(batch))
        batch = self.columns(batch)
        if self.credit is not None:
            batch = batch.with_(token_reward=self.credit(batch))
        return batch.with_(advantage=self.advantage(batch, **self.numbers()))

    def columns(self, batch: Columns) -> Columns:
        """More columns for an algorithm's links; what it changes in `reward` or `parts` counts for them too."""
        return batch

    def numbers(self) -> dict[str, float | None]:
        """Values of the `supplied` parameters for the present batch."""
        return {}

    def score(self, batch: Columns) -> Tensor:
        """log pi of every token under the present weights, with gradient, (N, L); 0 where the mask does not hold."""
        return self.laws(batch)[0]

    def laws(self, batch: Columns, temperature: float = 1.0, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """log pi of every token under the present weights, and the entropy of the law it was drawn from, if asked for.

        With gradient, (N, L) both; 0 where the mask does not hold.

        Args:
            batch: `tokens`, `mask`, and `kept` where sampling truncates.
            temperature: Of the law, times the run's own.
            entropy: Also give entropies.
        """
        settings = self.settings
        return token_logp(
            self.language,
            batch.tokens,
            batch.mask,
            temperature=(settings.temperature or 1.0) * temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            kept=support(batch.kept, batch.mask) if "kept" in batch else None,
            packing=self.packing,
            entropy=entropy,
        )

    @torch.no_grad()
    def scored(self, batch: Columns, temperature: float = 1.0) -> Tensor:
        """log pi of a whole batch without gradient, part by part. (N, L). Arguments as for `laws`."""
        rows = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        return torch.cat([self.laws(batch[index], temperature)[0] for index in rows])

    def reference_logp(self, batch: Columns) -> Tensor:
        """log-probabilities under the first weights, (N, L)."""
        with self.reference_weights():
            return self.scored(batch)

    @contextlib.contextmanager
    def reference_weights(self) -> Iterator[None]:
        """The first weights, for as long as the block lasts: no adapters, or the copy that was kept."""
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
        """Keep the present weights as the reference model, if a link asks for one and there are no adapters."""
        if REFERENCE_COLUMNS & self.reads and not adapter_layers(self.language.network):
            self.reference = self.flat.data.clone()

    # ---- the update ------------------------------------------------------------------------------------------------

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        """`prepare` once, then epochs x minibatches of whole groups, with one optimizer step each.

        Args:
            batch: (N, L) and (N,) columns on this device.
            rng: Shuffles the groups.

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the weights are those before the update.
        """
        before = self._remember()
        self._set_learning_rate()
        self.rng = rng
        batch = self.prepare(batch)
        norms, losses, movement = [], [], []
        for minibatch in self.text_minibatches(batch, rng):
            loss, moved = self.text_gradient(self.weighted(minibatch))
            norms.append(self.clip_gradient())
            losses.append(loss)
            movement.append(moved)
            self.optimizer.step()
        if not bool(torch.isfinite(torch.stack(norms)).all()):
            self._restore(before)
            raise NonFiniteError(
                self._cause(batch, batch), "The weights are those before this update; lower learning_rate."
            )
        means = {name: float(torch.stack([part[name] for part in movement]).mean()) for name in movement[0]}
        metrics = {"loss/policy": float(torch.stack(losses).mean()), "loss/grad_norm": float(torch.stack(norms).mean())}
        metrics |= means | self.curves(batch)
        return Update(metrics | self.after_update(batch, metrics))

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        """Called once an update stands: keep what the next one depends on, which belongs into `state` too.

        Args:
            batch: As `prepare` left it.
            metrics: The update's curves.

        Returns:
            More curves.
        """
        return {}

    def text_minibatches(self, batch: Columns, rng: np.random.Generator) -> Iterator[Columns]:
        """Minibatches of whole groups for every epoch."""
        groups = Groups(batch.group)
        count = min(self.config.minibatches, len(groups))
        for _ in range(self.config.epochs):
            if count == 1:
                yield batch
                continue
            order = torch.from_numpy(rng.permutation(len(groups))).to(batch.group.device)
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            edges = [len(groups) * part // count for part in range(count + 1)]
            where = place[groups.row]
            for start, stop in itertools.pairwise(edges):
                yield batch[((where >= start) & (where < stop)).nonzero().squeeze(1)]

    def weighted(self, minibatch: Columns) -> Columns:
        """Add what must be known of a whole minibatch before it is split: weights of its tokens, rows or groups."""
        return self.objective.weights(minibatch)

    def learned(self, part: Columns) -> Columns:
        """Add what is computed with the weights that are being learned, with gradient.

        `logp` (N, L) of the answers, and `entropy` (N, L) where it is wanted.
        """
        logp, entropy = self.laws(part, entropy=self.entropies)
        return part.with_(logp=logp) if entropy is None else part.with_(logp=logp, entropy=entropy)

    def part_loss(self, part: Columns) -> tuple[Tensor, list[Tensor]]:
        """The loss of a part of a minibatch, and its terms as `loss_parts` names them. Parts add up to the whole.

        Args:
            part: Rows of what `weighted` gave, with the columns of `learned`.
        """
        return self.objective.loss(part), []

    def curves(self, batch: Columns) -> dict[str, float]:
        """What a prepared batch says of the policy that made it."""
        return batch_metrics(batch, self.parts)

    def text_gradient(self, minibatch: Columns) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill `flat.grad` with the minibatch's gradient, shard by shard, and in them part by part."""
        vectors = []
        groups = Groups(minibatch.group)
        for mine in self.shards.split(torch.arange(len(groups), device=minibatch.group.device)):
            self.flat.zero_grad()
            total = self.flat.grad.new_zeros(1 + len(self.loss_parts) + len(MOVEMENT))
            for rows in self.micro_batches(minibatch, groups, mine):
                part = self.learned(minibatch[rows])
                loss, terms = self.part_loss(part)
                if self.config.entropy:
                    loss = loss - self.config.entropy * self.entropy_mean(part)
                if loss.requires_grad:
                    loss.backward()
                total += torch.stack([term.detach().float() for term in (loss, *terms, *movement_sums(part))])
            vectors.append(torch.cat([self.flat.grad, total]))
        summed = self.shards.sum(vectors)
        size = self.flat.grad.numel()
        self.flat.grad.copy_(summed[:size])
        loss, *sums = summed[size:]
        named = dict(zip(self.loss_parts, sums, strict=False))
        tokens = minibatch.mask.sum().clamp(min=1)
        moved = {name: value / tokens for name, value in zip(MOVEMENT, sums[len(named) :], strict=True)}
        if not self.entropies:
            del moved[ENTROPY]
        return loss, named | moved

    def entropy_mean(self, part: Columns) -> Tensor:
        """The part's share of the mean entropy, with the weights that tokens have in the loss.

        Raises:
            ConfigError: The algorithm does not compute entropies.
        """
        if "entropy" not in part:
            raise ConfigError(f"algorithm {self.config.name} has no entropy bonus.", "Set algorithm.entropy=0.")
        return aggregate(part.entropy, part.sum_weight)

    def micro_batches(self, minibatch: Columns, groups: Groups, mine: Tensor) -> Iterator[Tensor]:
        """Row numbers of these groups, `micro_batch` at a time; whole groups where the loss is one of groups."""
        rows = torch.isin(groups.row, mine).nonzero().squeeze(1)
        if self.objective.level != "group":
            yield from rows.split(self.config.micro_batch)
            return
        for group in mine:
            yield (groups.row == group).nonzero().squeeze(1)

    def diagnose(self, rollout: Columns) -> dict[str, float]:
        return {}

    def extras(self) -> dict[str, np.ndarray]:
        """Arrays that samplers need of this algorithm, published with every version; what they are made from belongs
        into `state`."""
        return {}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "reference": self.reference}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.reference = None if state["reference"] is None else torch.as_tensor(state["reference"]).to(self.device)
