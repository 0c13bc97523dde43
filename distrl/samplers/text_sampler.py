"""`TextSampler`: lets a language model answer the prompts of some streams, and returns fragments of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.base.columns import Columns
from distrl.base.phases import Phases
from distrl.base.seeds import generator
from distrl.experience.episodes import cat_episodes, episodes_bytes
from distrl.experience.fragment import CollectRequest, EpisodeReport, FragmentData, FragmentMeta, Unit
from distrl.experience.weights import Weights
from distrl.models.language_weights import extras_of
from distrl.samplers.prompt_lines import PromptLines
from distrl.samplers.text_rows import answer_rows, group_id


class TextSampler:
    """Answers items of a task, `group_size` times each.

    What a stream asks is a pure function of (weights with their extras, seed, stream, fragment), and so are the random
    numbers that tokens are drawn with: a fragment depends on weights and names alone, and a stream has no state that
    would have to move.

    Args:
        index: Which sampler this is.
        engine: Generates; its weights are overwritten by the first request.
        tokenizer: Text to tokens and back.
        task: Gives items and judges answers.
        lines: Which items a fragment asks.
        group_size: Answers to each prompt.
        options: Sampling options of the engine.
        seed: The run's seed.
        fuse: One batch for all streams (fast); else each stream on its own, at one fixed shape (deterministic).
    """

    def __init__(
        self,
        index: int,
        engine: Any,
        tokenizer: Any,
        task: Any,
        lines: PromptLines,
        *,
        group_size: int,
        options: Any,
        seed: int,
        fuse: bool = True,
        phases: Phases | None = None,
    ):
        self.index = index
        self.engine = engine
        self.tokenizer = tokenizer
        self.task = task
        self.lines = lines
        self.group_size = group_size
        self.options = options
        self.seed = seed
        self.fuse = fuse
        self.phases = phases or Phases()
        self.own_phases = phases is None
        self.version = -1
        self.extras: dict[str, np.ndarray] = {}  # what came with the weights

    def collect(self, requests: Sequence[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """Make the requested units with these weights, in the order of the requests.

        Raises:
            UserError: An item cannot be asked: longer than the model's context, without a chat template.
        """
        self.phases.switch("load")
        if weights.version != self.version:
            self.engine.load_weights(weights)
            self.version = weights.version
            self.extras = extras_of(weights)
        groups = [list(requests)] if self.fuse else [[request] for request in requests]
        fragments = [fragment for group in groups for fragment in self._answer(group)]
        if self.own_phases and fragments:
            fragments[0][0].seconds = self.phases.reset()
            self.phases.switch("wait")  # until the next request
        return fragments

    def drop(self, streams: Sequence[int]) -> None:
        """Streams that live elsewhere now: there is nothing to let go."""

    def close(self) -> None:
        self.engine.abort()

    def _answer(self, requests: list[CollectRequest]) -> list[tuple[FragmentMeta, FragmentData]]:
        """One fragment for each request, all generated as one batch."""
        self.phases.switch("sampler")
        items = [self.lines.items(request.unit, self.extras) for request in requests]
        prompts = [[self.tokenizer.encode_prompt(item.prompt) for item in asked] for asked in items]
        uniforms = [self._uniforms(request.unit, len(asked)) for request, asked in zip(requests, items, strict=True)]
        self.phases.switch("generate")
        said = self.engine.generate(
            [prompt for asked in prompts for prompt in asked], self.group_size, np.concatenate(uniforms), self.options
        )
        self.phases.switch("verify")
        fragments, begin = [], 0
        for request, asked, asked_prompts in zip(requests, items, prompts, strict=True):
            mine = said[begin : begin + len(asked) * self.group_size]
            begin += len(mine)
            fragments.append(self._fragment(request.unit, asked, asked_prompts, mine))
        self.phases.switch("other")
        return fragments

    def _uniforms(self, unit: Unit, prompts: int) -> np.ndarray:
        """One number in [0, 1) for each token that may be drawn, (prompts x group_size, max_new_tokens)."""
        shape = (prompts * self.group_size, self.options.max_new_tokens)
        return generator(self.seed, "tokens", unit.stream, unit.seq).random(shape)

    def _fragment(
        self, unit: Unit, items: Sequence[Any], prompts: Sequence[list[int]], said: Sequence[Any]
    ) -> tuple[FragmentMeta, FragmentData]:
        rows: list[Columns] = []
        reports: list[EpisodeReport] = []
        for number, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
            answers = said[number * self.group_size : (number + 1) * self.group_size]
            group = group_id(unit, number, len(items))
            columns, returns = answer_rows(
                self.task, self.tokenizer, item, prompt, answers, group, self.version, self.options
            )
            rows.append(columns)
            reports += [
                EpisodeReport(unit.stream, number, unit.seq * self.group_size + row, return_, len(answer.tokens))
                for row, (return_, answer) in enumerate(zip(returns, answers, strict=True))
            ]
        episodes = cat_episodes(rows)
        meta = FragmentMeta(
            unit=unit,
            version=self.version,
            env_steps=int(episodes.mask.sum()),
            episodes=reports,
            snapshot={"seq": unit.seq + 1},
            nbytes=episodes_bytes(episodes),
            sampler=self.index,
        )
        return meta, FragmentData(episodes)
