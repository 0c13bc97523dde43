"""Common part of the samplers of language runs."""

from __future__ import annotations

from collections.abc import Sequence

from distrl.base.columns import Columns
from distrl.base.phases import Phases
from distrl.experience.fragment import EpisodeReport, FragmentData, FragmentMeta, Unit
from distrl.experience.rollout import rollout_bytes
from distrl.experience.token_episodes import cat_episodes
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.models.tokenizers import TextTokenizer
from distrl.language.samplers.clock import TextClock
from distrl.language.tasks.base import Task


class LanguageSampler:
    """Base of the language samplers. A fragment is a pure function of weights and names, so streams have no state."""

    def __init__(self, index: int, tokenizer: TextTokenizer, task: Task, lines: PromptLines, phases: Phases | None):
        self.index, self.tokenizer, self.task, self.lines = index, tokenizer, task, lines
        self.clock = TextClock()
        self.phases = phases or Phases()
        self.own_phases = phases is None

    def drop(self, streams: Sequence[int]) -> None:
        """Release streams that moved to another sampler: nothing is held for them."""

    def close(self) -> None:
        """Release the engine, if there is one."""

    def finish(self, fragments: list[tuple[FragmentMeta, FragmentData]]) -> list[tuple[FragmentMeta, FragmentData]]:
        """End a call: report its phases in the first fragment."""
        self.clock.begin("")
        if self.own_phases and fragments:
            fragments[0][0].seconds = self.phases.reset()
            self.phases.switch("wait")  # until the next request
        return fragments

    def fragment(
        self, unit: Unit, version: int, rows: list[Columns], reports: list[EpisodeReport]
    ) -> tuple[FragmentMeta, FragmentData]:
        """Make the fragment of a unit from rows of episodes."""
        episodes = cat_episodes(rows)
        meta = FragmentMeta(
            unit=unit,
            version=version,
            env_steps=int(episodes.mask.sum()),
            episodes=reports,
            snapshot={"seq": unit.seq + 1},
            nbytes=rollout_bytes(episodes),
            sampler=self.index,
        )
        return meta, FragmentData(episodes)
