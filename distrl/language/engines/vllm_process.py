"""The single vLLM of a process, shared by all engines around models of one shape.

vLLM schedules rows and computes forward passes. A logits processor draws the tokens with `token_sampling.draw` and
leaves vLLM a single token, so uniform numbers, supports, entropies and versions are those of the transformers engine.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import random
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distrl.base.errors import ConfigError, ResourceError
from distrl.language.engines.base import Completion, SamplingOptions
from distrl.language.engines.local import Draft, LocalEngine
from distrl.language.engines.token_sampling import draw
from distrl.language.models.model import LanguageModel, attention_shape
from distrl.language.models.weights import merged_state

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

#: Environment of vLLM: engine core in this process, and the model runner that calls logits processors.
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # scoring a full context asks for one token more, which is thrown away
    "VLLM_NO_USAGE_STATS": "1",
}

#: Cached tokens per row; with longer rows vLLM lets some of them wait.
CACHE_TOKENS, BLOCK = 1024, 128


class Sheet:
    """Tokens drawn in one call of `generate`, row by row; `version` may change between steps."""

    def __init__(self, uniforms: np.ndarray, options: SamplingOptions, version: int):
        self.uniforms, self.options, self.version = np.ascontiguousarray(uniforms, np.float64), options, version
        self.drafts = [Draft() for _ in uniforms]
        self.taken: dict[int, list[int]] = {}  # vLLM's own growing lists of the tokens it took

    def draw(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Draw the next token of each row from logits (n, V); (n,) int64.

        A token may be drawn twice: vLLM also samples rows whose prompt is computed in part, and drops the result.
        """
        places = [self.count(row) for row in rows]
        drawn = draw(logits.float(), torch.from_numpy(self.uniforms[rows, places]), self.options)
        for row, place, one in zip(rows, places, drawn.rows(), strict=True):
            self.drafts[row].put(place, one, self.version)
        return drawn.tokens

    def count(self, row: int) -> int:
        """Return the number of tokens that vLLM took of a row."""
        return len(self.taken.get(row, ()))

    def completion(self, row: int) -> Completion:
        """Return the partial completion of a row."""
        return self.drafts[row].completion(self.options, self.count(row))


def import_vllm() -> ModuleType:
    """Import the package `vllm`; raise ConfigError if it is not installed."""
    for name, value in SETTINGS.items():
        os.environ[name] = value
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about choices made here
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"language.engine is vllm, which cannot be imported: {error}.",
            "Install it (pip install 'distrl[vllm]'; for CPUs see tests/language/engines/setup_vllm.sh),"
            " or set language.engine=transformers.",
        ) from error
    return vllm


def shape_of(model: LanguageModel, max_rows: int) -> tuple[object, ...]:
    """Return the fixed properties of a started vLLM; models that agree in them can share one."""
    return model.config.to_json_string(), model.context, model.dtype, model.device.type, max_rows


def cache_bytes(model: LanguageModel, max_rows: int) -> int:
    """Return the bytes of keys and values: `CACHE_TOKENS` per row, at least a full context."""
    groups, size = attention_shape(model.config)
    rows = max_rows * math.ceil(min(model.context, CACHE_TOKENS) / BLOCK)
    blocks = max(rows, math.ceil((model.context + 1) / BLOCK)) + 2
    width = torch.tensor([], dtype=model.dtype).element_size()
    return 2 * model.config.num_hidden_layers * groups * size * width * blocks * BLOCK


def _check_head_size(model: LanguageModel) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known, (_, size) = CPUAttentionBackend.get_supported_head_sizes(), attention_shape(model.config)
    if size not in known:
        raise ConfigError(
            f"the model's heads have a size of {size}; vLLM on CPUs computes {known}.",
            "Set language.engine=transformers, or for a tiny model language.width so that width / heads is 32.",
        )


class VllmProcess:
    """A started vLLM.

    Attributes:
        engine: vLLM's `LLMEngine`.
        owner: Engine of the loaded weights.
        sheet: Sheet of the running call.
    """

    def __init__(self, model: LanguageModel, max_rows: int):
        vllm = import_vllm()
        if torch.distributed.is_initialized():
            raise ConfigError(
                "vLLM needs a process of its own, and this one is part of a learner's process group.",
                "Set learner.processes=1, or language.engine=transformers.",
            )
        self.shape = shape_of(model, max_rows)
        self.owner: LocalEngine | None = None
        self.sheet: Sheet | None = None
        self._eager = model.device.type == "cpu"
        if self._eager:
            _check_head_size(model)
        self._folder = tempfile.TemporaryDirectory(prefix="distrl-vllm-")
        config = type(model.config).from_dict(model.config.to_dict())
        config.architectures = [type(model.network).__name__]
        config.save_pretrained(self._folder.name)
        arguments = vllm.EngineArgs(
            model=self._folder.name,
            load_format="dummy",  # weights come from the model in memory
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype={torch.float32: "float32", torch.bfloat16: "bfloat16"}[model.dtype],
            max_model_len=model.context + 1,
            max_num_seqs=max_rows,
            block_size=BLOCK,
            kv_cache_memory_bytes=cache_bytes(model, max_rows),
            gpu_memory_utilization=0.1,  # only checked at the start, as the cache's size is given
            enable_prefix_caching=True,
            enforce_eager=self._eager,
            async_scheduling=False,  # a step's tokens must be known before the next one is drawn
            logits_processors=[_drawing_processor(self)],
            disable_log_stats=True,
            seed=0,
        )
        try:
            with _undisturbed():
                self.engine = vllm.LLMEngine.from_engine_args(arguments)
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise ResourceError(
                f"vLLM did not start for this model: {type(error).__name__}: {reason}",
                "Lower language.max_rows if memory ran out, or set language.engine=transformers.",
            ) from error
        self._runner = self.engine.model_executor.driver_worker.model_runner

    def adopt(self, model: LanguageModel, owner: LocalEngine) -> None:
        """Copy a model's weights, with adapters merged in."""
        self.owner = None  # until the copy is complete
        with torch.no_grad(), _quiet():
            self._runner.reload_weights(weights_iterator=iter(merged_state(model).items()))
            head = getattr(self._network, "lm_head", None)
            if head is not None and getattr(model.config, "tie_word_embeddings", False):
                # on CPUs layers keep a copy of their weight in the kernels' layout; a reload renews that of the
                # embedding, not that of an output layer tied to it
                head.quant_method.process_weights_after_loading(head)
        self.owner = owner

    @contextlib.contextmanager
    def scoring(self, temperature: float) -> Iterator[None]:
        """Divide logits by the temperature inside the block, those of prompts included."""
        network = self._network
        plain = network.compute_logits
        network.compute_logits = lambda hidden: plain(hidden).float() / temperature
        # on CPUs vLLM would call a C++ compiler for its unused ranks of prompt tokens
        stance = torch.compiler.set_stance("force_eager") if self._eager else contextlib.nullcontext()
        try:
            with stance:
                yield
        finally:
            del network.compute_logits  # restores the method of the class

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.owner = self.sheet = None
        self.engine.engine_core.shutdown()
        del self.engine, self._runner
        gc.collect()
        cleanup_dist_env_and_memory()
        self._folder.cleanup()

    @property
    def _network(self) -> Any:
        return self._runner.model


_running: VllmProcess | None = None


def vllm_for(model: LanguageModel, max_rows: int) -> VllmProcess:
    """Return the vLLM of this process, (re)started unless it fits the model.

    Raises:
        ConfigError: vLLM is not installed, or does not compute such a model.
        ResourceError: It did not start.
    """
    global _running
    if _running is not None and _running.shape != shape_of(model, max_rows):
        stop_vllm()
    if _running is None:
        _running = VllmProcess(model, max_rows)
    return _running


def stop_vllm() -> None:
    """End the vLLM of this process, if any; the next use starts another."""
    global _running
    ending, _running = _running, None
    if ending is not None:
        ending.close()


def _drawing_processor(process: VllmProcess) -> type:
    """Make the class of the logits processor that draws on the sheet of a process."""
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class Drawing(LogitsProcessor):
        def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool):
            self.rows: dict[int, int] = {}  # place in the batch -> row

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            process_dict_updates(self.rows, batch_update, self._row)

        def _row(self, params: SamplingParams, prompt: object, taken: list[int]) -> int | None:
            row = (params.extra_args or {}).get("row")
            if row is not None and process.sheet is not None:
                process.sheet.taken[row] = taken
            return row

        def apply(self, logits: Tensor) -> Tensor:
            if self.rows and process.sheet is not None:
                places = sorted(self.rows)
                chosen = logits[places]
                tokens = process.sheet.draw(chosen, [self.rows[place] for place in places])
                logits[places] = torch.full_like(chosen, -torch.inf).scatter_(1, tokens[:, None], 0.0)
            return logits

    return Drawing


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore random generators and `torch.set_num_threads`, which vLLM changes at its start."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    threads, dtype = torch.set_num_threads, torch.get_default_dtype()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_num_threads = threads
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence vLLM's warnings of a tied output layer without a weight."""
    logger = logging.getLogger("vllm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
