"""Rows of token episodes from an engine's completions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from distrl.base.columns import Columns
from distrl.experience.fragment import Unit
from distrl.experience.token_episodes import MODEL, PROMPT
from distrl.language.engines.base import Completion, SamplingOptions
from distrl.language.models.tokenizers import TextTokenizer
from distrl.language.tasks.base import Item, Task, verify_safely

MAX_STREAMS, MAX_PROMPTS = 1 << 12, 1 << 20  # of a run, of a fragment: their names fit into one number
SUCCESS = 1.0  # of the first reward component


def group_id(unit: Unit, number: int, prompts: int) -> int:
    """Return a number for a prompt, unique in the run; ValueError for too many prompts."""
    if unit.stream >= MAX_STREAMS or prompts > MAX_PROMPTS:
        raise ValueError(f"{unit.stream} streams of {prompts} prompts: at most {MAX_STREAMS} of {MAX_PROMPTS}")
    return (unit.seq * MAX_STREAMS + unit.stream) * MAX_PROMPTS + number


def answer_rows(
    task: Task,
    tokenizer: TextTokenizer,
    item: Item,
    prompt: Sequence[int],
    answers: Sequence[Completion],
    group: int,
    options: SamplingOptions,
) -> tuple[Columns, list[float]]:
    """Return the rows of the answers to one prompt, and the success of each; an unverifiable answer is wrong."""
    stop = set(tokenizer.stop_ids)
    texts = [tokenizer.decode([token for token in answer.tokens.tolist() if token not in stop]) for answer in answers]
    verified_rows = [verify_safely(task, item, text) for text in texts]
    failed = np.array([problem is not None for _, problem in verified_rows])
    components = np.array([[found[name] for name in task.components] for found, _ in verified_rows], np.float64)
    lengths = np.array([len(prompt) + len(answer.tokens) for answer in answers])
    columns: dict[str, np.ndarray] = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "tokens": _joined([(np.asarray(prompt), answer.tokens) for answer in answers], np.int32),
        "kind": _joined([_spread(prompt, answer, PROMPT, MODEL) for answer in answers], np.uint8),
        "mask": _joined([_spread(prompt, answer, False, True) for answer in answers], np.bool_),
        "logp": _joined([(np.zeros(len(prompt)), answer.logp) for answer in answers], np.float32),
        "version": _joined([(np.full(len(prompt), -1), answer.versions) for answer in answers], np.int32),
    }
    if any(answer.support is not None for answer in answers):
        columns |= _support(len(prompt), answers)
    rows = len(answers)
    stopped = np.array([answer.stopped for answer in answers])
    columns |= {
        "group": np.full(rows, group, np.int64),
        "item": np.full(rows, item.index, np.int64),
        "components": components,
        "answer": np.array([_answer_number(task.distinct(text)) for text in texts], np.int64),
        "correct": components[:, 0] >= SUCCESS,
        "verified": ~failed,
        "terminated": stopped,
        "truncated": ~stopped,
        "budget": np.full(rows, options.max_new_tokens, np.int32),
        "parent": np.full(rows, -1, np.int64),
    }
    return Columns(**columns), components[:, 0].tolist()


def _spread(prompt: Sequence[int], answer: Completion, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(len(prompt), before), np.full(len(answer.tokens), after)


def _joined(pieces: Sequence[tuple[np.ndarray, np.ndarray]], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([part for piece in pieces for part in piece]).astype(dtype)


def _support(prompt: int, answers: Sequence[Completion]) -> dict[str, np.ndarray]:
    """Return the ids left by truncation for every token; none for those of the prompt."""
    lists = [ids for answer in answers for ids in (*([np.empty(0, np.int32)] * prompt), *(answer.support or ()))]
    ends = np.cumsum([0, *(len(ids) for ids in lists)])
    return {"support": np.concatenate(lists).astype(np.int32), "support_offsets": ends.astype(np.int64)}


def _answer_number(answer: str | None) -> int:
    """Return a number for a canonical answer; -1 for none."""
    if answer is None:
        return -1
    return int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=7).digest(), "little")
