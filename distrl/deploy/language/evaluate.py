"""Evaluation of a language model: held-out items of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.base.seeds import generator
from distrl.language.models.tokenizers import encode_item
from distrl.language.tasks.base import Item, verify_safely


@dataclass
class TextEvalResult:
    """What became of the held-out items.

    Attributes:
        returns: Success of each item, in order, as the run judges it (greedy or sampled).
        lengths: Tokens of each answer.
        success: Mean success, `greedy` and `sampled`.
        parts: Mean of every reward part.
        texts: The first prompts and answers, for people.
    """

    returns: list[float]
    lengths: list[int]
    success: dict[str, float]
    parts: dict[str, float] = field(default_factory=dict)
    texts: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    def metrics(self) -> dict[str, float]:
        """The curves' tags."""
        return {
            "eval/return_mean": self.mean,
            "eval/return_std": self.std,
            "eval/length_mean": float(np.mean(self.lengths)),
            **{f"eval/success_{way}": value for way, value in self.success.items()},
            **{f"eval/reward_{name}": value for name, value in self.parts.items()},
        }


class TextEvaluator:
    """Asks held-out items, each once greedily and once sampled.

    Args:
        make_engine: An engine for a model, made at the first evaluation.
        task: Gives items and judges answers.
        options: Sampling options of the run; `greedy` is the same at temperature 0.
        greedy: Those options.
        seed: The same random numbers at every evaluation.
        batch: Items that are asked at once.
    """

    SHOWN = 8  # texts that a result keeps

    def __init__(self, make_engine: Any, task: Any, options: Any, greedy: Any, seed: int, batch: int = 64):
        self.make_engine, self.task, self.options, self.greedy = make_engine, task, options, greedy
        self.seed, self.batch = seed, batch

    def evaluate(self, model: Any, episodes: int, deterministic: bool = True, on_step: Any = None) -> TextEvalResult:
        """Ask `episodes` items.

        Args:
            deterministic: `returns` are those of greedy answers; else of sampled ones.
        """
        engine = self.make_engine(model)
        count = episodes if self.task.eval_size is None else min(episodes, self.task.eval_size)
        items = [self.task.item(index, "eval") for index in range(count)]
        ways = {"greedy": self.greedy, "sampled": self.options}
        found = {way: self._ask(engine, model, items, options) for way, options in ways.items()}
        judged = found["greedy" if deterministic else "sampled"]
        success = {
            way: float(np.mean([parts[self.task.parts[0]] for parts, _, _ in rows])) for way, rows in found.items()
        }
        return TextEvalResult(
            [parts[self.task.parts[0]] for parts, _, _ in judged],
            [length for _, length, _ in judged],
            success,
            {name: float(np.mean([parts[name] for parts, _, _ in judged])) for name in self.task.parts},
            [
                (str(item.prompt), text, parts[self.task.parts[0]])
                for item, (parts, _, text) in zip(items[: self.SHOWN], judged, strict=False)
            ],
        )

    def _ask(self, engine: Any, model: Any, items: list[Item], options: Any) -> list[tuple[dict[str, float], int, str]]:
        """(reward parts, tokens, text) of each item's answer."""
        tokenizer = model.tokenizer
        uniforms = generator(self.seed, "eval-tokens").random((len(items), options.max_new_tokens))
        stop = set(tokenizer.stop_ids)
        rows = []
        for begin in range(0, len(items), self.batch):
            asked = items[begin : begin + self.batch]
            prompts = [encode_item(tokenizer, item, options.max_new_tokens, model.context) for item in asked]
            said = engine.generate(prompts, 1, uniforms[begin : begin + len(asked)], options)
            for item, answer in zip(asked, said, strict=True):
                text = tokenizer.decode([token for token in answer.tokens.tolist() if token not in stop])
                rows.append((verify_safely(self.task, item, text)[0], len(answer.tokens), text))
        return rows
