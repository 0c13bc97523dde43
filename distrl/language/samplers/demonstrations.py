"""`DemonstrationSampler`: a task's own answers as fragments, for supervised runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.experience.fragment import CollectRequest, FragmentData, FragmentMeta
from distrl.experience.rollout import rollout_bytes
from distrl.experience.token_episodes import FORCED, PROMPT, cat_episodes
from distrl.experience.weights import Weights
from distrl.language.algorithms.supervised.warm_start import demonstration
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.models.tokenizers import TextTokenizer
from distrl.language.samplers.clock import TextClock
from distrl.language.samplers.rows import group_id
from distrl.language.tasks.base import Item, Task


class DemonstrationSampler:
    """Looks answers up instead of generating them: no model, and nothing that could be stale.

    The rows are those of `TextSampler`, with kind FORCED, no log-probabilities and no reward. No episodes are
    reported, as nobody acted.

    Args:
        task: Gives items and demonstrations.
        lines: Which items a fragment holds.
        context: Most tokens of prompt and answer together; None where only the model knows.
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
        self.index = index
        self.tokenizer = tokenizer
        self.task = task
        self.lines = lines
        self.context = context
        self.wanted_by = wanted_by
        self.phases = phases or Phases()
        self.own_phases = phases is None
        self.clock = TextClock()

    def collect(self, requests: Sequence[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """The requested units, in the order of the requests.

        Raises:
            ConfigError: An item without a demonstration, or too long for the model.
        """
        self.phases.switch("sampler")
        self.clock.begin("looks up demonstrations")
        fragments = [self._fragment(request, weights.version) for request in requests]
        self.clock.begin("")
        self.phases.switch("other")
        if self.own_phases and fragments:
            fragments[0][0].seconds = self.phases.reset()
            self.phases.switch("wait")  # until the next request
        return fragments

    def drop(self, streams: Sequence[int]) -> None:
        """Streams that live elsewhere now: there is nothing to let go."""

    def close(self) -> None:
        """Nothing is open."""

    def _fragment(self, request: CollectRequest, version: int) -> tuple[FragmentMeta, FragmentData]:
        unit = request.unit
        items = self.lines.items(unit)
        rows = [self._row(item, group_id(unit, number, len(items))) for number, item in enumerate(items)]
        episodes = cat_episodes(rows)
        meta = FragmentMeta(
            unit=unit,
            version=version,
            env_steps=int(episodes.mask.sum()),
            episodes=[],
            snapshot={"seq": unit.seq + 1},
            nbytes=rollout_bytes(episodes),
            sampler=self.index,
        )
        return meta, FragmentData(episodes)

    def _row(self, item: Item, group: int) -> Columns:
        """A prompt and its right answer with the stop token, which alone are learned from."""
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
