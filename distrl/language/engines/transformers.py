"""Our own decode loop over a language model that lives in this process.

Prompts are prefilled once, however many answers they get, and what all prompts of a call begin with is prefilled once
for all of them. Rows that finish leave at once: the last row takes their place, and the next waiting answer joins
behind it, so short answers cost nothing while long ones go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.experience.weights import Weights
from distrl.language.engines.base import Completion, SamplingOptions, answer_counts, check_request
from distrl.language.engines.cached_forward import Decoder, make_decoder
from distrl.language.engines.key_values import KeyValues
from distrl.language.engines.token_sampling import Draw, draw
from distrl.language.models.model import LanguageModel
from distrl.language.models.token_logp import Scoring, token_logp
from distrl.language.models.weights import load_language_weights

#: Tokens of prompts that are computed in one forward pass.
PREFILL_TOKENS = 2048

#: Where rows free up one by one, prompts are computed ahead: a pass over fewer tokens than this costs hardly less.
AHEAD_TOKENS = 256

#: A common beginning shorter than this is not worth a pass of its own.
MIN_COMMON = 8


@dataclass
class _Prefilled:
    """Prompts whose keys and values are there, and the answers that they still owe."""

    cache: KeyValues
    logits: Tensor  # (b, V), of the first token of every answer
    prompts: list[int]
    lengths: list[int]
    owed: list[tuple[int, int]]  # (prompt's row in the cache, row of the request), last ones first


@dataclass
class _Row:
    """An answer in the making."""

    request: int
    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    support: list[np.ndarray] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)

    def completion(self, options: SamplingOptions, stopped: bool) -> Completion:
        return Completion(
            tokens=np.array(self.tokens, np.int32),
            logp=np.array(self.logp, np.float32),
            stopped=stopped,
            versions=np.array(self.versions, np.int64),
            support=self.support if options.truncates else None,
            entropy=np.array(self.entropy, np.float32) if options.entropy else None,
        )


@register.engine("transformers")
class TransformersEngine:
    """Generates with a model in this process, on its device.

    Args:
        model: The model; `load_weights` writes into it. Where a learner trains the very same object, call `refresh`
            after its updates.
        max_rows: Answers made side by side.
        version: Of the weights that the model holds now.
    """

    def __init__(self, model: LanguageModel, max_rows: int = 64, version: int = 0):
        self.model, self.max_rows, self.version = model, max_rows, version
        with torch.inference_mode():
            self._decoder: Decoder = make_decoder(model)
        self._aborted = threading.Event()

    def load_weights(self, weights: Weights) -> None:
        load_language_weights(self.model, weights)
        self.refresh(weights.version)

    def refresh(self, version: int) -> None:
        """The model's parameters have become this version."""
        with torch.inference_mode():
            self._decoder.refresh()
        self.version = version

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
        """As `Engine.generate`.

        Args:
            poll: Asked before every token; weights that it gives are adopted at once.
            recompute: Then compute the keys and values of running answers again. Otherwise they stay those of the
                weights that their tokens were drawn with, which is cheaper and a little off-policy.
        """
        check_request(prompts, repeats, uniforms, options, self.model.context)
        self._aborted.clear()
        counts = answer_counts(prompts, repeats)
        if not any(counts):
            return []
        with torch.inference_mode():
            return _Generation(self, prompts, counts, uniforms, options, poll, recompute).run()

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

    def __init__(
        self,
        engine: TransformersEngine,
        prompts: Sequence[Sequence[int]],
        counts: list[int],
        uniforms: np.ndarray,
        options: SamplingOptions,
        poll: Callable[[], Weights | None] | None,
        recompute: bool,
    ):
        self.engine, self.decoder, self.options = engine, engine._decoder, options
        self.poll, self.recompute = poll, recompute
        self.prompts, self.counts = [list(prompt) for prompt in prompts], counts
        self.asked = [p for p, count in enumerate(counts) for _ in range(count)]  # the prompt of each answer
        self.first = np.cumsum([0, *counts]).tolist()  # the first answer of each prompt
        self.device = engine.model.device
        self.uniforms = np.ascontiguousarray(uniforms, np.float64)
        self.stops = frozenset(options.stop_ids)
        self.results: list[Completion | None] = [None] * len(self.asked)
        # Long prompts first: neighbors have nearly one length, so little is filled up.
        self.waiting = sorted((p for p, count in enumerate(counts) if count), key=lambda p: len(self.prompts[p]))
        self.capacity = min(engine.max_rows, len(self.results))
        longest = max(map(len, self.prompts)) + options.max_new_tokens
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
        """Draw the next token of rows `first` and later; those that are done leave."""
        rows = self.rows[first : first + len(logits)]
        numbers = self.uniforms[[row.request for row in rows], [len(row.tokens) for row in rows]]
        drawn: Draw = draw(logits, torch.from_numpy(numbers), self.options)
        tokens, logps = drawn.tokens.tolist(), drawn.logp.tolist()
        entropies = drawn.entropy.tolist() if drawn.entropy is not None else None
        done = []
        for place, row in enumerate(rows):
            row.tokens.append(tokens[place])
            row.logp.append(logps[place])
            row.versions.append(self.engine.version)
            if drawn.support is not None:
                row.support.append(drawn.support[place])
            if entropies is not None:
                row.entropy.append(entropies[place])
            stopped = tokens[place] in self.stops
            if stopped or len(row.tokens) == self.options.max_new_tokens:
                self.results[row.request] = row.completion(self.options, stopped)
                done.append(first + place)
        self.last[first : first + len(tokens)] = tokens
        for place in reversed(done):
            self._leave(place)

    def _leave(self, place: int) -> None:
        """The last row takes the place of one that is done."""
        end = len(self.rows) - 1
        if place != end:
            self.cache.move_row(end, place, int(self.lengths[end]))
            self.rows[place] = self.rows[end]
            self.lengths[place], self.last[place] = self.lengths[end], self.last[end]
        self.rows.pop()

    def _admit(self) -> None:
        """Let waiting answers join, as long as there is room."""
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
        """Compute the next prompts: as many as there is room for, or a few ahead, and one pass may hold."""
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
        """Keys and values of some prompts, and the logits (b, V) of what follows them."""
        rests = [self.prompts[p][self.common :] for p in chosen]
        if self.common_cache is not None:
            cache = self.common_cache.widen(len(chosen))
        else:
            cache = self.decoder.new_cache(len(chosen), max(map(len, rests)))
        tokens, last = self._filled_up(rests)
        return cache, self.decoder.logits(self.decoder.block(tokens, self.common, cache, last))

    def _filled_up(self, sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Sequences as one tensor (n, L), filled up on the right, and the index of each one's last token (n,)."""
        pad, longest = self.engine.model.tokenizer.pad_id, max(map(len, sequences))
        tokens = torch.tensor([each + [pad] * (longest - len(each)) for each in sequences], device=self.device)
        return tokens, torch.tensor([len(each) - 1 for each in sequences], device=self.device)

    def _adopt(self, weights: Weights) -> None:
        """Take new weights; prompts that wait are computed again, running answers where that is wanted."""
        self.engine.load_weights(weights)
        self.common, self.common_cache = self._prefill_common()
        for group in self.ready:
            group.cache, group.logits = self._compute(group.prompts)
        if self.recompute and self.rows:
            so_far = [self.prompts[self.asked[row.request]] + row.tokens[:-1] for row in self.rows]
            tokens, last = self._filled_up(so_far)
            self.decoder.block(tokens, 0, self.cache, last)

    def _prefill_common(self) -> tuple[int, KeyValues | None]:
        """What all prompts begin with, computed once; every prompt keeps at least one token of its own."""
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
        """What was aborted keeps the tokens it has; answers that were not begun have none."""
        for row in self.rows:
            self.results[row.request] = row.completion(self.options, stopped=False)
        for request, result in enumerate(self.results):
            if result is None:
                self.results[request] = _Row(request).completion(self.options, stopped=False)
