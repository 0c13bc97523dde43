"""Sampler of a language model's answers."""

from __future__ import annotations

import itertools
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distrl.base.columns import Columns
from distrl.base.errors import ResourceError, UserError
from distrl.base.phases import Phases
from distrl.base.seeds import generator
from distrl.experience.fragment import CollectRequest, EpisodeReport, FragmentData, FragmentMeta, Unit
from distrl.experience.weights import Weights
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.curricula.sampling_plan import PromptSamples, SamplingPlan
from distrl.language.engines.base import Completion, Engine, SamplingOptions
from distrl.language.models.tokenizers import TextTokenizer, encode_item
from distrl.language.models.weights import extras_of
from distrl.language.samplers.base import LanguageSampler
from distrl.language.samplers.rows import answer_rows, group_id
from distrl.language.tasks.base import Item, Task

ADVICE = "If memory ran out, lower language.max_rows or language.max_new_tokens. Continue with --resume."


def engine_fault(engine: object, error: Exception, answers: int) -> str:
    """Describe the failure of an engine in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = str(error).strip().split("\n")[0][:300]
    return (
        f"the engine {type(engine).__name__} failed while it generated {answers} answers:"
        f" {type(error).__name__}: {reason} ({Path(last.filename).name}, line {last.lineno})"
    )


class TextSampler(LanguageSampler):
    """Sampler of answers to the items of a task.

    The prompts of a stream and the random numbers of its tokens are pure functions of (weights with their extras,
    seed, stream, fragment).

    Args:
        engine: Generates; its weights are overwritten by the first request.
        context: Longest prompt and answer together, in tokens.
        draws: Number and temperature of the samples of each prompt.
        fuse: One batch for all streams (fast); else one per stream, at one fixed shape (deterministic).
        rebuild: Makes a new engine in place of one that failed; the batch is then generated once more.
        news: Returns weights newer than a version, or None; polled before every token. Without it, a batch is
            generated with the weights of its order.
        recompute: Recompute the cache of unfinished answers with new weights.
    """

    def __init__(
        self,
        index: int,
        engine: Engine,
        tokenizer: TextTokenizer,
        task: Task,
        lines: PromptLines,
        *,
        context: int,
        draws: SamplingPlan,
        options: SamplingOptions,
        seed: int,
        fuse: bool = True,
        rebuild: Callable[[], Engine] | None = None,
        news: Callable[[int], Weights | None] | None = None,
        recompute: bool = False,
        phases: Phases | None = None,
    ):
        super().__init__(index, tokenizer, task, lines, phases)
        self.engine: Any = engine
        self.context = context
        self.draws = draws
        self.options = options
        self.seed = seed
        self.fuse = fuse
        self.rebuild, self.news, self.recompute = rebuild, news, recompute
        self.version = -1  # of the engine's weights
        self.asked = -1  # of the newest order
        self.extras: dict[str, np.ndarray] = {}  # of the order's weights

    def collect(self, requests: Sequence[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """Make the requested units with these weights, in the order of the requests.

        Raises:
            UserError: An item is longer than the model's context or needs a chat template; or the engine failed, and
                a new one did too.
        """
        self.phases.switch("load")
        if weights.version != self.asked:
            self.extras = extras_of(weights)
            self.asked = weights.version
        # with in-flight weights the engine may hold newer ones than the order: those stay
        if weights.version > self.version or (self.news is None and weights.version != self.version):
            self.engine.load_weights(weights)
            self.version = weights.version
        groups = [list(requests)] if self.fuse else [[request] for request in requests]
        return self.finish([fragment for group in groups for fragment in self._answer(group, weights)])

    def close(self) -> None:
        self.engine.abort()

    def _answer(self, requests: list[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """Make one fragment per request, all generated as one batch."""
        self.phases.switch("sampler")
        self.clock.begin("makes prompts")
        items = [self.lines.items(request.unit, self.extras) for request in requests]
        prompts = [[self._encoded(item) for item in asked] for asked in items]
        plans = [self._plan(request.unit, asked) for request, asked in zip(requests, prompts, strict=True)]
        uniforms = [self._uniforms(request.unit, plan) for request, plan in zip(requests, plans, strict=True)]
        self.phases.switch("generate")
        flat = [asked[draw.prompt] for asked, plan in zip(prompts, plans, strict=True) for draw in plan]
        said = self._generate(flat, [draw for plan in plans for draw in plan], np.concatenate(uniforms), weights)
        self.phases.switch("verify")
        self.clock.begin(f"verifies {len(said)} answers")
        fragments, begin = [], 0
        for request, asked, asked_prompts, plan in zip(requests, items, prompts, plans, strict=True):
            mine = said[begin : begin + len(plan)]
            begin += len(mine)
            fragments.append(self._fragment(request.unit, asked, asked_prompts, plan, mine))
        self.phases.switch("other")
        return fragments

    def _encoded(self, item: Item) -> list[int]:
        return encode_item(self.tokenizer, item, self.options.max_new_tokens, self.context)

    def _plan(self, unit: Unit, prompts: Sequence[Sequence[int]]) -> list[PromptSamples]:
        return self.draws(prompts, self.extras, generator(self.seed, "draws", unit.stream, unit.seq))

    def _generate(
        self, prompts: list[list[int]], draws: Sequence[PromptSamples], uniforms: np.ndarray, weights: Weights
    ) -> list[list[Completion]]:
        """Generate the samples of each prompt, those of one temperature together."""
        said: list[list[Completion]] = [[] for _ in draws]
        ends = np.cumsum([draw.answers for draw in draws])
        for scale in dict.fromkeys(draw.temperature_scale for draw in draws):
            mine = [number for number, draw in enumerate(draws) if draw.temperature_scale == scale]
            counts = [draws[number].answers for number in mine]
            rows = np.concatenate([np.arange(ends[n] - draws[n].answers, ends[n]) for n in mine])
            self.clock.begin(f"generates {len(rows)} answers")
            answers = iter(self._answers([prompts[n] for n in mine], counts, uniforms[rows], scale, weights))
            for number, count in zip(mine, counts, strict=True):
                said[number] = list(itertools.islice(answers, count))
        return said

    def _answers(
        self, prompts: list[list[int]], counts: list[int], uniforms: np.ndarray, scale: float, weights: Weights
    ) -> list[Completion]:
        """Return the engine's answers; a failed engine is rebuilt once, which changes no answer."""
        repeats = counts[0] if len(set(counts)) == 1 else counts
        try:
            return self._ask(prompts, repeats, uniforms, scale)
        except UserError:
            raise
        except Exception as error:
            fault = engine_fault(self.engine, error, sum(counts))
            if self.rebuild is None:
                raise ResourceError(f"{fault}.", ADVICE) from error
        logging.getLogger("distrl").warning("%s. It is rebuilt.", fault)
        try:
            self.engine = None  # its memory may be needed
            self.engine = self.rebuild()
            self.engine.load_weights(weights)
            return self._ask(prompts, repeats, uniforms, scale)
        except UserError:
            raise
        except Exception as error:
            fault = engine_fault(self.engine, error, sum(counts))
            raise ResourceError(f"{fault}; so did its predecessor.", ADVICE) from error

    def _ask(
        self, prompts: list[list[int]], repeats: int | list[int], uniforms: np.ndarray, scale: float
    ) -> list[Completion]:
        options = self.options if scale == 1.0 else replace(self.options, temperature=scale * self.options.temperature)
        if self.news is None:
            return self.engine.generate(prompts, repeats, uniforms, options)
        news = self.news
        swaps = {"poll": lambda: news(self.engine.version), "recompute": self.recompute}
        said = self.engine.generate(prompts, repeats, uniforms, options, **swaps)
        self.version = self.engine.version
        return said

    def _uniforms(self, unit: Unit, plan: Sequence[PromptSamples]) -> np.ndarray:
        """Draw one number in [0, 1) for each possible token, (answers, max_new_tokens)."""
        shape = (sum(draw.answers for draw in plan), self.options.max_new_tokens)
        return generator(self.seed, "tokens", unit.stream, unit.seq).random(shape)

    def _fragment(
        self,
        unit: Unit,
        items: Sequence[Item],
        prompts: Sequence[list[int]],
        plan: Sequence[PromptSamples],
        said: Sequence[Sequence[Completion]],
    ) -> tuple[FragmentMeta, FragmentData]:
        rows: list[Columns] = []
        reports: list[EpisodeReport] = []
        rescaled = any(draw.temperature_scale != 1.0 for draw in plan)
        for number, (draw, answers) in enumerate(zip(plan, said, strict=True)):
            item, prompt = items[draw.prompt], prompts[draw.prompt]
            group = group_id(unit, number, len(plan))
            columns, returns = answer_rows(self.task, self.tokenizer, item, prompt, answers, group, self.options)
            if rescaled:
                columns = columns.with_(temperature_scale=np.full(len(answers), draw.temperature_scale, np.float32))
            rows.append(columns)
            reports += [
                EpisodeReport(unit.stream, number, unit.seq * len(answers) + row, return_, len(answer.tokens))
                for row, (return_, answer) in enumerate(zip(returns, answers, strict=True))
            ]
        return self.fragment(unit, self.asked, rows, reports)  # the oldest version that a token can be of
