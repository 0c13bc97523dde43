"""Evaluation of a language model on held-out items of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.seeds import generator
from distrl.config.sections.language import LanguageConfig
from distrl.deploy.evaluate import EvalResult
from distrl.language.engines.base import Engine, SamplingOptions
from distrl.language.engines.server import ServerEngine
from distrl.language.models.loading import load_tokenizer, model_context
from distrl.language.models.model import LanguageModel
from distrl.language.models.tokenizers import TextTokenizer, encode_item
from distrl.language.tasks.base import Item, Task, verify_safely

#: Reward components, number of tokens and text of one answer.
Scored = tuple[dict[str, float], int, str]


@dataclass
class TextEvalResult(EvalResult):
    """Success and reward components on held-out items; `returns` are the success of each item.

    Attributes:
        success: Mean success of `greedy` and `sampled` answers.
        components: Mean of every reward component.
        texts: Prompt, answer and success of the first items.
    """

    success: dict[str, float] = field(default_factory=dict)
    components: dict[str, float] = field(default_factory=dict)
    texts: list[tuple[str, str, float]] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        kept = ("eval/return_mean", "eval/return_std", "eval/length_mean")
        return {
            **{tag: value for tag, value in super().metrics().items() if tag in kept},
            **{f"eval/success_{way}": value for way, value in self.success.items()},
            **{f"eval/reward_{name}": value for name, value in self.components.items()},
        }


@dataclass(frozen=True)
class ServedModel:
    """Model behind a server, with the tokenizer that its token ids belong to."""

    engine: Engine
    tokenizer: TextTokenizer
    context: int

    @classmethod
    def connect(cls, url: str, settings: LanguageConfig, alphabet: str | None) -> ServedModel:
        """Connect to an OpenAI-compatible server of a model with the config's tokenizer."""
        engine = ServerEngine(url, max_rows=settings.max_rows)
        return cls(engine, load_tokenizer(settings, alphabet), min(engine.context, model_context(settings)))


class TextEvaluator:
    """Generates a greedy and a sampled answer to every held-out item.

    Args:
        make_engine: Makes an engine for a model, at every evaluation.
        options: Sampling options of the run.
        greedy: The same at temperature 0.
        seed: Seed of the sampled tokens, the same at every evaluation.
        batch: Items per call of the engine.
    """

    SHOWN = 8  # texts that a result keeps

    def __init__(
        self,
        make_engine: Callable[[LanguageModel], Engine],
        task: Task,
        options: SamplingOptions,
        greedy: SamplingOptions,
        seed: int,
        batch: int = 64,
    ):
        self.make_engine, self.task, self.options, self.greedy = make_engine, task, options, greedy
        self.seed, self.batch = seed, batch

    def evaluate(
        self, model: LanguageModel | ServedModel, episodes: int, deterministic: bool = True, on_step: object = None
    ) -> TextEvalResult:
        """Evaluate on at most `episodes` items.

        Args:
            deterministic: `returns` are those of greedy answers, otherwise of sampled ones.
        """
        engine = model.engine if isinstance(model, ServedModel) else self.make_engine(model)
        count = episodes if self.task.eval_size is None else min(episodes, self.task.eval_size)
        items = [self.task.item(index, "eval") for index in range(count)]
        ways = {"greedy": self.greedy, "sampled": self.options}
        found = {way: self._answers(engine, model, items, options) for way, options in ways.items()}
        chosen, first = found["greedy" if deterministic else "sampled"], self.task.components[0]
        return TextEvalResult(
            [components[first] for components, _, _ in chosen],
            [length for _, length, _ in chosen],
            {way: float(np.mean([components[first] for components, _, _ in rows])) for way, rows in found.items()},
            {name: float(np.mean([components[name] for components, _, _ in chosen])) for name in self.task.components},
            [
                (str(item.prompt), text, components[first])
                for item, (components, _, text) in zip(items[: self.SHOWN], chosen, strict=False)
            ],
        )

    def _answers(
        self, engine: Engine, model: LanguageModel | ServedModel, items: Sequence[Item], options: SamplingOptions
    ) -> list[Scored]:
        tokenizer = model.tokenizer
        uniforms = generator(self.seed, "eval-tokens").random((len(items), options.max_new_tokens))
        stop = set(tokenizer.stop_ids)
        rows = []
        for begin in range(0, len(items), self.batch):
            batch = items[begin : begin + self.batch]
            prompts = [encode_item(tokenizer, item, options.max_new_tokens, model.context) for item in batch]
            answers = engine.generate(prompts, 1, uniforms[begin : begin + len(batch)], options)
            for item, answer in zip(batch, answers, strict=True):
                if answer.tokens.max(initial=0) >= tokenizer.vocab_size:
                    raise ConfigError(
                        f"the answers have token ids beyond the config's vocabulary of {tokenizer.vocab_size}.",
                        "Serve a model with the tokenizer of language.source.",
                    )
                text = tokenizer.decode([token for token in answer.tokens.tolist() if token not in stop])
                rows.append((verify_safely(self.task, item, text)[0], len(answer.tokens), text))
        return rows
