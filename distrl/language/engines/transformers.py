"""Engine with its own decode loop over a model in this process.

Every prompt is prefilled once for all of its answers, and the common beginning of all prompts once. A finished row is
replaced by the last row, and the next waiting answer is appended, so short answers cost nothing while long ones run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.experience.weights import Weights
from distrl.language.engines.base import Completion
from distrl.language.engines.cached_forward import Decoder, make_decoder
from distrl.language.engines.key_values import KeyValues
from distrl.language.engines.local import Draft, LocalEngine, Request
from distrl.language.engines.token_sampling import draw
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_logp import Scoring, token_logp

#: Prompt tokens per forward pass.
PREFILL_TOKENS = 2048

#: Prompt tokens computed ahead when rows free up one by one: a pass over fewer tokens costs hardly less.
AHEAD_TOKENS = 256

#: Shortest common beginning that is computed separately.
MIN_COMMON = 8


@dataclass
class _Prefilled:
    """Prompts with their keys and values, and their answers that are not started."""

    cache: KeyValues
    logits: Tensor  # (b, V), of the first token of every answer
    prompts: list[int]
    lengths: list[int]
    owed: list[tuple[int, int]]  # (prompt's row in the cache, row of the request), last ones first


class _Row(Draft):
    """An unfinished answer, by its number in the request."""

    def __init__(self, request: int):
        super().__init__()
        self.request = request


@register.engine("transformers")
class TransformersEngine(LocalEngine):
    """Generates with a model in this process, on its device."""

    def __init__(self, model: LanguageModel, max_rows: int = 64, version: int = 0):
        super().__init__(model, max_rows, version)
        with torch.inference_mode():
            self._decoder: Decoder = make_decoder(model)

    def refresh(self, version: int) -> None:
        with torch.inference_mode():
            self._decoder.refresh()
        self.version = version

    def _generate(self, request: Request) -> list[Completion]:
        with torch.inference_mode():
            return _Generation(self, request).run()

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        pad, results = self.model.tokenizer.pad_id, []
        for begin in range(0, len(sequences), self.max_rows):
            some, prompts = sequences[begin : begin + self.max_rows], prompt_lengths[begin : begin + self.max_rows]
            longest = max(len(sequence) for sequence in some)
            tokens = torch.tensor([[*sequence] + [pad] * (longest - len(sequence)) for sequence in some])
            columns = torch.arange(longest)
            ends = torch.tensor([len(sequence) for sequence in some])
            mask = (columns >= torch.tensor(list(prompts))[:, None]) & (columns < ends[:, None])
            with torch.inference_mode():
                device = self.model.device
                logp, _ = token_logp(self.model, tokens.to(device), mask.to(device), Scoring(temperature))
            results += [row[chosen].numpy() for row, chosen in zip(logp.cpu(), mask, strict=True)]
        return results


class _Generation:
    """One call of `generate`."""

    def __init__(self, engine: TransformersEngine, request: Request):
        self.engine, self.decoder, self.options = engine, engine._decoder, request.options
        self.poll, self.recompute = request.poll, request.recompute
        self.prompts, self.counts = request.prompts, request.counts
        self.asked = request.prompt_numbers()
        self.first = np.cumsum([0, *self.counts]).tolist()  # the first answer of each prompt
        self.device = engine.model.device
        self.uniforms = np.ascontiguousarray(request.uniforms, np.float64)
        self.stops = frozenset(self.options.stop_ids)
        self.results: list[Completion | None] = [None] * len(self.asked)
        # sorted by length, so that little padding is computed
        self.waiting = sorted((p for p, count in enumerate(self.counts) if count), key=lambda p: len(self.prompts[p]))
        self.capacity = min(engine.max_rows, len(self.results))
        longest = max(map(len, self.prompts)) + self.options.max_new_tokens
        self.cache = self.decoder.new_cache(self.capacity, longest)
        self.rows: list[_Row] = []
        self.lengths = np.zeros(self.capacity, np.int64)  # tokens in the cache, by row
        self.last = np.zeros(self.capacity, np.int64)  # newest token, not yet in the cache
        self.ready: list[_Prefilled] = []
        self.common, self.common_cache = self._prefill_common()

    def run(self) -> list[Completion]:
        while True:
            if self.poll is not None and (weights := self.poll()) is not None:
                self._adopt(weights)
            self._admit()
            if not self.rows:
                break
            if self.engine._aborted.is_set():
                self._cut_everything()
                break
            count = len(self.rows)
            columns = torch.from_numpy(self.lengths[:count].copy()).to(self.device)
            tokens = torch.from_numpy(self.last[:count].copy()).to(self.device)
            hidden = self.decoder.step(tokens, columns, int(self.lengths[:count].max()), self.cache)
            self.lengths[:count] += 1
            self._append(0, self.decoder.logits(hidden))
        return [result for result in self.results if result is not None]

    def _append(self, first: int, logits: Tensor) -> None:
        """Draw the next token of rows `first` and later; finished rows leave."""
        rows = self.rows[first : first + len(logits)]
        numbers = self.uniforms[[row.request for row in rows], [len(row.tokens) for row in rows]]
        drawn = draw(logits, torch.from_numpy(numbers), self.options)
        done = []
        for place, (row, one) in enumerate(zip(rows, drawn.rows(), strict=True), start=first):
            row.put(len(row.tokens), one, self.engine.version)
            self.last[place] = one.token
            if one.token in self.stops or len(row.tokens) == self.options.max_new_tokens:
                self.results[row.request] = row.completion(self.options)
                done.append(place)
        for place in reversed(done):
            self._leave(place)

    def _leave(self, place: int) -> None:
        """Replace a finished row by the last one."""
        end = len(self.rows) - 1
        if place != end:
            self.cache.move_row(end, place, int(self.lengths[end]))
            self.rows[place] = self.rows[end]
            self.lengths[place], self.last[place] = self.lengths[end], self.last[end]
        self.rows.pop()

    def _admit(self) -> None:
        """Start waiting answers in free rows."""
        while len(self.rows) < self.capacity and (self.ready or self.waiting):
            if not self.ready:
                self.ready.append(self._prefill())
            group = self.ready[-1]
            first, sources = len(self.rows), []
            while group.owed and len(self.rows) < self.capacity:
                source, request = group.owed.pop()
                self.lengths[len(self.rows)] = group.lengths[source]
                self.rows.append(_Row(request))
                sources.append(source)
            for source in sorted(set(sources)):
                places = [first + i for i, each in enumerate(sources) if each == source]
                self.cache.copy_row(group.cache, source, places[0], places[-1] + 1, group.lengths[source])
            if not group.owed:
                self.ready.pop()
            self._append(first, group.logits[sources])

    def _prefill(self) -> _Prefilled:
        """Compute the next prompts: those for the free rows, or a few ahead, at most one pass."""
        chosen = [self.waiting.pop()]
        room = self.capacity - len(self.rows) - self.counts[chosen[0]]
        longest = len(self.prompts[chosen[0]]) - self.common
        while self.waiting and (len(chosen) + 1) * longest <= (PREFILL_TOKENS if room > 0 else AHEAD_TOKENS):
            chosen.append(self.waiting.pop())
            room -= self.counts[chosen[-1]]
        owed = [(row, self.first[p] + r) for row, p in enumerate(chosen) for r in range(self.counts[p])]
        cache, logits = self._compute(chosen)
        return _Prefilled(cache, logits, chosen, [len(self.prompts[p]) for p in chosen], owed[::-1])

    def _compute(self, chosen: list[int]) -> tuple[KeyValues, Tensor]:
        """Compute the keys and values of some prompts, and the logits (b, V) of their next tokens."""
        rests = [self.prompts[p][self.common :] for p in chosen]
        if self.common_cache is not None:
            cache = self.common_cache.widen(len(chosen))
        else:
            cache = self.decoder.new_cache(len(chosen), max(map(len, rests)))
        tokens, last = self._filled_up(rests)
        return cache, self.decoder.logits(self.decoder.block(tokens, self.common, cache, last))

    def _filled_up(self, sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return right-padded sequences (n, L) and the indices (n,) of their last tokens."""
        pad, longest = self.engine.model.tokenizer.pad_id, max(map(len, sequences))
        tokens = torch.tensor([each + [pad] * (longest - len(each)) for each in sequences], device=self.device)
        return tokens, torch.tensor([len(each) - 1 for each in sequences], device=self.device)

    def _adopt(self, weights: Weights) -> None:
        """Load new weights; recompute waiting prompts, and running answers on request."""
        self.engine.load_weights(weights)
        self.common, self.common_cache = self._prefill_common()
        for group in self.ready:
            group.cache, group.logits = self._compute(group.prompts)
        if self.recompute and self.rows:
            so_far = [self.prompts[self.asked[row.request]] + row.tokens[:-1] for row in self.rows]
            tokens, last = self._filled_up(so_far)
            self.decoder.block(tokens, 0, self.cache, last)

    def _prefill_common(self) -> tuple[int, KeyValues | None]:
        """Compute the common beginning of all prompts, at least one token less than the shortest."""
        if len(self.prompts) == 1:
            return 0, None
        low, high = min(self.prompts), max(self.prompts)
        common = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
        common = min(common, min(map(len, self.prompts)) - 1)
        if common < MIN_COMMON:
            return 0, None
        cache = self.decoder.new_cache(1, max(map(len, self.prompts)))
        tokens = torch.tensor([self.prompts[0][:common]], device=self.device)
        self.decoder.block(tokens, 0, cache, torch.tensor([common - 1], device=self.device))
        return common, cache

    def _cut_everything(self) -> None:
        """End all answers with the tokens that they have."""
        for row in self.rows:
            self.results[row.request] = row.completion(self.options)
        self.results = [result or Draft().completion(self.options) for result in self.results]
