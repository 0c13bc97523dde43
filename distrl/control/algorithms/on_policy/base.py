"""Base of the on-policy algorithms: epochs of minibatches over a rollout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from distrl.base.columns import Columns, tree_map
from distrl.control.models.actor_critic import build_actor_critic
from distrl.control.numpy_gradients.actor_critic import NumpyGradient
from distrl.functional.policy.objectives import value_loss
from distrl.functional.returns.state_values import next_values
from distrl.functional.statistics import approx_kl, explained_variance, masked_normalize
from distrl.learning.algorithm import Update
from distrl.learning.single_model import SingleModelAlgorithm
from distrl.learning.support_watch import SupportWatch

#: columns that only recurrent policies need
SEQUENCE_STATE = ("state",)
#: columns that `prepare` has used up, where steps no longer know their order
PREPARED = ("reward", "terminated", "truncated", "first")
#: columns that no loss needs row by row
PER_ROLLOUT = ("last_obs", "last_mask", "final_obs", "final_mask", "final_index", "version")

Losses = tuple[Tensor, dict[str, Tensor]]
LossNumbers = tuple[float | Tensor, Mapping[str, float | Tensor]]


class Minibatch(Columns):
    """One shard's rows, with the number of valid rows in the whole minibatch (`count`).

    Added over the shards, `batch.mean(x)` is the mean over the minibatch's valid rows.
    """

    __slots__ = ("count",)
    count: float

    @classmethod
    def of(cls, columns: Columns, count: float) -> Minibatch:
        batch = cls(**columns.to_dict())
        object.__setattr__(batch, "count", max(count, 1.0))  # a mean over nothing is zero
        return batch

    @classmethod
    def whole(cls, columns: Columns) -> Minibatch:
        """Take all rows as one shard."""
        return cls.of(columns, valid_rows(columns))

    def mean(self, x: Tensor) -> Tensor:
        """Sum of x over this shard's valid rows / number of valid rows in the whole minibatch."""
        valid = self.get("valid")
        if valid is None and x.numel() == self.count:
            return x.mean()
        return (x if valid is None else x * valid).sum() / self.count


def valid_rows(columns: Columns) -> float:
    """Count the valid steps of a rollout or minibatch."""
    valid = columns.get("valid")
    return float(math.prod(columns.logp.shape)) if valid is None else float(valid.sum())


class OnPolicy(SingleModelAlgorithm):
    """Base of the on-policy algorithms: an actor-critic, learned from whole rollouts.

    A subclass defines `prepare`, and `actor_objective` and `critic_loss` or a `loss`.
    """

    #: Argument of the actor's objective: the ratio pi/mu, or log pi.
    objective_input: ClassVar[str] = "ratio"

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        self.support = SupportWatch(
            getattr(getattr(model, "critic", None), "distribution", None), "algorithm.critic_head"
        )
        self._loss: Callable[[Minibatch], Losses] = (
            torch.compile(self.loss, dynamic=False) if self.compile else self.loss
        )
        self.numpy_gradient: NumpyGradient | None = None
        cls = type(self)
        generic = cls.loss is OnPolicy.loss and cls.evaluate is OnPolicy.evaluate and not self.penalized
        if generic and not self.compile and NumpyGradient.supports(self):
            self.numpy_gradient = NumpyGradient(self)

    @classmethod
    def build_model(cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any) -> Any:
        head = {key: getattr(config, key) for key in ("critic_head", "risk") if hasattr(config, key)}
        return build_actor_critic(observation_space, action_space, model, **head, **options)

    def prepare(self, rollout: Columns) -> Columns:
        """Add the columns that the loss needs, once per batch, with the weights before the update."""
        raise NotImplementedError(f"{type(self).__name__} must define prepare() or update()")

    def actor_objective(self, batch: Minibatch) -> partial[Tensor]:
        """Return each row's objective (to be maximized) as a function of `objective_input` (N,)."""
        raise NotImplementedError(f"{type(self).__name__} must define actor_objective(), loss() or update()")

    def critic_loss(self, batch: Minibatch) -> partial[Tensor]:
        """Return each row's loss as a function of the critic's output: half the squared error."""
        if "target_values" in batch:
            distribution = self.model.critic.distribution
            return partial(distribution.loss, target_values=batch.target_values, target_probs=batch.target_probs)
        return partial(value_loss, returns=batch.returns)

    def loss(self, batch: Minibatch) -> Losses:
        """Return the loss of one shard (to be minimized) and its additive terms by name."""
        params, critic_output = self.evaluate(batch)
        actions, mask = self.policy.actions, batch.get("mask")
        logp = actions.logp(params, batch.action, mask)
        log_ratio = logp - batch.logp
        objective = self.actor_objective(batch)
        actor = -batch.mean(objective(logp if self.objective_input == "logp" else log_ratio.exp()))
        critic = batch.mean(self.critic_loss(batch)(critic_output))
        total = actor + self.config.value_coef * critic
        terms = {"actor": actor, "critic": critic}
        if self.config.entropy_coef:
            terms["entropy"] = entropy = batch.mean(actions.entropy(params, mask))
            total = total - self.config.entropy_coef * entropy
        if self.penalized:
            for name, (weight, term) in self.penalties(params, batch).items():
                terms[name] = term
                total = total + weight * term
        if getattr(self.config, "target_kl", None) is not None:
            terms["kl"] = batch.mean(approx_kl(log_ratio.detach()))
        return total, terms

    @property
    def penalized(self) -> bool:
        """True if the loss has further terms, `penalties`."""
        return False

    def penalties(self, params: Tensor, batch: Minibatch) -> dict[str, tuple[float, Tensor]]:
        """Return further terms of the loss by name, each with its weight."""
        return {}

    def prepare_minibatch(self, batch: Columns) -> Columns:
        """Add statistics over a whole minibatch before it is split: normalized advantages."""
        size = getattr(self.model.critic.head, "noise_size", 0)
        if size:  # the critic's head learns at random levels
            levels = self.rng.random((*batch.logp.shape, size), dtype=np.float32)
            batch = batch.with_(levels=torch.from_numpy(levels).to(self.device))
        if not getattr(self.config, "normalize_advantage", False):
            return batch
        return batch.with_(advantage=masked_normalize(batch.advantage, batch.get("valid")))

    def stop_epochs(self, metrics: Mapping[str, float | Tensor]) -> bool:
        """Return True to end the epochs of this batch early: beyond 1.5 times `target_kl`."""
        limit = getattr(self.config, "target_kl", None)
        return limit is not None and float(metrics["kl"]) > 1.5 * limit

    def policy_metrics(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        """Return the algorithm's metrics of log pi - log mu (T, B) after an update."""
        return {}

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        """Prepare a rollout (T, B), then take one optimizer step for each minibatch of each epoch."""
        self.trained.remember()
        self.set_learning_rates()
        self.rng = rng
        with torch.no_grad():
            rows = self.training_rows(self.prepare(rollout))
        if self.numpy_gradient is not None:
            rows = self.numpy_gradient.rows(rows)
        norms: list[float | Tensor] = []
        terms: Mapping[str, float | Tensor] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are found and named below
            for minibatches in self.epochs(rows, int(getattr(self.config, "epochs", 1)), rng):
                for minibatch in minibatches:
                    norm, terms = self.step(minibatch)
                    norms.append(norm)
                if self.stop_epochs(terms):
                    break
        norm = self.check_norms(norms, rollout, rows).mean()
        metrics = {f"loss/{name}": float(value) for name, value in terms.items()}
        return Update({**metrics, "loss/grad_norm": float(norm), "policy/minibatches": float(len(norms))})

    def check_norms(self, norms: Sequence[float | Tensor], *batches: Columns) -> Tensor:
        """Return the norms of an update's gradients as one tensor.

        If one is NaN or infinite, the weights are restored and the batches are refused.
        """
        stacked = torch.stack([torch.as_tensor(norm) for norm in norms])
        if not bool(torch.isfinite(stacked).all()):
            self.trained.rollback()
            raise self.refuse(*batches)
        return stacked

    def training_rows(self, rollout: Columns) -> Columns:
        """Return steps (T*B, ...), or sequences (T, B, ...) for recurrent policies."""
        rollout = rollout.without(*PER_ROLLOUT)
        if self.policy.recurrent:
            return rollout
        return rollout.without(*SEQUENCE_STATE, *PREPARED).map(lambda leaf: leaf.flatten(0, 1))

    def epochs(self, rows: Columns, epochs: int, rng: np.random.Generator) -> Iterator[Iterator[Columns]]:
        """Yield the minibatches of each epoch, with their statistics (`prepare_minibatch`)."""
        count = min(int(getattr(self.config, "minibatches", 1)), rows.logp.shape[-1])
        if count == 1:  # always the same rows: their statistics are computed once
            whole = self.prepare_minibatch(rows)
            for _ in range(epochs):
                yield iter([whole])
            return
        for _ in range(epochs):
            yield map(self.prepare_minibatch, self.minibatches(rows, count, rng))

    def minibatches(self, rows: Columns, count: int, rng: np.random.Generator) -> Iterator[Columns]:
        """Cut shuffled rows into `count` minibatches (environments, for recurrent policies)."""
        total = rows.logp.shape[-1]
        # One gather for the epoch, then slices: cheaper than a gather for each minibatch.
        shuffled = self.select(rows, self._index(rng.permutation(total)))
        edges = [total * part // count for part in range(count + 1)]
        for start, stop in itertools.pairwise(edges):
            yield self.select(shuffled, slice(start, stop))

    def _index(self, index: np.ndarray) -> np.ndarray | Tensor:
        """Return row numbers for numpy columns as they are, else as a tensor on the device."""
        return index if self.numpy_gradient is not None else torch.from_numpy(index).to(self.device)

    def select(self, rows: Columns, index: slice | np.ndarray | Tensor) -> Columns:
        """Take some rows, or some environments of sequences."""
        if not self.policy.recurrent:
            return rows[index]
        state = tree_map(lambda leaf: leaf[index], rows.state)
        return rows.without(*SEQUENCE_STATE).map(lambda leaf: leaf[:, index]).with_(state=state)

    def step(self, minibatch: Columns) -> tuple[float | Tensor, Mapping[str, float | Tensor]]:
        """Take one optimizer step; returns the norm before clipping and the loss's terms."""
        if self.numpy_gradient is None:
            terms = self.gradient(minibatch, self._loss)[1]
        else:
            terms = self._add_shards(minibatch, self.numpy_gradient.gradient)[1]
        norm = self.clip_gradient()
        self.trained.optimizer.step()
        return norm, terms

    def gradient(self, batch: Columns, loss: Callable[[Minibatch], Losses]) -> LossNumbers:
        """Write the gradient of `loss` over all shards; returns the loss and its terms."""

        def backward(shard: Minibatch) -> Losses:
            self.flat.zero_grad()
            autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
            with autocast:
                total, terms = loss(shard)
            total.backward()
            return total.detach(), {name: term.detach() for name, term in terms.items()}

        return self._add_shards(batch, backward)

    def _add_shards(self, batch: Columns, gradient: Callable[[Minibatch], LossNumbers]) -> LossNumbers:
        """Sum `flat.grad`, losses and terms over shards; `gradient` computes those of one."""
        count = valid_rows(batch)
        if self.shards.count == 1:
            return gradient(Minibatch.of(batch, count))
        vectors, names, grad = [], [], self.flat.grad
        width = batch.logp.shape[-1]  # rows, or environments of sequences
        for index in self.shards.split(torch.arange(width)):
            total, terms = gradient(Minibatch.of(self.select(batch, self._index(index.numpy())), count))
            names = list(terms)
            values = torch.stack([torch.as_tensor(value, dtype=grad.dtype) for value in (total, *terms.values())])
            vectors.append(torch.cat([grad, values.to(grad.device)]))
        summed = self.shards.sum(vectors)
        grad.copy_(summed[: grad.numel()])
        values = summed[grad.numel() :]
        return values[0], dict(zip(names, values[1:], strict=True))

    def clip_gradient(self) -> float | Tensor:
        if self.numpy_gradient is not None:
            return self.numpy_gradient.clip(self.config.max_grad_norm)
        return super().clip_gradient()

    def evaluate(self, batch: Columns) -> tuple[Tensor, Tensor]:
        """Return distribution parameters (..., P) and the critic's output (...) of a minibatch."""
        levels = batch.get("levels")
        if self.policy.recurrent:
            params, output, _ = self.model.unroll(batch.obs, batch.state, batch.first, levels)
            return params, output
        return self.model.evaluate(batch.obs, levels=levels)

    def values(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """Return V at obs and at each next state, both (T, B)."""
        output, next_output = self.critic_forward(rollout)
        return self.model.critic.value(output), self.model.critic.value(next_output)

    def critic_forward(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """Return the critic's output (T, B) or (T, B, P) at obs and at each next state."""
        if self.policy.recurrent:
            return self._critic_forward_sequences(rollout)
        steps, envs = rollout.reward.shape
        parts = [tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs), rollout.last_obs]
        if len(rollout.final_index):
            parts.append(rollout.final_obs)
        output = self.model.critic_forward(tree_map(lambda *leaves: torch.cat(leaves), *parts)).float()
        inside, last, final = output.split([steps * envs, envs, len(output) - (steps + 1) * envs])
        inside = inside.unflatten(0, (steps, envs))
        return inside, next_values(inside, last, final, rollout.final_index)

    def _critic_forward_sequences(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """Return the same; a final observation is evaluated from the hidden state after its step."""
        _, output, states = self.model.unroll(rollout.obs, rollout.state, rollout.first)
        after = tree_map(lambda leaf: leaf[-1], states)
        ended = (rollout.terminated | rollout.truncated)[-1]
        last = self.model.critic_forward(rollout.last_obs, after, ended)
        final = output[0, :0]
        if len(rollout.final_index):
            t, b = rollout.final_index.unbind(1)
            final = self.model.critic_forward(rollout.final_obs, tree_map(lambda leaf: leaf[t, b], states))
        return output, next_values(output, last, final, rollout.final_index)

    def rollout_params(self, rollout: Columns) -> Tensor:
        """Return distribution parameters (T, B, P) of the policy on a whole rollout."""
        if self.policy.recurrent:
            return self.policy.unroll(rollout.obs, rollout.state, rollout.first)[0]
        rows = self.policy(tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs))[0]
        return rows.unflatten(0, rollout.reward.shape)

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        """Measure policy movement on this batch, and the variance that the critic explains."""
        if self.policy.recurrent:
            params, output = self.evaluate(rollout)
        else:
            rows = self.model.evaluate(tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs))
            params, output = (part.unflatten(0, rollout.reward.shape) for part in rows)
        value = self.model.critic.value(output)
        actions, mask, valid = self.policy.actions, rollout.get("mask"), rollout.get("valid")
        batch = Minibatch.whole(rollout)
        log_ratio = actions.logp(params, rollout.action, mask) - rollout.logp
        metrics = {
            "policy/kl": float(batch.mean(actions.kl(rollout.params, params, mask))),
            "policy/entropy": float(batch.mean(actions.entropy(params, mask))),
            "policy/max_ratio": float(log_ratio.abs().max().exp()),
        }
        metrics |= self.policy_metrics(log_ratio, batch)
        prepared = self.prepare(rollout)
        if "returns" in prepared:
            metrics["policy/explained_variance"] = float(explained_variance(value, prepared.returns, valid))
        self.warnings += self.support.warnings()
        return metrics
