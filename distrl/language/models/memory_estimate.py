"""Memory estimate of a language model by part, before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from distrl.base.errors import ResourceError
from distrl.config.sections.language import LanguageConfig
from distrl.language.models.model import HubConfig, attention_shape

Role = Literal["learner", "sampler", "frozen"]

#: Numbers saved for the backward pass per token and layer, in widths and inner widths.
ACTIVATIONS_PER_WIDTH, ACTIVATIONS_PER_INNER = 14, 4


def memory_parts(
    config: HubConfig, settings: LanguageConfig, role: Role, total: int, trainable: int, tokens: int = 8192
) -> dict[str, int]:
    """Estimate bytes by part.

    Args:
        role: `learner` (parameters, gradients, optimizer, activations), `sampler` (parameters, decoder's copy, keys
            and values), `frozen` (parameters).
        total, trainable: Numbers of parameters.
        tokens: Tokens per forward pass of the learner.
    """
    number = 4 if settings.dtype == "fp32" else 2  # `auto` chooses bf16 for large models
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
        groups, head_size = attention_shape(config)
        length = min(settings.context or config.max_position_embeddings, 4 * settings.max_new_tokens)
        parts["decoder"] = number * total
        parts["keys and values"] = 2 * layers * groups * head_size * number * length * settings.max_rows
    return parts


def available_memory(device: torch.device) -> int:
    """Return the free bytes of a device; for the CPU also within the container's limit."""
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
    """Raise ResourceError, with all parts in GB, if the sum exceeds the free memory."""
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
