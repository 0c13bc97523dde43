"""Update of a language model that is sharded over a process group (FSDP), for any algorithm.

Every process has the whole batch and computes what a batch needs before the update as the others do; forward and
backward passes are made for its own rows only. Optimizers, copies for a rollback and the reference model work on the
process's shards. States are those of a whole model, so that any number of processes can go on with them, and one that
shards nothing too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from distrl.base.columns import Columns, Tree
from distrl.base.errors import ConfigError
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.config import LanguageAlgorithmConfig
from distrl.language.chain.groups import Groups
from distrl.language.models.model import LanguageModel
from distrl.language.models.sharded import Published, ShardedModel
from distrl.learning.shards import Shards
from distrl.models.parameters.flat import FlatParameters
from distrl.models.parameters.trained import TrainedModule

#: Methods in which an algorithm would have to know of shards.
OWN_METHODS = (
    "text_gradient",
    "shard_sums",
    "loss_and_sums",
    "parts_of",
    "reduce",
    "clip_gradient",
    "gradient",
    "part_gradients",
)


class ShardedLanguageAlgorithm(LanguageAlgorithm):
    """Overrides of the methods of `LanguageAlgorithm` that use gradients or whole vectors.

    Args:
        device: Where shards live and layers compute.
        shards: Which groups of a minibatch are this process's.
    """

    flat: FlatParameters

    def __init__(
        self,
        config: LanguageAlgorithmConfig,
        model: LanguageModel,
        *,
        device: str | torch.device = "cpu",
        shards: Shards | None = None,
        **options: Any,
    ):
        super().__init__(config, model, device="cpu", shards=shards, **options)  # blocks move one by one, as shards
        self.device = torch.device(device)
        self.sharded = ShardedModel(model, self.flat, self.device)
        self._train(TrainedModule(model, self.make_optimizer, flat=self.sharded.flat))
        half = torch.tensor(float(self.language.dtype == torch.bfloat16), device=self.device)
        dist.broadcast(half, 0)  # a precision that was measured may differ between processes
        self.language.dtype = torch.bfloat16 if bool(half) else torch.float32

    def acting_model(self, model: Any) -> Any:  # type: ignore[override]
        return Published(self.sharded)

    @torch.no_grad()
    def scored(self, batch: Columns, temperature: float | Tensor = 1.0) -> Tensor:
        """As `LanguageAlgorithm.scored`; every process computes its share of the parts."""
        everything = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        parts = [rows for rows in everything if bool(batch.mask[rows].any())]
        logp = torch.zeros(batch.mask.shape, device=self.device)
        world, rank = self.sharded.world, self.sharded.rank
        for begin in range(0, len(parts), world):
            mine = begin + rank < len(parts)
            rows = parts[begin + rank if mine else begin]
            scale = temperature[rows] if isinstance(temperature, Tensor) else temperature
            found = self.token_logp_and_entropy(batch[rows], scale)[0]
            if mine:
                logp[rows] = found
        dist.all_reduce(logp)
        return logp

    def parts_of(self, minibatch: Columns) -> Iterator[Iterable[tuple[Tensor, bool]]]:
        """Split a minibatch into equally many passes in every process."""
        own = list(self._own_parts(minibatch))
        count = torch.tensor(len(own), device=self.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        padding = [(self._some_part(minibatch), False)] * (int(count) - len(own))
        yield [*((rows, True) for rows in own), *padding]

    def loss_and_sums(self, micro_batch: Columns) -> tuple[Tensor, Tensor]:
        return self.sharded(super().loss_and_sums, micro_batch)

    def reduce(self, shards: Iterator[Tensor]) -> Tensor:
        (total,) = shards
        dist.all_reduce(total)
        return total

    def _own_parts(self, minibatch: Columns) -> Iterator[Tensor]:
        """Row numbers of this process's forward passes; rows in which nothing counts need none."""
        groups = Groups(minibatch.group)
        for mine in self.shards.split(torch.arange(len(groups), device=minibatch.group.device)):
            for rows in self.micro_batches(minibatch, groups, mine):
                if bool(minibatch.mask[rows].any()):
                    yield rows

    def _some_part(self, minibatch: Columns) -> Tensor:
        """Rows of one non-empty forward pass: one, or its whole group for group losses."""
        row = minibatch.mask.any(1).nonzero()[0]
        if self.objective.level != "group":
            return row
        return (minibatch.group == minibatch.group[row]).nonzero().squeeze(1)

    def clip_gradient(self) -> Tensor:
        """As `Algorithm.clip_gradient`, by the norm of the whole gradient."""
        squares = torch.linalg.vector_norm(self.flat.grad).double().square()
        dist.all_reduce(squares)
        norm = squares.sqrt().float()
        if self.config.max_grad_norm is not None:
            self.flat.grad.mul_((self.config.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def state(self) -> dict[str, Tree]:
        """As of a whole model, in process 0; all have to call it. The others' is of no use."""
        self.sharded.reshard()
        state = super().state()
        tensors = self.sharded.tensors()
        optimizer = {
            key: {name: self._gathered(int(key), value) for name, value in slot.items()}
            for key, slot in state["optimizer"].items()
        }
        reference = None if self.reference is None else self.sharded.gather(self.reference)
        return {**state, "model": tensors, "optimizer": optimizer, "reference": reference}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        self.sharded.reshard()
        model = self.sharded.spread(state["model"])
        optimizer = {
            key: {name: self._cut(int(key), value) for name, value in slot.items()}
            for key, slot in state["optimizer"].items()
        }
        reference = state["reference"]
        if reference is not None:
            reference = self.sharded.own(torch.as_tensor(reference))
        super().load_state({**state, "model": model, "optimizer": optimizer, "reference": reference})

    def _gathered(self, number: int, value: Tree) -> Tree:
        """A value that an optimizer keeps for its parameter of this number, whole."""
        own, whole = self._places(number)
        if not (isinstance(value, Tensor) and value.numel() == own.stop - own.start and value.dim()):
            return value
        vector = torch.zeros_like(self.flat.data)
        vector[own] = value
        found = self.sharded.gather(vector)
        return None if found is None else found[whole].clone()

    def _cut(self, number: int, value: Tree) -> Tree:
        """The inverse of `_gathered`."""
        own, whole = self._places(number)
        if not isinstance(value, np.ndarray | Tensor) or value.ndim == 0:
            return value
        vector = torch.zeros(self.sharded.size)
        vector[whole] = torch.as_tensor(value)
        return self.sharded.own(vector)[own].clone()

    def _places(self, number: int) -> tuple[slice, slice]:
        """Position of an optimizer's parameter in the process's vector, and in the whole one."""
        sizes = [parameter.numel() for group in self.trained.optimizer.param_groups for parameter in group["params"]]
        edges = [0, *itertools.accumulate(sizes)]
        begins = dict(zip(self.flat.offsets, self.sharded.whole.offsets, strict=True))
        begins[edges[-1]] = self.sharded.size
        begin, end = edges[number], edges[number + 1]
        return slice(begin, end), slice(begins[begin], begins[end])


def sharded_class(found: type[LanguageAlgorithm]) -> type[LanguageAlgorithm]:
    """Return the sharded class of an algorithm; ConfigError if it reads whole gradients."""
    between = itertools.takewhile(lambda cls: cls is not LanguageAlgorithm, found.__mro__)
    own = {name for cls in between for name in OWN_METHODS if name in vars(cls)}
    if own:
        raise ConfigError(
            f"learner.sharding is fsdp, but {found.__name__} sees whole gradients itself ({', '.join(sorted(own))}).",
            "Remove learner.sharding.",
        )
    made: Any = type(found.__name__, (ShardedLanguageAlgorithm, found), {})
    return made
