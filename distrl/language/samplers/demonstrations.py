"""Sampler of demonstrations, for supervised runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.experience.fragment import CollectRequest, FragmentData, FragmentMeta
from distrl.experience.token_episodes import FORCED, PROMPT
from distrl.experience.weights import Weights
from distrl.language.algorithms.supervised.warm_start import demonstration
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.models.tokenizers import TextTokenizer
from distrl.language.samplers.base import LanguageSampler
from distrl.language.samplers.rows import group_id
from distrl.language.tasks.base import Item, Task


class DemonstrationSampler(LanguageSampler):
    """Demonstrations of a task as fragments, without a model.

    The rows are those of `TextSampler`, with kind FORCED, no log-probabilities and no reward. No episodes are reported.

    Args:
        context: Most tokens of prompt and answer together; None if only the model determines it.
        wanted_by: The algorithm, for messages.
    """

    def __init__(
        self,
        index: int,
        tokenizer: TextTokenizer,
        task: Task,
        lines: PromptLines,
        *,
        context: int | None,
        wanted_by: str,
        phases: Phases | None = None,
    ):
        super().__init__(index, tokenizer, task, lines, phases)
        self.context, self.wanted_by = context, wanted_by

    def collect(self, requests: Sequence[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """Make the requested units, in the order of the requests.

        Raises:
            ConfigError: An item without a demonstration, or too long for the model.
        """
        self.phases.switch("sampler")
        self.clock.begin("looks up demonstrations")
        fragments = []
        for request in requests:
            unit, items = request.unit, self.lines.items(request.unit)
            rows = [self._row(item, group_id(unit, number, len(items))) for number, item in enumerate(items)]
            fragments.append(self.fragment(unit, weights.version, rows, []))
        self.phases.switch("other")
        return self.finish(fragments)

    def _row(self, item: Item, group: int) -> Columns:
        """Return a prompt and its right answer with the stop token; only the latter is trained on."""
        prompt, answer = demonstration(self.tokenizer, self.task, item.index, f"algorithm {self.wanted_by}")
        total = len(prompt) + len(answer)
        if self.context is not None and total > self.context:
            raise ConfigError(
                f"item {item.index} and its demonstration have {total} tokens, the model's context {self.context}.",
                "Set language.context higher, or leave such items out of the task.",
            )
        is_answer = np.arange(total) >= len(prompt)
        return Columns(
            offsets=np.array([0, total], np.int64),
            tokens=np.array([*prompt, *answer], np.int32),
            kind=np.where(is_answer, FORCED, PROMPT).astype(np.uint8),
            mask=is_answer,
            logp=np.zeros(total, np.float32),
            version=np.full(total, -1, np.int32),
            group=np.array([group], np.int64),
            item=np.array([item.index], np.int64),
            components=np.zeros((1, len(self.task.components))),
            answer=np.array([-1], np.int64),
            correct=np.array([False]),
            verified=np.array([True]),
            terminated=np.array([True]),
            truncated=np.array([False]),
            budget=np.array([len(answer)], np.int32),
            parent=np.array([-1], np.int64),
        )
