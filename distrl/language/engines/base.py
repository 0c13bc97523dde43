"""What every engine promises: `generate`, `score`, `load_weights`, `abort`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.experience.weights import Weights


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: Longest answer, its stop token included.
        temperature: Logits are divided by it; 0 takes the likeliest token.
        top_p: Draw from the smallest set of tokens that holds this probability; 1 draws from all.
        top_k: Draw from the k likeliest tokens, before top-p; 0 draws from all.
        stop_ids: Tokens that end an answer.
        entropy: Also give the entropy of the distribution that each token was drawn from.
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
        """Tokens are left out of the distribution that is drawn from."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0)


@dataclass
class Completion:
    """One answer, exactly as it was drawn.

    Attributes:
        tokens: int32 (n,), with the stop token where there is one.
        logp: float32 (n,), of the sampling distribution: after temperature, top-k and top-p. 0 at temperature 0.
        stopped: The answer has ended; False where it was cut at `max_new_tokens`, or aborted.
        versions: int64 (n,), version of the weights that each token was drawn with.
        support: For each token the ids that truncation left, ascending; None where nothing is truncated.
        entropy: float32 (n,), where asked for.
    """

    tokens: np.ndarray
    logp: np.ndarray
    stopped: bool
    versions: np.ndarray
    support: list[np.ndarray] | None = None
    entropy: np.ndarray | None = None


class Engine(Protocol):
    """Continues prompts with a language model.

    Attributes:
        version: Of the weights it holds.
    """

    version: int

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        repeats: int | Sequence[int],
        uniforms: np.ndarray,
        options: SamplingOptions,
    ) -> list[Completion]:
        """Answer every prompt `repeats` times.

        A pure function of weights, prompts, uniforms and options, but for the last bits of log-probabilities, which
        depend on the number of rows computed together; the same call gives the same bits.

        Args:
            prompts: P lists of token ids, none of them empty.
            repeats: Answers for each prompt, one number for all or P numbers.
            uniforms: float64 (R, T) in [0, 1), R answers in all, T at least `max_new_tokens`: token t of a row is the
                inverse of the cumulative distribution at uniforms[row, t], tokens in order of their ids.
            options: How tokens are drawn.

        Returns:
            R completions: those of the first prompt, then those of the second, ...

        Raises:
            ConfigError: An empty prompt, one that does not fit the context, or too few uniforms.
        """

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities, float32, of the tokens behind each prompt."""

    def load_weights(self, weights: Weights) -> None:
        """Adopt a version; the next token is drawn with it."""

    def abort(self) -> None:
        """End a running `generate` at the next token, from another thread; it gives what there is."""


def make_engine(settings: Any, model: Any) -> Engine:
    """The engine that a config's section `language` names, around a model.

    Raises:
        ConfigError: No such engine.
    """
    return register.get("engine", settings.engine)(model, settings.max_rows)


def answer_counts(prompts: Sequence[Sequence[int]], repeats: int | Sequence[int]) -> list[int]:
    """Answers for each prompt.

    Raises:
        ConfigError: Not one number for each prompt.
    """
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
    """Refuse what no engine can answer.

    Raises:
        ConfigError: With the numbers.
    """
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
