"""Engine on vLLM: paged cache, continuous batching, CUDA graphs (extra `vllm`).

Tokens equal those of the transformers engine except for kernels whose last bits differ (`vllm_process.py`). In bf16,
vLLM keeps the residual stream in bf16, unlike the learner; the mismatch gate measures the difference.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distrl.base.registry import register
from distrl.language.engines.base import Completion, SamplingOptions
from distrl.language.engines.local import LocalEngine, Request
from distrl.language.engines.vllm_process import Sheet, VllmProcess, stop_vllm, vllm_for
from distrl.language.models.model import LanguageModel

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


@register.engine("vllm")
class VllmEngine(LocalEngine):
    """Generates with the vLLM of this process, started here (seconds to a minute) if none fits.

    Raises:
        ConfigError: vLLM is not installed, or does not compute such a model.
        ResourceError: It did not start.
    """

    _calls = itertools.count()  # salt: only prompts of one call share cached beginnings

    def __init__(self, model: LanguageModel, max_rows: int = 64, version: int = 0):
        super().__init__(model, max_rows, version)
        vllm_for(model, max_rows)  # start now: the first batch has a deadline

    def refresh(self, version: int) -> None:
        vllm_for(self.model, self.max_rows).adopt(self.model, self)
        self.version = version

    def _generate(self, request: Request) -> list[Completion]:
        options, poll = request.options, request.poll
        asked = [request.prompts[number] for number in request.prompt_numbers()]
        process = self._ready()
        sheet = process.sheet = Sheet(request.uniforms, options, self.version)
        calls = _Requests(process)
        with self._clean(calls):
            self._submit(calls, asked, range(len(asked)), options)
            while calls.rows:
                if poll is not None and (weights := poll()) is not None:
                    self.load_weights(weights)
                    sheet.version = self.version
                    if request.recompute:
                        process.engine.reset_prefix_cache(reset_running_requests=True)
                    # prompts without a token may be computed in part with the old weights: submit them again
                    fresh = calls.cancel(lambda row: not sheet.count(row))
                    self._submit(calls, asked, fresh, options)
                if self._aborted.is_set():
                    break
                for row, output in calls.step():
                    said, drawn = list(output.outputs[0].token_ids), sheet.drafts[row].tokens[: sheet.count(row)]
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
                temperature=0.0,  # the processor leaves a single token
                max_tokens=options.max_new_tokens,
                stop_token_ids=list(options.stop_ids),
                ignore_eos=True,  # only the stop tokens of the call end an answer
                detokenize=False,
                extra_args={"row": row},
            )
            calls.add(row, asked[row], params, salt)

    @contextlib.contextmanager
    def _clean(self, calls: _Requests) -> Iterator[None]:
        """Cancel the remaining requests after a call; end vLLM after a failure (unknown state)."""
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
        """Return vLLM with this engine's weights."""
        process = vllm_for(self.model, self.max_rows)
        if process.owner is not self:
            process.adopt(self.model, self)
        return process


class _Requests:
    """Running requests to vLLM; `rows` maps their names to rows."""

    _names = itertools.count()

    def __init__(self, process: VllmProcess):
        self.process = process
        self.rows: dict[str, int] = {}
        self._inner: dict[str, str] = {}  # vLLM's names for them

    def add(self, row: int, prompt: list[int], params: SamplingParams, salt: str) -> None:
        """Submit a row. Prompts with the same salt share cached beginnings."""
        from vllm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.FINAL_ONLY
        name = str(next(self._names))
        given = TokensPrompt(prompt_token_ids=prompt, cache_salt=salt)
        self._inner[name] = self.process.engine.add_request(name, given, params)
        self.rows[name] = row

    def step(self) -> list[tuple[int, RequestOutput]]:
        """Run one step of vLLM; returns the finished rows with their outputs."""
        outputs = self.process.engine.step()
        return [(self.rows.pop(output.request_id), output) for output in outputs if output.finished]

    def cancel(self, which: Callable[[int], bool]) -> list[int]:
        """Cancel requests; returns their rows."""
        names = [name for name, row in self.rows.items() if which(row)]
        if names:
            self.process.engine.abort_request([self._inner[name] for name in names], internal=True)
        return [self.rows.pop(name) for name in names]
