"""What every engine must do, as functions of an engine and the model it is to agree with."""

from __future__ import annotations

import numpy as np
import torch

from distrl.language.engines import Completion, SamplingOptions
from distrl.language.engines.base import Engine
from distrl.language.engines.token_sampling import draw
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_logp import Scoring, token_logp
from tests.language.models.language_cases import support_of


def uniforms(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, length))


@torch.no_grad()
def naive(model: LanguageModel, prompt: list[int], numbers: np.ndarray, options: SamplingOptions) -> list[int]:
    """One answer with the whole sequence computed anew for every token, by the model of transformers."""
    tokens: list[int] = []
    for number in numbers[: options.max_new_tokens]:
        logits = model.network(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[:, -1]
        tokens.append(int(draw(logits, torch.tensor([number], dtype=torch.float64), options).tokens[0]))
        if tokens[-1] in options.stop_ids:
            break
    return tokens


def assert_equals_naive(
    engine: Engine,
    model: LanguageModel,
    prompts: list[list[int]],
    repeats: int,
    options: SamplingOptions,
    seed: int = 0,
) -> list[Completion]:
    """Tokens equal the naive loop's; rows that end, end where it ends."""
    numbers = uniforms(len(prompts) * repeats, options.max_new_tokens, seed)
    answers = engine.generate(prompts, repeats, numbers, options)
    assert len(answers) == len(prompts) * repeats
    for row, answer in enumerate(answers):
        assert answer.tokens.tolist() == naive(model, prompts[row // repeats], numbers[row], options)
        assert answer.stopped == (int(answer.tokens[-1]) in options.stop_ids)
        assert len(answer.logp) == len(answer.tokens) == len(answer.versions)
    return answers


def assert_learner_agrees(
    model: LanguageModel,
    prompts: list[list[int]],
    repeats: int,
    answers: list[Completion],
    options: SamplingOptions,
    tolerance: float = 1e-4,
) -> None:
    """What the engine said of its tokens is what the learner computes, also on a truncated support."""
    rows = [[*prompts[i // repeats], *map(int, answer.tokens)] for i, answer in enumerate(answers)]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [model.tokenizer.pad_id] * (longest - len(row)) for row in rows])
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        mask[i, len(prompts[i // repeats]) : len(row)] = True
    support = support_of([ids for answer in answers for ids in answer.support or []]) if options.truncates else None
    with torch.no_grad():
        scoring = Scoring(options.temperature, support=support, entropy=True)
        logp, entropy = token_logp(model, tokens, mask, scoring)
    said = np.concatenate([answer.logp for answer in answers])
    np.testing.assert_allclose(logp[mask].numpy(), said, atol=tolerance)
    if options.entropy:
        np.testing.assert_allclose(
            entropy[mask].numpy(), np.concatenate([answer.entropy for answer in answers]), atol=10 * tolerance
        )
