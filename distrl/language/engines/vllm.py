"""vLLM as an engine: paged keys and values, continuous batching, CUDA graphs. The extra `vllm`.

The same call gives the same tokens as the transformers engine, but for kernels whose last bits differ: see
`vllm_process.py`. In bf16 vLLM keeps the residual stream in bf16 too, which the learner does not; the gate
measures the difference.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distrl.base.registry import register
from distrl.experience.weights import Weights
from distrl.language.engines.base import Completion, SamplingOptions, answer_counts, check_request
from distrl.language.engines.vllm_process import Sheet, VllmProcess, stop_vllm, vllm_for
from distrl.language.models.model import LanguageModel
from distrl.language.models.weights import load_language_weights


@register.engine("vllm")
class VllmEngine:
    """Generates with vLLM in this process, started here where none runs that fits: from seconds to a minute.

    Args:
        model: The model; `load_weights` writes into it and from it into vLLM's copy. Where a learner trains the very
            same object, call `refresh` after its updates.
        max_rows: Answers made side by side.
        version: Of the weights that the model holds now.

    Raises:
        ConfigError: vLLM is not installed, or does not compute such a model.
        ResourceError: It did not start.
    """

    _calls = itertools.count()  # prompts of one call share what they begin with; other calls see nothing of it

    def __init__(self, model: LanguageModel, max_rows: int = 64, version: int = 0):
        self.model, self.max_rows, self.version = model, max_rows, version
        self._aborted = threading.Event()
        vllm_for(model, max_rows)  # now, as whoever waits for a batch has less patience

    def load_weights(self, weights: Weights) -> None:
        load_language_weights(self.model, weights)
        self.refresh(weights.version)

    def refresh(self, version: int) -> None:
        """The model's parameters have become this version."""
        vllm_for(self.model, self.max_rows).adopt(self.model, self)
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
            recompute: Then compute the keys and values of running answers again.
        """
        check_request(prompts, repeats, uniforms, options, self.model.context)
        self._aborted.clear()
        counts = answer_counts(prompts, repeats)
        if not any(counts):
            return []
        asked = [list(prompts[p]) for p, count in enumerate(counts) for _ in range(count)]
        process = self._ready()
        sheet = process.sheet = Sheet(uniforms, options, self.version)
        calls = _Requests(process)
        with self._clean(calls):
            self._submit(calls, asked, range(len(asked)), options)
            while calls.rows:
                if poll is not None and (weights := poll()) is not None:
                    self.load_weights(weights)
                    sheet.version = self.version
                    if recompute:
                        process.engine.reset_prefix_cache(reset_running_requests=True)
                    # prompts that no token follows yet may be computed in part, or wait for what was: begin them anew
                    fresh = calls.cancel(lambda row: not sheet.count(row))
                    self._submit(calls, asked, fresh, options)
                if self._aborted.is_set():
                    break
                for row, output in calls.step():
                    said, drawn = list(output.outputs[0].token_ids), sheet.tokens[row][: sheet.count(row)]
                    if said != drawn:
                        raise RuntimeError(f"vLLM took the tokens {said}, where {drawn} were drawn")
            return [sheet.completion(row) for row in range(len(asked))]

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        process = self._ready()
        from vllm import SamplingParams

        calls, results = _Requests(process), [np.zeros(0, np.float32) for _ in sequences]
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        with process.scoring(temperature), self._clean(calls):
            for row, sequence in enumerate(sequences):
                if len(sequence) > prompt_lengths[row]:
                    calls.add(row, list(sequence), SamplingParams(**params), salt=f"{next(self._calls)}")
            while calls.rows:
                for row, output in calls.step():
                    said = zip(sequences[row], output.prompt_logprobs, strict=True)
                    scores = [distribution[token].logprob if distribution else 0.0 for token, distribution in said]
                    results[row] = np.array(scores[prompt_lengths[row] :], np.float32)
        return results

    def _submit(self, calls: _Requests, asked: list[list[int]], rows: Sequence[int], options: SamplingOptions) -> None:
        from vllm import SamplingParams

        salt = f"{next(self._calls)}"
        for row in rows:
            params = SamplingParams(
                temperature=0.0,  # one token is left to take
                max_tokens=options.max_new_tokens,
                stop_token_ids=list(options.stop_ids),
                ignore_eos=True,  # what ends an answer are the stop tokens of the call, and no others
                detokenize=False,
                extra_args={"row": row},
            )
            calls.add(row, asked[row], params, salt)

    @contextlib.contextmanager
    def _clean(self, calls: _Requests) -> Iterator[None]:
        """Nothing of a call stays behind; after a failure nobody knows what state vLLM is in, so it is ended."""
        try:
            yield
        except Exception:
            stop_vllm()
            raise
        finally:
            calls.process.sheet = None
            if calls.process.owner is self:
                calls.cancel(lambda row: True)

    def _ready(self) -> VllmProcess:
        """vLLM with this engine's weights."""
        process = vllm_for(self.model, self.max_rows)
        if process.owner is not self:
            process.adopt(self.model, self)
        return process


class _Requests:
    """Requests to vLLM that are under way; `rows` has the row of each one's name."""

    _names = itertools.count()

    def __init__(self, process: VllmProcess):
        self.process = process
        self.rows: dict[str, int] = {}
        self._inner: dict[str, str] = {}  # vLLM's names for them

    def add(self, row: int, prompt: list[int], params: Any, salt: str) -> None:
        """Ask for a row. Prompts with one salt share what is cached of their beginnings."""
        from vllm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.FINAL_ONLY
        name = str(next(self._names))
        given = TokensPrompt(prompt_token_ids=prompt, cache_salt=salt)
        self._inner[name] = self.process.engine.add_request(name, given, params)
        self.rows[name] = row

    def step(self) -> list[tuple[int, Any]]:
        """One step of vLLM; rows that are done, with what it says of them."""
        outputs = self.process.engine.step()
        return [(self.rows.pop(output.request_id), output) for output in outputs if output.finished]

    def cancel(self, which: Callable[[int], bool]) -> list[int]:
        """Take requests back; their rows."""
        names = [name for name, row in self.rows.items() if which(row)]
        if names:
            self.process.engine.abort_request([self._inner[name] for name in names], internal=True)
        return [self.rows.pop(name) for name in names]
