"""What follows from the config of a language-model run: prompts, answers and tokens of an update."""

from __future__ import annotations

from typing import Any

from distrl.config.schema import RunConfig


def text_learning(config: RunConfig, algorithm: Any) -> dict[str, Any]:
    """Numbers of one update, and of the whole run.

    Args:
        config: A run with a `language` section.
        algorithm: Its algorithm's checked keys.
    """
    assert config.language is not None
    prompts = config.parallel * algorithm.rollout_steps
    answers = prompts * algorithm.group_size
    minibatches = min(algorithm.minibatches, prompts)
    values: dict[str, Any] = {
        "prompts per update": prompts,
        "answers per update": answers,
        "made of": f"{prompts} prompts x {algorithm.group_size} answers",
        "tokens per update, at most": answers * config.language.max_new_tokens,
        "answers per minibatch": answers // minibatches,
        "rows at once in the learner": min(algorithm.micro_batch, answers // minibatches),
        "gradient steps per update": algorithm.epochs * minibatches,
        "logical shards per minibatch": config.learner.shards,
    }
    if config.stop.updates is not None:
        values["updates until the end"] = config.stop.updates
    return values
