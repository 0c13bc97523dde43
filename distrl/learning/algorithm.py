"""What every algorithm has: parameters in one flat vector, an optimizer, and the on-policy update.

An on-policy file writes `prepare` (once per batch, with the weights before the update) and `loss` (per minibatch); an
off-policy file overrides `update`. Neither knows of processes, fragments or files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import NonFiniteError
from distrl.config.algorithm import AlgorithmConfig
from distrl.control.models.actor_critic import ActorCritic, build_actor_critic
from distrl.control.numpy_gradients.update import RowLosses, WrittenOutGradient
from distrl.functional.distributions.categorical import SupportWatch
from distrl.functional.returns.state_values import next_values
from distrl.functional.statistics import explained_variance
from distrl.learning.shards import Shards
from distrl.models.parameters.adam import FlatAdam
from distrl.models.parameters.flat import flatten_parameters

#: columns of a rollout that are indexed (T, B): what a minibatch is cut from
SEQUENCE_STATE = ("state",)
#: columns that `prepare` has used up, where steps no longer know their order
PREPARED = ("reward", "terminated", "truncated", "first")
#: columns that no loss needs row by row
PER_ROLLOUT = ("last_obs", "last_mask", "final_obs", "final_mask", "final_index", "version")


@dataclass
class Update:
    """What an update says of itself.

    Attributes:
        metrics: Numbers for the curves, by tag.
        priorities: New priorities of replayed units (off-policy).
    """

    metrics: dict[str, float] = field(default_factory=dict)
    priorities: Any = None


class Minibatch(Columns):
    """One shard's rows, and the number of valid rows in the whole minibatch.

    A loss writes `batch.mean(x)`; added over the shards, that is the mean over the minibatch's valid rows.
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
        """All rows as one shard."""
        return cls.of(columns, valid_rows(columns))

    def mean(self, x: Tensor) -> Tensor:
        """Sum of x over this shard's valid rows / number of valid rows in the whole minibatch."""
        valid = self.get("valid")
        if valid is None and x.numel() == self.count:
            return x.mean()
        return (x if valid is None else x * valid).sum() / self.count


def valid_rows(columns: Columns) -> float:
    """How many steps of a rollout or minibatch count."""
    valid = columns.get("valid")
    return float(math.prod(columns.logp.shape)) if valid is None else float(valid.sum())


class Algorithm:
    """Base of all algorithms.

    Args:
        config: The algorithm's own config, schedules unresolved.
        model: Policy and critic; moved to `device`.
        device: Where the update runs.
        shards: Logical shards of every minibatch.
        bf16: Run the loss under bfloat16 autocast.
        compile: Pass the loss through `torch.compile`.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    #: True where the algorithm corrects for stale data, so that `max_staleness` > 0 needs no warning
    off_policy_correction: ClassVar[bool] = False

    def __init__(
        self,
        config: Any,
        model: ActorCritic,
        *,
        device: str | torch.device = "cpu",
        shards: Shards | None = None,
        bf16: bool = False,
        compile: bool = False,
    ):
        self.schedules = config
        self.config: Any = config  # with every schedule resolved, once `resolve` was called
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.policy = model.policy
        self.flat = flatten_parameters(model)
        self.parameter = nn.Parameter(self.flat.data)  # the whole vector, as optimizers want it
        self.parameter.grad = self.flat.grad
        self.shards = shards or Shards()
        self.bf16 = bf16
        self.optimizer = self.make_optimizer()
        self.rng = np.random.default_rng(0)  # of the present update
        self.warnings: list[str] = []  # what the user should be told; the learner empties it
        self.support = SupportWatch(getattr(getattr(model, "critic", None), "law", None), "algorithm.critic_head")
        self._loss: Callable[[Any], tuple[Tensor, dict[str, Tensor]]] = self.loss
        if compile:
            self._loss = torch.compile(self.loss, dynamic=False)
        written_out = not compile and WrittenOutGradient.applies(self)
        self.written_out = WrittenOutGradient(self) if written_out else None

    # ---- networks --------------------------------------------------------------------------------------------------

    @classmethod
    def build_model(cls, observation_space: Any, action_space: Any, model: Any, config: Any, **options: Any) -> Any:
        """Fresh networks, a module with a `policy`; the first weights depend on the seed alone.

        Args:
            observation_space, action_space: Of one environment.
            model: The run's `model` section.
            config: The algorithm's own config, schedules unresolved.
            options: normalize_obs, clip_obs, seed.
        """
        laws = {key: getattr(config, key) for key in ("critic_head", "risk") if hasattr(config, key)}
        return build_actor_critic(observation_space, action_space, model, **laws, **options)

    @classmethod
    def acting_model(cls, model: Any) -> Any:
        """What of `build_model`'s module is published, and all that samplers, evaluation and policy files hold."""
        return model

    # ---- what an algorithm's file writes -----------------------------------------------------------------------

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam over the flat parameter vector (one fused kernel)."""
        return FlatAdam(self.parameter, eps=self.adam_eps)

    adam_eps: ClassVar[float] = 1e-5

    def prepare(self, rollout: Columns) -> Columns:
        """Add the columns that the loss needs, once per batch, with the weights before the update."""
        raise NotImplementedError(f"{type(self).__name__} must define prepare() or update()")

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one shard (to be minimized) and its additive parts by name."""
        raise NotImplementedError(f"{type(self).__name__} must define loss() or update()")

    def row_losses(self, batch: Minibatch, logp: np.ndarray, value: np.ndarray) -> RowLosses:
        """`loss` row by row with its derivatives, in numpy: see `control.numpy_gradients.update`.

        Optional. Only a class that defines it itself is updated without autograd: what is inherited may not belong to
        an overridden loss.
        """
        raise NotImplementedError(f"{type(self).__name__} has no written-out derivatives")

    def prepare_minibatch(self, batch: Columns) -> Columns:
        """Statistics over a whole minibatch, before it is split into shards (advantage normalization)."""
        return batch

    def stop_epochs(self, metrics: Mapping[str, float]) -> bool:
        """End the epochs of this batch early?"""
        return False

    # ---- the on-policy update ----------------------------------------------------------------------------------

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        """`prepare` once, then epochs x minibatches of `loss`, with one optimizer step each.

        Args:
            rollout: (T, B) columns on this device.
            rng: Shuffles the minibatches.

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the weights are those before the update.
        """
        before = self._remember()
        self._set_learning_rate()
        self.rng = rng
        with torch.no_grad():
            rows = self.training_rows(self.prepare(rollout))
        if self.written_out is not None:
            rows = self.written_out.rows(rows)
        norms: list[Any] = []
        parts: dict[str, Any] = {}
        steps = 0
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below, and named
            for minibatches in self.epochs(rows, int(getattr(self.config, "epochs", 1)), rng):
                for minibatch in minibatches:
                    norm, parts = self.step(minibatch)
                    norms.append(norm)
                    steps += 1
                if self.stop_epochs(parts):
                    break
        norm_total = torch.stack([torch.as_tensor(norm) for norm in norms])
        if not bool(torch.isfinite(norm_total).all()):
            self._restore(before)
            raise NonFiniteError(
                self._cause(rollout, rows), "The weights are those before this update; lower learning_rate."
            )
        metrics = {f"loss/{name}": float(value) for name, value in parts.items()}
        metrics["loss/grad_norm"] = float(norm_total.mean())
        metrics["policy/minibatches"] = float(steps)
        return Update(metrics)

    def training_rows(self, rollout: Columns) -> Columns:
        """Rows that minibatches are cut from: steps (T*B, ...), or sequences (T, B, ...) for recurrent policies."""
        rollout = rollout.without(*PER_ROLLOUT)
        if self.policy.recurrent:
            return rollout
        return rollout.without(*SEQUENCE_STATE, *PREPARED).map(lambda leaf: leaf.flatten(0, 1))

    def epochs(self, rows: Columns, epochs: int, rng: np.random.Generator) -> Iterator[Iterator[Columns]]:
        """For each epoch its minibatches, with their statistics (`prepare_minibatch`)."""
        count = min(int(getattr(self.config, "minibatches", 1)), rows.logp.shape[-1])
        if count == 1:  # always the same rows: their statistics are computed once
            whole = self.prepare_minibatch(rows)
            for _ in range(epochs):
                yield iter([whole])
            return
        for _ in range(epochs):
            yield map(self.prepare_minibatch, self.minibatches(rows, count, rng))

    def minibatches(self, rows: Columns, count: int, rng: np.random.Generator) -> Iterator[Columns]:
        """`count` shuffled parts that together are every row once (every environment, for recurrent policies)."""
        total = rows.logp.shape[-1]
        # One gather for the epoch, then slices: cheaper than a gather for each minibatch.
        shuffled = self.select(rows, self._index(rng.permutation(total)))
        edges = [total * part // count for part in range(count + 1)]
        for start, stop in itertools.pairwise(edges):
            yield self.select(shuffled, slice(start, stop))

    def _index(self, index: np.ndarray) -> Any:
        """Row numbers as the rows want them: numpy for numpy columns, else on the device."""
        return index if self.written_out is not None else torch.from_numpy(index).to(self.device)

    def select(self, rows: Columns, index: Any) -> Columns:
        """Some rows, or some environments of sequences."""
        if not self.policy.recurrent:
            return rows[index]
        state = tree_map(lambda leaf: leaf[index], rows.state)
        return rows.without(*SEQUENCE_STATE).map(lambda leaf: leaf[:, index]).with_(state=state)

    def step(self, minibatch: Columns) -> tuple[Any, dict[str, Any]]:
        """One optimizer step. Returns the gradient's norm (before clipping) and the loss's parts."""
        if self.written_out is None:
            _, parts = self.gradient(minibatch, self._loss)
        else:
            _, parts = self._add_shards(minibatch, self.written_out.gradient)
        norm = self.clip_gradient()
        self.optimizer.step()
        return norm, parts

    def gradient(
        self, batch: Columns, loss: Callable[[Any], tuple[Tensor, dict[str, Tensor]]]
    ) -> tuple[Any, dict[str, Any]]:
        """Fill `flat.grad` with the gradient of `loss` over all shards of `batch`; returns the loss and its parts."""

        def backward(shard: Minibatch) -> tuple[Any, dict[str, Any]]:
            self.flat.zero_grad()
            total, parts = self._forward(shard, loss)
            total.backward()
            return total.detach(), {name: part.detach() for name, part in parts.items()}

        return self._add_shards(batch, backward)

    def _add_shards(
        self, batch: Columns, gradient: Callable[[Minibatch], tuple[Any, dict[str, Any]]]
    ) -> tuple[Any, dict[str, Any]]:
        """Let `gradient` fill `flat.grad` for each shard of a batch; leaves their sum there, and returns that of the
        losses and parts."""
        count = valid_rows(batch)
        if self.shards.count == 1:
            return gradient(Minibatch.of(batch, count))
        vectors, names, grad = [], [], self.flat.grad
        width = batch.logp.shape[-1]  # rows, or environments of sequences
        for index in self.shards.split(torch.arange(width)):
            total, parts = gradient(Minibatch.of(self.select(batch, self._index(index.numpy())), count))
            names = list(parts)
            values = torch.stack([torch.as_tensor(value, dtype=grad.dtype) for value in (total, *parts.values())])
            vectors.append(torch.cat([grad, values.to(grad.device)]))
        summed = self.shards.sum(vectors)
        grad.copy_(summed[: grad.numel()])
        values = summed[grad.numel() :]
        return values[0], dict(zip(names, values[1:], strict=True))

    def _forward(self, batch: Minibatch, loss: Callable[[Any], Any]) -> Any:
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with autocast:
            return loss(batch)

    def clip_gradient(self) -> Any:
        """Scale the gradient to norm `max_grad_norm` at most; returns the norm before."""
        if self.written_out is not None:
            return self.written_out.clip(self.config.max_grad_norm)
        norm = torch.linalg.vector_norm(self.flat.grad)
        if self.config.max_grad_norm is not None:
            self.flat.grad.mul_((self.config.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    # ---- policy and critic on rollouts and minibatches -----------------------------------------------------------

    def evaluate(self, batch: Columns) -> tuple[Tensor, Tensor]:
        """Distribution parameters (..., P) and the critic's output (...) of a minibatch or rollout, with gradients."""
        levels = batch.get("levels")
        if self.policy.recurrent:
            params, output, _ = self.model.unroll(batch.obs, batch.state, batch.first, levels)
            return params, output
        return self.model.evaluate(batch.obs, levels=levels)

    def values(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """V(obs) and the value that each step bootstraps from, both (T, B)."""
        now, following = self.judge(rollout)
        return self.model.critic.value(now), self.model.critic.value(following)

    def judge(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """The critic's output at obs, and where each step bootstraps from: values (T, B), or laws (T, B, P)."""
        if self.policy.recurrent:
            return self._judge_sequences(rollout)
        steps, envs = rollout.reward.shape
        parts = [tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs), rollout.last_obs]
        if len(rollout.final_index):
            parts.append(rollout.final_obs)
        output = self.model.judge(tree_map(lambda *leaves: torch.cat(leaves), *parts)).float()
        inside, last, final = output.split([steps * envs, envs, len(output) - (steps + 1) * envs])
        inside = inside.unflatten(0, (steps, envs))
        return inside, next_values(inside, last, final, rollout.final_index)

    def _judge_sequences(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        """As `judge`; a final observation is judged from the hidden state after the step it ended on."""
        _, output, states = self.model.unroll(rollout.obs, rollout.state, rollout.first)
        after = tree_map(lambda leaf: leaf[-1], states)
        ended = (rollout.terminated | rollout.truncated)[-1]
        last = self.model.judge(rollout.last_obs, after, ended)
        final = output[0, :0]
        if len(rollout.final_index):
            t, b = rollout.final_index.unbind(1)
            final = self.model.judge(rollout.final_obs, tree_map(lambda leaf: leaf[t, b], states))
        return output, next_values(output, last, final, rollout.final_index)

    def draw_levels(self, batch: Columns) -> Columns:
        """Add the random levels that the critic's head learns at, if it does."""
        size = getattr(self.model.critic.head, "noise_size", 0)
        if not size:
            return batch
        levels = self.rng.random((*batch.logp.shape, size), dtype=np.float32)
        return batch.with_(levels=torch.from_numpy(levels).to(self.device))

    def rollout_params(self, rollout: Columns) -> Tensor:
        """Distribution parameters (T, B, P) of the policy on a whole rollout."""
        if self.policy.recurrent:
            return self.policy.unroll(rollout.obs, rollout.state, rollout.first)[0]
        rows = self.policy(tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs))[0]
        return rows.unflatten(0, rollout.reward.shape)

    def movement(self, log_ratio: Tensor, batch: Minibatch) -> dict[str, float]:
        """An algorithm's own metrics of log pi - log mu (T, B) after an update: part of `diagnose`."""
        return {}

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        """How far the policy moved on this batch, and what the critic explains: for the curves, not for learning."""
        params, output = self.evaluate(rollout) if self.policy.recurrent else self._evaluate_steps(rollout)
        value = self.model.critic.value(output)
        actions, mask, valid = self.policy.actions, rollout.get("mask"), rollout.get("valid")
        batch = Minibatch.whole(rollout)
        log_ratio = actions.logp(params, rollout.action, mask) - rollout.logp
        metrics = {
            "policy/kl": float(batch.mean(actions.kl(rollout.params, params, mask))),
            "policy/entropy": float(batch.mean(actions.entropy(params, mask))),
            "policy/max_ratio": float(log_ratio.abs().max().exp()),
        }
        metrics |= self.movement(log_ratio, batch)
        prepared = self.prepare(rollout)
        if "returns" in prepared:
            metrics["policy/explained_variance"] = float(explained_variance(value, prepared.returns, valid))
        self.warnings += self.support.tell()
        return metrics

    def _evaluate_steps(self, rollout: Columns) -> tuple[Tensor, Tensor]:
        shape = rollout.reward.shape
        params, output = self.model.evaluate(tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs))
        return params.unflatten(0, shape), output.unflatten(0, shape)

    # ---- state ---------------------------------------------------------------------------------------------------

    def resolve(self, env_steps: int, total: int | None) -> None:
        """Set every schedule to its value at `env_steps`."""
        self.config = self.schedules.at(env_steps, total)

    def _set_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.config.learning_rate)

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, besides config and batch: a state for `base.pack`."""
        optimizer = self.optimizer.state_dict()["state"]
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": {
                str(key): {name: value.clone() if isinstance(value, Tensor) else value for name, value in slot.items()}
                for key, slot in optimizer.items()
            },
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict({name: torch.as_tensor(value) for name, value in state["model"].items()})
        groups = self.optimizer.state_dict()["param_groups"]
        slots = {
            int(key): {
                name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in slot.items()
            }
            for key, slot in state["optimizer"].items()
        }
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def _remember(self) -> tuple[Tensor, dict[str, Tensor]]:
        slots = self.optimizer.state.get(self.parameter, {})
        return self.flat.data.clone(), {name: value.clone() for name, value in slots.items()}

    def _restore(self, before: tuple[Tensor, dict[str, Tensor]]) -> None:
        data, slots = before
        self.flat.data.copy_(data)
        for name, value in slots.items():
            self.optimizer.state[self.parameter][name].copy_(value)
        if not slots:
            self.optimizer.state.clear()

    def _cause(self, rollout: Columns, rows: Columns) -> str:
        """Name the first column or parameter that is not finite."""
        for name, column in [*rollout.items(), *rows.items()]:
            for leaf in map(torch.as_tensor, tree_leaves(column)):
                if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                    bad = int((~torch.isfinite(leaf)).sum())
                    return f"the batch's {name!r} holds {bad} non-finite values of {leaf.numel()}."
        return "a loss or gradient became non-finite although the batch is finite (diverged)."
