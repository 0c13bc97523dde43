"""What a language model will take, by part, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from distrl.base.errors import ResourceError
from distrl.config.sections.language import LanguageConfig

Role = Literal["learner", "sampler", "frozen"]

#: Numbers kept for the backward pass, per token and layer, in widths and in widths of the inner layer.
ACTIVATIONS_PER_WIDTH, ACTIVATIONS_PER_INNER = 14, 4


def memory_parts(
    config: Any, settings: LanguageConfig, role: Role, total: int, trainable: int, tokens: int = 8192
) -> dict[str, int]:
    """Bytes by part.

    Args:
        config: The model's config, of transformers.
        settings: Precision, adapters, checkpointing, rows side by side.
        role: `learner` (parameters, gradients, optimizer, activations), `sampler` (parameters, what the decoder
            keeps, cache of keys and values), `frozen` (parameters alone).
        total: Parameters.
        trainable: Parameters that learn.
        tokens: Learner: tokens of one forward pass.
    """
    number = 4 if settings.dtype == "fp32" else 2  # bytes of what layers compute in; `auto` is bf16 where it matters
    width, layers = config.hidden_size, config.num_hidden_layers
    parts = {"parameters": 4 * total}
    if role == "learner":
        inner = getattr(config, "intermediate_size", None) or 4 * width
        each = (ACTIVATIONS_PER_WIDTH * width + ACTIVATIONS_PER_INNER * inner) * number
        kept = each + layers * width * 4 if settings.gradient_checkpointing else each * layers
        parts |= {"gradients": 4 * trainable, "optimizer": 8 * trainable, "activations": tokens * kept}
        if number == 2:
            parts["bf16 copies"] = 2 * total
    if role == "sampler":
        heads = config.num_attention_heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * (
            getattr(config, "head_dim", None) or width // heads
        )
        length = min(settings.context or config.max_position_embeddings, 4 * settings.max_new_tokens)
        parts["decoder"] = number * total
        parts["keys and values"] = 2 * layers * keys * number * length * settings.max_rows
    return parts


def available_memory(device: torch.device) -> int:
    """Bytes that are free on a device; for the CPU the machine's or the container's, whichever is less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return free
    if limit == "max":
        return free
    reclaimable = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return min(free, int(limit) - int(used) + reclaimable)


def check_memory(parts: dict[str, int], source: str, device: torch.device, free: int | None = None) -> None:
    """Refuse what will not fit.

    Raises:
        ResourceError: Every part in GB, the sum, and what is free.
    """
    free = available_memory(device) if free is None else free
    need = sum(parts.values())
    if need <= free:
        return
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    raise ResourceError(
        f"the language model {source} needs about {need / 1e9:.1f} GB on {device} ({listed}); {free / 1e9:.1f} GB are"
        " free.",
        "Smaller: language.lora={rank: 16}, language.freeze_embeddings=true, language.gradient_checkpointing=true,"
        " language.dtype=bf16, fewer language.max_rows, a smaller model; or another device.",
    )
