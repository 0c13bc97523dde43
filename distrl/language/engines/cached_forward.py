"""Forward passes with a cache, over a block of tokens or one token per row.

`LlamaDecoder` computes Llama-shaped models without the modules of transformers: one product for q, k and v, one for
gate and up, weights laid out for the processor once per version, no copies for grouped heads. `HubDecoder` runs any
model of transformers. Both keep the residual stream in float32 as the learner does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.language.engines.key_values import KeyValues
from distrl.language.models.model import HubModule, LanguageModel, attention_shape
from distrl.language.models.weights import effective_bias, effective_weight

if TYPE_CHECKING:
    from distrl.language.engines.hub_cache import SlotCache


#: From layer number, queries, keys and values to attended values.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder(Protocol):
    """Interface of the decode loop. All hidden states are (n, D) float32."""

    def refresh(self) -> None:
        """Read the model's changed parameters."""

    def new_cache(self, rows: int, length: int) -> KeyValues: ...

    def block(self, tokens: Tensor, start: int, cache: KeyValues, last: Tensor) -> Tensor:
        """Append tokens (n, L) at column `start`; returns hidden states at `last` (n,) in the block."""

    def step(self, tokens: Tensor, columns: Tensor, longest: int, cache: KeyValues) -> Tensor:
        """Append one token (n,) per row at `columns` (n,), whose maximum is `longest`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits (n, V) float32."""


def make_decoder(model: LanguageModel) -> Decoder:
    """Make the fastest decoder for a model."""
    return LlamaDecoder(model) if LlamaDecoder.fits(model) else HubDecoder(model)


class PackedLinear:
    """Linear layer for inference; on CPUs the weight is laid out for the matrix kernels once."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int):
        weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class LlamaDecoder:
    """Decoder of Llama-shaped models: RMS norms, rotary positions, gated layers, grouped heads.

    `fits` must hold. The layout of weights is chosen for `rows` rows per step.
    """

    def __init__(self, model: LanguageModel, rows: int = 32):
        self.model, self.rows = model, rows
        config = model.config
        self.heads = config.num_attention_heads
        self.groups, self.size = attention_shape(config)
        self.eps = config.rms_norm_eps
        self._rotations: tuple[Tensor, Tensor] | None = None
        self.refresh()

    @staticmethod
    def fits(model: LanguageModel) -> bool:
        """Return True if this class computes the model's own forward pass."""
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            config.model_type in ("llama", "qwen2")
            and config.hidden_act == "silu"
            and rope.get("rope_type", "default") in ("default", "llama3", "linear")
            and not getattr(config, "use_sliding_window", False)
        )

    def refresh(self) -> None:
        self.dtype = self.model.dtype
        trunk = self.model.network.base_model
        self.embedding = trunk.embed_tokens.weight.detach()
        self.last_norm = trunk.norm.weight.detach()
        self.layers = [self._layer(layer) for layer in trunk.layers]
        self.head = PackedLinear(self.model.head_weight, self.model.head_bias, self.dtype, self.rows)

    def _layer(self, layer: HubModule) -> tuple[Tensor, PackedLinear, PackedLinear, Tensor, PackedLinear, PackedLinear]:
        attention, inner = layer.self_attn, layer.mlp
        return (
            layer.input_layernorm.weight.detach(),
            self._joined(attention.q_proj, attention.k_proj, attention.v_proj),
            self._joined(attention.o_proj),
            layer.post_attention_layernorm.weight.detach(),
            self._joined(inner.gate_proj, inner.up_proj),
            self._joined(inner.down_proj),
        )

    def _joined(self, *layers: HubModule) -> PackedLinear:
        weights = [effective_weight(layer) for layer in layers]
        biases = [effective_bias(layer) for layer in layers]
        bias = None
        if any(each is not None for each in biases):
            bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)])
        return PackedLinear(torch.cat(weights) if len(weights) > 1 else weights[0], bias, self.dtype, self.rows)

    def new_cache(self, rows: int, length: int) -> KeyValues:
        return KeyValues(len(self.layers), rows, self.groups, length, self.size, self.dtype, self.embedding.device)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden.to(self.dtype)).float()

    def block(self, tokens: Tensor, start: int, cache: KeyValues, last: Tensor) -> Tensor:
        rows, length = tokens.shape
        columns = torch.arange(start, start + length, device=tokens.device)
        cos, sin = self._rotation(start + length, columns)
        mask = None
        if start:  # every token sees what is cached, and its own block up to itself
            mask = torch.ones(length, start + length, dtype=torch.bool, device=tokens.device).tril(start)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
            k, v = cache.write_block(layer, rows, start, k, v)
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.groups != self.heads
            )
            return out.transpose(1, 2)

        hidden = self._trunk(tokens, cos[:, None], sin[:, None], attend, (rows, length))
        return self._norm(hidden[torch.arange(rows, device=tokens.device), last], self.last_norm)

    def step(self, tokens: Tensor, columns: Tensor, longest: int, cache: KeyValues) -> Tensor:
        rows, end = len(tokens), longest + 1
        where = cache.places(columns)
        cos, sin = self._rotation(end, columns)
        hidden_columns = torch.arange(end, device=tokens.device) > columns[:, None]
        bias = torch.zeros(rows, 1, 1, end, device=tokens.device)
        bias.masked_fill_(hidden_columns[:, None, None], -torch.inf)
        scale = self.size**-0.5

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = cache.write_column(layer, where, rows, end, keys, values)
            # the heads of a group are rows of one product with their common keys
            grouped = (queries * scale).view(rows, self.groups, self.heads // self.groups, self.size)
            scores = torch.matmul(grouped, keys.transpose(2, 3)).float().add_(bias)
            return torch.matmul(scores.softmax(-1).to(values.dtype), values)

        hidden = self._trunk(tokens, cos[:, None], sin[:, None], attend, (rows,))
        return self._norm(hidden, self.last_norm)

    def _trunk(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend, shape: tuple[int, ...]) -> Tensor:
        hidden = self.embedding[tokens]
        turned, half = self.heads + self.groups, self.size // 2
        for number, (norm, qkv, out, inner_norm, gate_up, down) in enumerate(self.layers):
            mixed = qkv(self._norm(hidden, norm).to(self.dtype)).view(*shape, turned + self.groups, self.size)
            rotating = mixed[..., :turned, :].float()
            swapped = torch.cat((-rotating[..., half:], rotating[..., :half]), -1)
            rotated = (rotating * cos).addcmul_(swapped, sin).to(self.dtype)
            attended = attend(
                number, rotated[..., : self.heads, :], rotated[..., self.heads :, :], mixed[..., turned:, :]
            )
            hidden = hidden + out(attended.reshape(*shape, -1))
            gate, up = gate_up(self._norm(hidden, inner_norm).to(self.dtype)).chunk(2, -1)
            hidden = hidden + down(F.silu(gate).mul_(up))
        return hidden

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self.eps)

    def _rotation(self, end: int, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (..., size) float32 at positions, computed once for all."""
        if self._rotations is None or len(self._rotations[0]) < end:
            positions = torch.arange(max(end, min(self.model.context, 4096)), device=columns.device)
            rotary = self.model.network.base_model.rotary_emb
            cos, sin = rotary(torch.zeros(1, device=columns.device), positions[None])
            self._rotations = cos[0], sin[0]
        return self._rotations[0][columns], self._rotations[1][columns]


class HubDecoder:
    """Decoder of any causal model of transformers that takes positions and a mask."""

    def __init__(self, model: LanguageModel):
        from distrl.language.engines.hub_cache import SlotCache

        self.model, self._cache_class = model, SlotCache
        self.groups, self.size = attention_shape(model.config)

    def refresh(self) -> None:
        """Do nothing: the model's own modules are used."""

    def new_cache(self, rows: int, length: int) -> KeyValues:
        layers = self.model.config.num_hidden_layers
        return KeyValues(layers, rows, self.groups, length, self.size, self.model.dtype, self.model.device)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)

    def block(self, tokens: Tensor, start: int, cache: KeyValues, last: Tensor) -> Tensor:
        rows, length = tokens.shape
        positions = torch.arange(start, start + length, device=tokens.device).expand(rows, -1)
        mask = torch.ones(length, start + length, dtype=torch.bool, device=tokens.device).tril(start)
        view = self._cache_class(cache, rows, start=start)
        hidden = self._forward(tokens, positions, mask.expand(rows, 1, -1, -1), view)
        return hidden[torch.arange(rows, device=tokens.device), last]

    def step(self, tokens: Tensor, columns: Tensor, longest: int, cache: KeyValues) -> Tensor:
        mask = torch.arange(longest + 1, device=tokens.device) <= columns[:, None]
        view = self._cache_class(cache, len(tokens), where=cache.places(columns), end=longest + 1)
        return self._forward(tokens[:, None], columns[:, None], mask[:, None, None], view)[:, 0]

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, view: SlotCache) -> Tensor:
        bf16 = self.model.dtype == torch.bfloat16
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
            out = self.model.network.base_model(
                input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=view, use_cache=True
            )
        return out.last_hidden_state.float()
