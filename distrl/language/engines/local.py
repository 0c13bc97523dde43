"""Common parts of engines whose model is in this process."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distrl.experience.weights import Weights
from distrl.language.engines.base import Completion, Engine, SamplingOptions, answer_counts, check_request
from distrl.language.engines.token_sampling import DrawnToken
from distrl.language.models.model import LanguageModel
from distrl.language.models.weights import load_language_weights


@dataclass(frozen=True)
class Request:
    """Arguments of one `generate`, with the number of answers per prompt in `counts`."""

    prompts: list[list[int]]
    counts: list[int]
    uniforms: np.ndarray
    options: SamplingOptions
    poll: Callable[[], Weights | None] | None
    recompute: bool

    def prompt_numbers(self) -> list[int]:
        """Return the prompt of each answer."""
        return [number for number, count in enumerate(self.counts) for _ in range(count)]


@dataclass
class Draft:
    """Tokens drawn for one answer."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)

    def put(self, place: int, drawn: DrawnToken, version: int) -> None:
        """Append a token at `place`, in place of one drawn there before."""
        self.tokens[place:] = [drawn.token]
        self.logp[place:] = [drawn.logp]
        self.versions[place:] = [version]
        if drawn.support is not None:
            self.support[place:] = [drawn.support]
        if drawn.entropy is not None:
            self.entropy[place:] = [drawn.entropy]

    def completion(self, options: SamplingOptions, count: int | None = None) -> Completion:
        """Return the answer of the first `count` tokens (None: all)."""
        tokens = self.tokens[:count]
        return Completion(
            tokens=np.array(tokens, np.int32),
            logp=np.array(self.logp[:count], np.float32),
            stopped=bool(tokens) and tokens[-1] in options.stop_ids,
            versions=np.array(self.versions[:count], np.int64),
            support=self.support[:count] if options.truncates else None,
            entropy=np.array(self.entropy[:count], np.float32) if options.entropy else None,
        )


class LocalEngine(Engine):
    """Base class of engines around a model in this process.

    Args:
        model: `load_weights` writes into it. Where a learner trains the same object, call `refresh` after updates.
        max_rows: Answers generated side by side.
        version: Version of the model's weights.
    """

    def __init__(self, model: LanguageModel, max_rows: int = 64, version: int = 0):
        self.model, self.max_rows, self.version = model, max_rows, version
        self._aborted = threading.Event()

    def load_weights(self, weights: Weights) -> None:
        load_language_weights(self.model, weights)
        self.refresh(weights.version)

    @abstractmethod
    def refresh(self, version: int) -> None:
        """Adopt the model's parameters, which now are of this version."""

    def abort(self) -> None:
        self._aborted.set()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        repeats: int | Sequence[int],
        uniforms: np.ndarray,
        options: SamplingOptions,
        poll: Callable[[], Weights | None] | None = None,
        recompute: bool = False,
    ) -> list[Completion]:
        """Answer prompts as `Engine.generate` does, adopting new weights on the way.

        Args:
            poll: Called before every token; returned weights are adopted at once.
            recompute: Recompute the keys and values of running answers after that. Otherwise they remain those of the
                weights that their tokens were drawn with, which is cheaper and slightly off-policy.
        """
        check_request(prompts, repeats, uniforms, options, self.model.context)
        self._aborted.clear()
        counts = answer_counts(prompts, repeats)
        if not any(counts):
            return []
        lists = [list(prompt) for prompt in prompts]
        return self._generate(Request(lists, counts, uniforms, options, poll, recompute))

    @abstractmethod
    def _generate(self, request: Request) -> list[Completion]:
        """Answer a checked request."""
