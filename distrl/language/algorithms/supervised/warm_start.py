"""Supervised warm start: steps on a task's demonstrations for a fresh model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.seeds import generator
from distrl.language.chain.aggregation import aggregate, token_mean
from distrl.language.losses.supervised import sft
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_logp import token_logp
from distrl.language.models.tokenizers import TextTokenizer
from distrl.language.tasks.base import Task

BETAS = (0.9, 0.95)
MAX_NORM = 1.0


def supervised_start(
    model: LanguageModel, task: Task, seed: int, steps: int, batch_size: int, learning_rate: float
) -> float:
    """Fit demonstrations of random items, return the last loss; ConfigError without any."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=BETAS)
    rng = generator(seed, "demonstrations")
    device = parameters[0].device
    value = 0.0
    for _ in range(steps):
        top = task.size if task.size is not None else 2**31 - 1
        rows = [demonstration(model.tokenizer, task, int(index)) for index in rng.integers(0, top, batch_size)]
        batch = padded(rows).map(lambda leaf: torch.from_numpy(leaf).to(device))
        logp, _ = token_logp(model, batch.tokens, batch.mask)
        loss = aggregate(sft(logp, batch.mask), token_mean(batch.mask))
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()  # in place: gradients may be views of one flat vector
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        value = float(loss.detach())
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()
    return value


def demonstration(
    tokenizer: TextTokenizer, task: Task, index: int, wanted_by: str = "language.warm_start"
) -> tuple[list[int], list[int]]:
    """Tokens of an item's prompt, and of its right answer with the stop token.

    Args:
        wanted_by: Config key that needs demonstrations, for the message.

    Raises:
        ConfigError: There is no demonstration.
    """
    item = task.item(index)
    answer = task.demonstration(item)
    if answer is None:
        raise ConfigError(
            f"{wanted_by} needs demonstrations, and {type(task).__name__} has none for item {index}.",
            "Define demonstration() in the task (file: name the field, task.kwargs.demonstration), or do without "
            f"{wanted_by}.",
        )
    return tokenizer.encode_prompt(item.prompt), [*tokenizer.encode(answer), tokenizer.stop_ids[0]]


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> Columns:
    """`tokens` (N, L) int64 and `mask` (N, L) of the answers' tokens."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = [*prompt, *answer]
        mask[row, len(prompt) : end] = True
    return Columns(tokens=tokens, mask=mask)
