"""Measurements of a finished run of the methods' bench: answers and curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.base.seeds import generator
from distrl.deploy.policy_file import SavedPolicy
from distrl.language.chain.groups import Groups
from distrl.language.engines import SamplingOptions
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.rewards.agreement import majority
from distrl.language.rewards.pass_at_k import pass_at_k
from distrl.language.tasks.base import make_task, verify_safely

#: Answers to each question, and how many of them one measure looks at.
ANSWERS, FEW = 64, 8
SEED = 12345
#: Curves that a record keeps, one number an update.
TRACE = {
    "env_steps": "env_steps",
    "success": "text/success",
    "form": "reward/form",
    "entropy": "text/surprise",
    "zero_advantage": "text/zero_advantage_share",
}


def majority_correct(answer: Tensor, correct: Tensor, group: Tensor) -> Tensor:
    """Return (Q,) bool: each group's most frequent answer (first seen on ties) is correct."""
    chosen = (majority(answer, group) > 0) & correct.bool()
    return Groups(group).sum(chosen.long()) > 0


def measured(run: Path) -> dict[str, Any]:
    """Measure a run's final policy by `ANSWERS` answers to each question.

    Returns:
        `success`, `form`: means; `pass_8`, `pass_64`: at least one right of so many; `majority_8`: the most frequent
        of eight is right; `distinct_8`, `distinct_64`: different right answers among so many, mean over questions;
        `entropy`: of a token's distribution, in nats; `by_question`: success of each.
    """
    saved = SavedPolicy.read(run)
    config = saved.config
    assert config.language is not None
    model, task = saved.build(), make_task(config.text_task.name, config.text_task.kwargs)
    items = different_items(task)
    options = SamplingOptions(
        max_new_tokens=config.language.max_new_tokens, stop_ids=tuple(model.tokenizer.stop_ids), entropy=True
    )
    prompts = [model.tokenizer.encode_prompt(item.prompt) for item in items]
    numbers = generator(SEED, "methods").random((len(items) * ANSWERS, options.max_new_tokens))
    said = TransformersEngine(model, max_rows=256).generate(prompts, ANSWERS, numbers, options)
    stop = set(options.stop_ids)
    texts = [model.tokenizer.decode([t for t in answer.tokens.tolist() if t not in stop]) for answer in said]
    components = [verify_safely(task, items[row // ANSWERS], text)[0] for row, text in enumerate(texts)]
    correct = torch.tensor([found[task.components[0]] >= 1.0 for found in components])
    kinds = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    answer = torch.tensor([kinds[text] for text in texts])
    question = torch.arange(len(items)).repeat_interleave(ANSWERS)
    few = torch.arange(len(texts)) // FEW
    rates = correct.view(len(items), ANSWERS).double().mean(1)
    return {
        "success": float(rates.mean()),
        "form": statistics.fmean(found["form"] for found in components),
        "pass_8": float(pass_at_k(correct, question, FEW).mean()),
        "pass_64": float(pass_at_k(correct, question, ANSWERS).mean()),
        "majority_8": float(majority_correct(answer, correct, few).double().mean()),
        "distinct_8": distinct(answer, correct, few),
        "distinct_64": distinct(answer, correct, question),
        "entropy": float(np.concatenate([each.entropy for each in said]).mean()),
        "by_question": [round(rate, 4) for rate in rates.tolist()],
    }


def different_items(task: Any) -> list[Any]:
    """One item for each question of a task with few of them, in order of their prompts."""
    found: dict[str, Any] = {}
    for index in range(1000):
        item = task.item(index, "eval")
        found.setdefault(str(item.prompt), item)
    return [found[prompt] for prompt in sorted(found)]


def distinct(answer: torch.Tensor, correct: torch.Tensor, block: torch.Tensor) -> float:
    """Different right answers in a block, mean over all blocks."""
    pairs = torch.unique(torch.stack([block[correct], answer[correct]], 1), dim=0)
    return len(pairs) / len(torch.unique(block))


def traces(metrics: Path) -> dict[str, list[float]]:
    """Read the run's curves, one number per update; absent curves are left out."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "text/length" in row or "loss/policy" in row]
    found = {name: [round(row[tag], 4) for row in rows if tag in row] for name, tag in TRACE.items()}
    return {name: values for name, values in found.items() if values}


def late(values: Sequence[float]) -> float:
    """Mean of the second half of a curve."""
    return statistics.fmean(values[len(values) // 2 :])
