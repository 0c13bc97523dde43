"""Language model sharded over the processes of a group (FSDP2 of torch).

Each transformer block is one group of parameters, the rest (embeddings, last norm, output layer, heads) another. A
process stores its rows of every parameter in float32; a layer's rows are gathered when it computes, and its gradients
are summed and scattered. The shards of all trainable parameters form one flat vector, like their gradients, so
elementwise operations on `FlatParameters` (Adam, rollback copies, a reference model) apply to shards unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distrl.experience.weights import Weights
from distrl.language.models.model import HubModule, LanguageModel
from distrl.language.models.weights import load_language_weights, pack_language_weights
from distrl.models.parameters.flat import ALIGNMENT, FlatParameters
from distrl.models.parameters.published import load_weights, pack_weights

#: Numbers gathered at once from each process: 64 MiB.
GATHERED = 2**24

T = TypeVar("T")
#: A parameter with the private attributes of FSDP.
ShardedParameter: TypeAlias = Any


class Root(nn.Module):
    """Module that runs a function in FSDP's `forward`, with whole parameters outside blocks."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., T], *arguments: object) -> T:
        return function(*arguments)


@dataclass(frozen=True)
class Rows:
    """Offsets of a process's rows of a parameter, in the whole vector and its own, and size."""

    whole: int
    own: int
    size: int


class ShardedModel:
    """Model sharded over the default process group; all processes make the same calls in order.

    Args:
        model: The same whole model in every process, on the CPU; its parameters become this process's shards.
        whole: Layout of its trainable parameters, and of saved states.

    Attributes:
        flat: This process's shards, padded with zeros to the same size in every process.
    """

    def __init__(self, model: LanguageModel, whole: FlatParameters, device: torch.device):
        self.model, self.device = model, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.size = whole.data.numel()
        self.whole = FlatParameters(torch.empty(0), torch.empty(0), whole.names, whole.shapes, whole.offsets)
        self.mesh = init_device_mesh(device.type, (self.world,))
        for parameter in model.parameters():
            parameter.grad = None
        self.root = Root(model)
        for block in blocks(model):
            fully_shard(block, mesh=self.mesh)
        fully_shard(self.root, mesh=self.mesh)
        for module in self._groups():
            # losses are divided by counts of the whole batch, so gradients are summed, the only operation of gloo
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to(device)  # buffers
        self.flat = self._flatten()
        self.rows = [self._rows(rank) for rank in range(self.world)]
        self._plain_hidden = model.hidden
        self._inside = False
        model.hidden = self._hidden  # type: ignore[method-assign]

    def _groups(self) -> Iterator[HubModule]:
        return (module for module in self.root.modules() if hasattr(module, "_get_fsdp_state"))

    def _flatten(self) -> FlatParameters:
        """Move this process's shards and their gradients into one vector each."""
        held = {
            id(one.sharded_param): one
            for module in self._groups()
            for group in module._get_fsdp_state()._fsdp_param_groups
            for one in group.fsdp_params
        }
        parameters = dict(self.model.named_parameters())
        shapes, offsets, end = [], [], 0
        for name, shape in zip(self.whole.names, self.whole.shapes, strict=True):
            shapes.append((-(-shape[0] // self.world), *shape[1:]))
            offsets.append(end)
            end += -(-int(np.prod(shapes[-1])) // ALIGNMENT) * ALIGNMENT
            assert parameters[name].requires_grad
        data = torch.zeros(end, device=self.device)
        flat = FlatParameters(data, torch.zeros_like(data), self.whole.names, tuple(shapes), tuple(offsets))
        views, grads = flat.views(flat.data), flat.views(flat.grad)
        for name in flat.names:
            parameter: ShardedParameter = parameters[name]
            one, length = held[id(parameter)], parameter._local_tensor.shape[0]
            views[name][:length].copy_(parameter._local_tensor)
            # FSDP gathers from `_sharded_param_data`, padded, and optimizers see `_local_tensor`: the same memory
            one._sharded_param_data = views[name].view(-1)
            parameter._local_tensor = views[name][:length]
            parameter.grad = one.to_sharded_dtensor(grads[name][:length])  # later gradients are added in place
        return flat

    def _rows(self, rank: int) -> list[Rows]:
        """Return a process's rows of each trainable parameter, as of torch.chunk."""
        found = []
        for shape, begin, own in zip(self.whole.shapes, self.whole.offsets, self.flat.offsets, strict=True):
            each, rest = -(-shape[0] // self.world), int(np.prod(shape[1:]))
            first, last = min(rank * each, shape[0]), min((rank + 1) * each, shape[0])
            found.append(Rows(begin + first * rest, own, (last - first) * rest))
        return found

    def _hidden(self, tokens: Tensor, positions: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Replace `LanguageModel.hidden`; without gradient, and a whole output layer, outside calls."""
        if self._inside:
            return self._plain_hidden(tokens, positions, visible)
        self.reshard()
        with torch.no_grad():
            return self.root(lambda: self._plain_hidden(tokens, positions, visible))

    def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function of the model with gradient; processes call `hidden` equally often."""
        self.reshard()
        self._inside = True
        try:
            return self.root(function, *arguments)
        finally:
            self._inside = False

    def reshard(self) -> None:
        """Free the gathered parameters outside the blocks."""
        self.root.reshard()  # type: ignore[operator]

    def gather(self, own: Tensor) -> Tensor | None:
        """Gather shards in the layout of `flat` to the whole vector, on the CPU of process 0."""
        whole = torch.zeros(self.size) if self.rank == 0 else None
        for begin in range(0, own.numel(), GATHERED):
            piece = own[begin : begin + GATHERED].contiguous()
            pieces = [torch.empty_like(piece) for _ in range(self.world)] if self.rank == 0 else None
            dist.gather(piece, pieces, dst=0)
            if whole is not None and pieces is not None:
                for rows, numbers in zip(self.rows, pieces, strict=True):
                    _spread(rows, numbers.cpu(), begin, whole)
        return whole

    def own(self, whole: Tensor) -> Tensor:
        """Return this process's shard of a whole vector, in the layout of `flat`."""
        own = torch.zeros(self.flat.data.numel())
        for rows in self.rows[self.rank]:
            own[rows.own : rows.own + rows.size] = whole[rows.whole : rows.whole + rows.size]
        return own.to(self.device)

    def whole_views(self, whole: Tensor) -> dict[str, Tensor]:
        """Return a whole vector as named parameters."""
        return self.whole.views(whole)

    def tensors(self) -> dict[str, Tensor] | None:
        """Return the model's `state_dict` with whole tensors, on the CPU; in process 0 only."""
        self.reshard()
        whole = self.gather(self.flat.data)
        learning = self._names_by_id()
        views = None if whole is None else self.whole_views(whole)
        found = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) in learning:  # tied parameters have several names
                found[name] = tensor if views is None else views[learning[id(tensor)]]
            elif isinstance(tensor, DTensor):  # frozen
                found[name] = tensor.full_tensor().detach().cpu()
            else:
                found[name] = tensor.detach().cpu().clone()
        return None if views is None else found

    def spread(self, tensors: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        """Shard the whole tensors of a `state_dict`."""
        self.reshard()
        own = self.model.state_dict()
        whole = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
        return {name: _like(own[name], tensor) if name in own else tensor for name, tensor in whole.items()}

    def _names_by_id(self) -> dict[int, str]:
        parameters = dict(self.model.named_parameters())
        return {id(parameters[name]): name for name in self.whole.names}


def blocks(model: LanguageModel) -> list[nn.Module]:
    """Return the transformer blocks of a model."""
    names = set(getattr(model.network, "_no_split_modules", None) or ())
    return [module for module in model.network.modules() if type(module).__name__ in names]


def _spread(rows: list[Rows], numbers: Tensor, begin: int, whole: Tensor) -> None:
    """Copy numbers [begin, begin + len) of a process's vector to their places in the whole one."""
    end = begin + len(numbers)
    for one in rows:
        first, last = max(one.own, begin), min(one.own + one.size, end)
        if first < last:
            at = one.whole + first - one.own
            whole[at : at + last - first] = numbers[first - begin : last - begin]


def _like(sharded: Tensor, whole: Tensor) -> Tensor:
    """Shard a whole tensor like `sharded`; unchanged if shapes differ, for torch's own error."""
    if not isinstance(sharded, DTensor) or sharded.shape != whole.shape:
        return whole
    mesh = sharded.device_mesh
    each = -(-whole.shape[0] // mesh.size())
    local = whole[mesh.get_local_rank() * each :][:each].to(sharded.device)
    return DTensor.from_local(
        local, mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    )


class Published(nn.Module):
    """Publisher of a sharded model: packed by process 0, loaded by all."""

    def __init__(self, sharded: ShardedModel):
        super().__init__()
        self.sharded = sharded


@pack_weights.register(Published)
def _pack(published: Published, version: int) -> Weights:
    """Pack the whole model in process 0, nothing in the others."""
    sharded = published.sharded
    whole = sharded.gather(sharded.flat.data)
    if whole is None:
        return Weights(version, (), np.zeros(0, np.uint8))
    return pack_language_weights(_stand_in(sharded, sharded.whole_views(whole)), version)


@load_weights.register(Published)
@torch.no_grad()
def _load(published: Published, weights: Weights) -> None:
    """Load as into a whole model; raise CheckpointError for another model, without changes."""
    sharded = published.sharded
    sharded.reshard()
    parameters = dict(sharded.model.named_parameters())
    tensors = {name: torch.empty(parameter.shape) for name, parameter in parameters.items()}
    stand_in = _stand_in(sharded, tensors)
    load_language_weights(stand_in, weights)
    given = weights.arrays().keys()
    for name, parameter in parameters.items():
        if name in given:
            parameter.copy_(_like(parameter, tensors[name]))
    sharded.model.dtype = stand_in.dtype


def _stand_in(sharded: ShardedModel, tensors: Mapping[str, Tensor]) -> LanguageModel:
    """Return the parts of a model that packing and loading read, with tensors as parameters."""
    learning = set(sharded.whole.names)
    named = [(name, nn.Parameter(tensor, requires_grad=name in learning)) for name, tensor in tensors.items()]
    model = sharded.model
    found = SimpleNamespace(dtype=model.dtype, extras=model.extras, named_parameters=lambda: named)
    return cast(LanguageModel, found)
