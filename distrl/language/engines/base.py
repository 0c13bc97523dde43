"""Interface of engines: `generate`, `score`, `load_weights`, `abort`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.experience.weights import Weights
from distrl.language.models.model import LanguageModel


@dataclass(frozen=True)
class SamplingOptions:
    """Options of token sampling.

    Attributes:
        max_new_tokens: Longest answer, its stop token included.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Draw from the smallest set of tokens with this probability; 1 draws from all.
        top_k: Draw from the k likeliest tokens, before top-p; 0 draws from all.
        stop_ids: Tokens that end an answer.
        entropy: Return the entropy of each token's distribution too.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_ids: tuple[int, ...] = ()
    entropy: bool = False

    def __post_init__(self) -> None:
        wrong = (self.max_new_tokens < 1, self.temperature < 0, not 0 < self.top_p <= 1, self.top_k < 0)
        if any(wrong):
            raise ConfigError(
                f"sampling options out of range: max_new_tokens {self.max_new_tokens} (at least 1), temperature"
                f" {self.temperature:g} (at least 0), top_p {self.top_p:g} (above 0, at most 1), top_k {self.top_k}"
                " (at least 0)."
            )

    @property
    def truncates(self) -> bool:
        """True if top-p or top-k leave tokens out."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0)


@dataclass
class Completion:
    """One generated answer.

    Attributes:
        tokens: int32 (n,), including a stop token.
        logp: float32 (n,), of the sampling distribution: after temperature, top-k and top-p. 0 at temperature 0.
        stopped: True after a stop token; False if cut at `max_new_tokens` or aborted.
        versions: int64 (n,), version of the weights of each token.
        support: Ids left by truncation for each token, ascending; None without truncation.
        entropy: float32 (n,), on request.
    """

    tokens: np.ndarray
    logp: np.ndarray
    stopped: bool
    versions: np.ndarray
    support: list[np.ndarray] | None = None
    entropy: np.ndarray | None = None


class Engine(Protocol):
    """Continues prompts with a language model; `version` is that of its weights."""

    version: int

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        repeats: int | Sequence[int],
        uniforms: np.ndarray,
        options: SamplingOptions,
    ) -> list[Completion]:
        """Answer every prompt `repeats` times.

        A pure function of weights, prompts, uniforms and options, except for the last bits of log-probabilities, which
        depend on the number of rows computed together.

        Args:
            prompts: P lists of token ids, none empty.
            repeats: Answers per prompt, one number for all or P numbers.
            uniforms: float64 (R, T) in [0, 1), R answers in all, T at least `max_new_tokens`: token t of a row is the
                inverse of the cumulative distribution at uniforms[row, t], tokens in order of their ids.

        Returns:
            R completions: those of the first prompt, then those of the second, ...

        Raises:
            ConfigError: An empty prompt, one that does not fit the context, or too few uniforms.
        """

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Return the log-probabilities, float32, of the tokens behind each prompt."""

    def load_weights(self, weights: Weights) -> None:
        """Adopt a version for the next token."""

    def abort(self) -> None:
        """End a running `generate` at the next token, with partial answers, from another thread."""


def make_engine(settings: LanguageConfig, model: LanguageModel) -> Engine:
    """Make the engine named in the section `language`; raise ConfigError if unknown."""
    return register.get("engine", settings.engine)(model, settings.max_rows)


def answer_counts(prompts: Sequence[Sequence[int]], repeats: int | Sequence[int]) -> list[int]:
    """Return the number of answers to each prompt; raise ConfigError if some are missing."""
    if isinstance(repeats, int):
        return [repeats] * len(prompts)
    if len(repeats) != len(prompts):
        raise ConfigError(f"{len(repeats)} numbers of answers for {len(prompts)} prompts.")
    return list(repeats)


def check_request(
    prompts: Sequence[Sequence[int]],
    repeats: int | Sequence[int],
    uniforms: np.ndarray,
    options: SamplingOptions,
    context: int,
) -> None:
    """Raise ConfigError for a request that no engine can answer."""
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ConfigError(f"prompt {number} has no tokens; a model needs at least one to go on from.")
        if len(prompt) + options.max_new_tokens > context:
            raise ConfigError(
                f"prompt {number} has {len(prompt)} tokens, and an answer may have {options.max_new_tokens}; together"
                f" {len(prompt) + options.max_new_tokens}, and the model's context is {context}.",
                "Shorten the prompts, or set language.max_new_tokens or language.context.",
            )
    rows = sum(answer_counts(prompts, repeats))
    if uniforms.ndim != 2 or uniforms.shape[0] != rows or uniforms.shape[1] < options.max_new_tokens:
        raise ConfigError(
            f"uniforms have the shape {uniforms.shape}; expected ({rows}, at least {options.max_new_tokens}): a row for"
            f" each answer to {len(prompts)} prompts, {repeats} each."
        )
